from __future__ import annotations

from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages import chain


def finish(run: Run, stage: str) -> None:
    """Leave what `is_done` looks for."""
    if stage == "data":
        (run.data / "test_lmdb").mkdir(parents=True)
        run.add_record("data", "data", {}, started=0.0)
        return
    file = (
        run.artifact / "manifest.json" if stage == "fixed_point" else run.checkpoints(stage) / "model.safetensors"
    )  # fmt: skip
    file.parent.mkdir(parents=True)
    file.write_text("")


def test_is_done(home: Path) -> None:
    run = Run.open("r", "smoke")
    for i, stage in enumerate(chain.CHAIN):
        finish(run, stage)
        assert [chain.is_done(run, s) for s in chain.CHAIN] == [j <= i for j in range(len(chain.CHAIN))]


def test_data_needs_both_its_record_and_its_files(home: Path) -> None:
    run = Run.open("r", "smoke")
    run.add_record("data", "data", {}, started=0.0)
    assert not chain.is_done(run, "data")
    (run.data / "test_lmdb").mkdir(parents=True)
    assert chain.is_done(run, "data")


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
    builders = {stage: lambda _, stage=stage: built.append(stage) for stage in chain.CHAIN}
    monkeypatch.setattr(chain, "_builders", lambda: builders)
    chain.require(run, "qat")
    assert built == ["float", "calibration", "qat"]
    assert "building missing stages float, calibration, qat" in capsys.readouterr().out


def test_every_stage_has_a_builder() -> None:
    pytest.importorskip("motrlab.quantization.qat", reason="the quantisation room is not complete")
    assert tuple(chain._builders()) == chain.CHAIN
