from __future__ import annotations

from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages import chain, order


def finish(run: Run, stage: str) -> None:
    """Leave what `is_done` looks for."""
    if stage == "data":
        for part in ("train", "test"):
            (run.data / f"{part}_lmdb").mkdir(parents=True)
        run.add_record("data", "data", {}, started=0.0)
        return
    file = (
        run.artifact / "manifest.json" if stage == "fixed_point" else run.checkpoints(stage) / "model.safetensors"
    )  # fmt: skip
    file.parent.mkdir(parents=True)
    file.write_text("")


def test_is_done(home: Path) -> None:
    run = Run.open("r", "smoke")
    for i, stage in enumerate(order.CHAIN):
        finish(run, stage)
        assert [order.is_done(run, s) for s in order.CHAIN] == [j <= i for j in range(len(order.CHAIN))]


def test_data_needs_both_its_record_and_its_files(home: Path) -> None:
    run = Run.open("r", "smoke")
    run.add_record("data", "data", {}, started=0.0)
    assert not order.is_done(run, "data")
    (run.data / "test_lmdb").mkdir(parents=True)
    assert not order.is_done(run, "data")
    (run.data / "train_lmdb").mkdir()
    assert order.is_done(run, "data")


MISSING = {
    "nothing is there": ([], "data", "data", "--from 01_data_prep --to 01_data_prep"),
    "nothing is there for the last": ([], "fixed_point", "data", "--from 01_data_prep --to 05_conversion"),
    "data only": (["data"], "float", "float", "--from 02_float_training --to 02_float_training"),
    "no calibration": (["data", "float"], "qat", "calibration", "--from 03_calibration --to 04_qat"),
    "no artefact": (
        ["data", "float", "calibration", "qat"], "fixed_point", "fixed_point", "--from 05_conversion --to 05_conversion"
    ),
    "a hole": (["data", "calibration"], "calibration", "float", "--from 02_float_training --to 03_calibration"),
}  # fmt: skip


@pytest.mark.parametrize(("done", "stage", "missing", "command"), MISSING.values(), ids=MISSING)
def test_a_missing_stage_names_the_command(home: Path, done: list[str], stage: str, missing: str, command: str) -> None:
    run = Run.open("mine", "street")
    for name in done:
        finish(run, name)
    with pytest.raises(UserError) as caught:
        chain.require(run, stage)
    assert f"run 'mine' has no stage '{missing}' yet" in str(caught.value)
    assert str(caught.value).endswith(f"python -m motrlab run --run mine {command}")
    assert "\n" not in str(caught.value)


def test_what_is_there_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open("mine", "street")
    for name in ("data", "float"):
        finish(run, name)
    monkeypatch.setattr(chain, "_builders", lambda: pytest.fail("nothing to build"))
    chain.require(run, "float")


def test_smoke_runs_build_what_is_missing_in_order(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open("s", "smoke")
    finish(run, "data")
    built: list[str] = []
    builders = {stage: lambda _, stage=stage: built.append(stage) for stage in order.CHAIN}
    monkeypatch.setattr(chain, "_builders", lambda: builders)
    chain.require(run, "qat")
    assert built == ["float", "calibration", "qat"]
    assert "building missing stages float, calibration, qat" in capsys.readouterr().err


def test_every_stage_has_a_builder() -> None:
    assert tuple(chain._builders()) == order.CHAIN


def test_a_changed_model_takes_its_descendants_along(home: Path) -> None:
    """A report must not set a QAT model beside a float model that it does not come from."""
    run = Run.open("r", "smoke")
    files = {stage: run.checkpoints(stage) / "model.safetensors" for stage in ("float", "calibration", "qat")}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"old")
    run.artifact.mkdir(exist_ok=True)
    with order.replacing(run, "float"):
        files["float"].write_bytes(b"old")  # the same again
    assert all(file.is_file() for file in files.values())
    assert run.artifact.is_dir()
    with order.replacing(run, "calibration"):
        files["calibration"].write_bytes(b"new")
    assert files["float"].is_file()
    assert not files["qat"].exists()
    assert not run.artifact.exists()
