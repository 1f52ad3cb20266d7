from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.names import CHAIN, EVALUATED
from motrlab.run import Run
from motrlab.stages import chain
from motrlab.stages.agreement import measure_agreement

MISSING = {
    "nothing is there": ([], "data", "data", "--from 01_data_prep --to 01_data_prep"),
    "nothing is there for the last": ([], "fixed_point", "data", "--from 01_data_prep --to 05_conversion"),
    "data only": (["data"], "float", "float", "--from 02_float_training --to 02_float_training"),
    "no calibration": (["data", "float"], "qat", "calibration", "--from 03_calibration --to 04_qat"),
    "no artefact": (
        ["data", "float", "calibration", "qat"], "fixed_point", "fixed_point", "--from 05_conversion --to 05_conversion"
    ),
    "beside the chain": (["data", "float"], "float_extra", "float_extra", "--from 04_qat --to 04_qat"),
    "a hole": (["data", "calibration"], "calibration", "float", "--from 02_float_training --to 03_calibration"),
}  # fmt: skip


@pytest.mark.parametrize(("done", "stage", "missing", "command"), MISSING.values(), ids=MISSING)
def test_a_missing_stage_names_the_command(
    home: Path, done: list[str], stage: str, missing: str, command: str, make_stage: Callable[..., None]
) -> None:
    run = Run.open("mine", "street")
    for name in done:
        make_stage(run, name)
    with pytest.raises(UserError) as caught:
        chain.require(run, stage)
    assert f"run 'mine' has no stage '{missing}' yet" in str(caught.value)
    assert str(caught.value).endswith(f"python -m motrlab run --run mine {command}")
    assert "\n" not in str(caught.value)


def test_what_is_there_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch, make_stage: Callable[..., None]) -> None:
    run = Run.open("mine", "street")
    for name in ("data", "float"):
        make_stage(run, name)
    monkeypatch.setattr(chain, "_builders", lambda: pytest.fail("nothing to build"))
    chain.require(run, "float")


def test_smoke_runs_build_what_is_missing_in_order(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_stage: Callable[..., None]
) -> None:
    run = Run.open("s", "smoke")
    make_stage(run, "data")
    built: list[str] = []
    builders = {stage: lambda _, stage=stage: built.append(stage) for stage in CHAIN}
    monkeypatch.setattr(chain, "_builders", lambda: builders)
    chain.require(run, "qat")
    assert built == ["float", "calibration", "qat"]
    assert "building missing stages float, calibration, qat" in capsys.readouterr().err


def test_every_stage_has_a_builder() -> None:
    assert chain._builders().keys() == {*CHAIN, *EVALUATED}


def test_what_an_older_motrlab_or_another_model_left_is_not_enough(home: Path, make_stage: Callable[..., None]) -> None:
    run = Run.open("mine", "street")
    for name in ("data", "float", "calibration"):
        make_stage(run, name)
    run.model_file("float").write_text("trained again")
    with pytest.raises(UserError, match="has an outdated stage 'float': its inputs or motrlab have changed"):
        chain.require(run, "calibration")
    run.add_record("float", "training", {}, started=0.0)
    with pytest.raises(UserError, match="has an outdated stage 'calibration'"):
        chain.require(run, "calibration")
    assert run.model_file("calibration").is_file()


def test_an_artefact_of_another_model_is_not_compared(home: Path, make_stage: Callable[..., None]) -> None:
    run = Run.open("mine", "street")
    for name in CHAIN:
        make_stage(run, name)
    make_stage(run, "qat", "trained again")
    with pytest.raises(UserError, match="has an outdated stage 'fixed_point'"):
        measure_agreement(run)
