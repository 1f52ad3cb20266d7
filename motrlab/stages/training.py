"""Stage `float`: operations counted, the model trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from motrlab.deploy.calops import count_operations
from motrlab.model.motr import build_motr
from motrlab.run import Run, write_text
from motrlab.stages.data import open_store
from motrlab.stages.order import replacing
from motrlab.training.trainer import FitResult
from motrlab.training.trainer import train_float as fit_float


def calops(run: Run) -> dict[str, Any]:
    """Parameters and multiply-accumulates of both graphs; record kind `calops`, its metrics returned."""
    started = time.time()
    operations = count_operations(build_motr(run.config.model), run.config.model)
    metrics: dict[str, float] = {}
    for graph, found in operations.items():
        metrics |= {f"{graph}.params": found.params, f"{graph}.macs": found.macs}
    run.add_record("float", "calops", metrics, started=started)
    return metrics


def train_float(run: Run, *, steps: int = 0, lr: float = 0.0) -> dict[str, Any]:
    """Train on the train halves; record kind `training`. `steps` and `lr` 0 mean the preset's.

    An interrupted training goes on where it was.
    """
    train = replace(run.config.train, steps=steps or run.config.train.steps, lr=lr or run.config.train.lr)
    config = replace(run.config, train=train)
    with replacing(run, "float"):
        _, result = fit_float(open_store(run, "train"), config, run.checkpoints("float"))
    return record_training(run, "float", result, config)


def record_training(run: Run, stage: str, result: FitResult, config: Any) -> dict[str, Any]:
    """A `training` record with the loss curve among its assets; its duration counts interrupted parts too."""
    run.assets.mkdir(parents=True, exist_ok=True)
    curve = run.assets / f"{stage}_loss.csv"
    write_text(curve, result.curve.read_text(encoding="utf-8"))
    metrics = {"steps": result.steps, **result.final}
    return run.add_record(
        stage, "training", metrics, started=time.time() - result.seconds, assets=[Path(curve)], config=config
    )
