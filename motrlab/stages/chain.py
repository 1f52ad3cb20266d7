"""What to do where a stage is missing."""

from collections.abc import Callable
from typing import Any

from motrlab.errors import UserError, tell
from motrlab.lineage import stage_hash
from motrlab.names import lineage
from motrlab.run import Run

NOTEBOOK_OF = {
    "data": "01_data_prep", "float": "02_float_training", "calibration": "03_calibration", "qat": "04_qat",
    "float_extra": "04_qat", "fixed_point": "05_conversion",
}  # fmt: skip


def require(run: Run, stage: str) -> None:
    """Make sure that `stage` has been run, on what is there now.

    On a `smoke` run missing stages are built, saying so; on any other a missing stage is a UserError that names the
    command to run.
    """
    missing = [s for s in lineage(stage) if not run.has(s)]
    if missing and run.config.preset != "smoke":
        first = missing[0]
        problem = f"has no stage {first!r} yet"
        if stage_hash(run.path, first):
            problem = f"has an outdated stage {first!r}: its inputs or motrlab have changed"
        command = f"python -m motrlab run --run {run.name} --from {NOTEBOOK_OF[first]} --to {NOTEBOOK_OF[stage]}"
        raise UserError(f"run {run.name!r} {problem}: {command}")
    if missing:
        tell(f"smoke run {run.name!r}: building missing stages {', '.join(missing)}")
    for name in missing:
        _builders()[name](run)


def _builders() -> dict[str, Callable[[Run], Any]]:
    from motrlab.stages.data import prepare_data
    from motrlab.stages.deployment import convert
    from motrlab.stages.quantization import calibrate, train_float_extra, train_qat
    from motrlab.stages.training import train_float

    functions = (prepare_data, train_float, calibrate, train_qat, train_float_extra, convert)
    return dict(zip(NOTEBOOK_OF, functions, strict=True))
