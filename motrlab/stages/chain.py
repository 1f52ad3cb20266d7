"""Which stage needs which, and what to do where one is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from motrlab.errors import UserError
from motrlab.run import Run

CHAIN = ("data", "float", "calibration", "qat", "fixed_point")
_NOTEBOOK = {
    "data": "01_data_prep",
    "float": "02_float_training",
    "calibration": "03_calibration",
    "qat": "04_qat",
    "fixed_point": "05_conversion",
}


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has left what the next one needs."""
    if stage == "data":
        return run.last_record("data", "data") is not None and (run.data / "test_lmdb").is_dir()
    if stage == "fixed_point":
        return (run.artifact / "manifest.json").is_file()
    return (run.checkpoints(stage) / "model.safetensors").is_file()


def require(run: Run, stage: str) -> None:
    """Make sure that `stage` has been run.

    On a `smoke` run missing stages are built, saying so; on any other a missing stage is a UserError that names the
    command to run.
    """
    missing = [s for s in CHAIN[: CHAIN.index(stage) + 1] if not is_done(run, s)]
    if not missing:
        return
    if run.config.preset != "smoke":
        notebook = _NOTEBOOK[missing[0]]
        raise UserError(
            f"run {run.name!r} has no stage {missing[0]!r} yet: "
            f"python -m motrlab run --run {run.name} --from {notebook} --to {_NOTEBOOK[stage]}"
        )
    print(f"smoke run {run.name!r}: building missing stages {', '.join(missing)}")
    for name in missing:
        _builders()[name](run)


def _builders() -> dict[str, Callable[[Run], Any]]:
    from motrlab.stages.data import prepare_data
    from motrlab.stages.deployment import convert
    from motrlab.stages.quantization import calibrate, train_qat
    from motrlab.stages.training import train_float

    functions: tuple[Callable[[Run], Any], ...] = (prepare_data, train_float, calibrate, train_qat, convert)
    return dict(zip(CHAIN, functions, strict=True))
