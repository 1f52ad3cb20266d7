"""What to do where a stage is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.order import CHAIN, is_done

_NOTEBOOK = {
    "data": "01_data_prep",
    "float": "02_float_training",
    "calibration": "03_calibration",
    "qat": "04_qat",
    "fixed_point": "05_conversion",
}


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
    # On stderr: `evaluate` and `perf` have JSON on stdout.
    print(f"smoke run {run.name!r}: building missing stages {', '.join(missing)}", file=sys.stderr)
    for name in missing:
        _builders()[name](run)


def _builders() -> dict[str, Callable[[Run], Any]]:
    from motrlab.stages.data import prepare_data
    from motrlab.stages.deployment import convert
    from motrlab.stages.quantization import calibrate, train_qat
    from motrlab.stages.training import train_float

    functions: tuple[Callable[[Run], Any], ...] = (prepare_data, train_float, calibrate, train_qat, convert)
    return dict(zip(CHAIN, functions, strict=True))
