"""Stage `float`: operations counted, the model trained."""

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from motrlab.config import Config
from motrlab.config.scheme import Scheme
from motrlab.deploy.calops import Ops, count_operations, totals
from motrlab.errors import UserError, tell
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.files import write_text
from motrlab.model.efficientnet import freeze_stages
from motrlab.model.motr import Motr, MotrGraphs, build_motr, folded_copy
from motrlab.quantization.qat import qat_config, qat_trainee
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run, exclusive
from motrlab.stages.accuracy import Engine, torch_engine, track_part
from motrlab.stages.data import open_store, read_ground_truth
from motrlab.training.checkpoint import load_tensors
from motrlab.training.distributed import is_main_process, launch
from motrlab.training.initial_weights import initial_model
from motrlab.training.late_entrants import late_entrants
from motrlab.training.replay import replay_step
from motrlab.training.trainee import float_trainee
from motrlab.training.trainer import FitResult
from motrlab.training.trainer import train_float as fit_float


def calops(run: Run) -> dict[str, Ops]:
    """Parameters and multiply-accumulates of `base` and `qim`; record kind `calops`."""
    started = time.time()
    found = count_operations(build_motr(run.config.model), run.config.model)
    run.add_record("float", "calops", totals(found), started=started, made_from=())
    return found


@exclusive
def train_float(
    run: Run, *, steps: int = 0, lr: float = 0.0, init: str | None = None, num_processes: int = 1
) -> dict[str, Any]:
    """Train on the train halves; record kind `training`. `steps` and `lr` 0, and `init` None, mean the preset's.

    An interrupted training goes on where it was. `num_processes` above 1 starts so many on this machine (one for each
    GPU, where there are any) and waits for them. Validations on the way leave `training` records of their own. Of
    several processes only the first writes; the others get an empty record.
    """
    if num_processes > 1:
        own = [] if init is None else ["--init", init]
        launch(["--run", run.name, "--steps", str(steps), "--lr", repr(lr), *own], num_processes)
        return dict(run.last_record("float", "training") or {})
    train = run.config.train
    init = train.init if init is None else init
    config = replace(run.config, train=replace(train, steps=steps or train.steps, lr=lr or train.lr, init=init))
    start, report = initial_model(config)
    if report is not None and is_main_process():
        tell(report.table())
    validate = functools.partial(validate_float, run, config)
    store = open_store(run, "train")
    model, result = fit_float(store, config, run.checkpoints("float"), start=start, validate=validate)
    if not result.is_main:
        return {}
    late = check_late_entrants(run, config, model)
    extra = {**late, **result.memory.metrics(), **(report.metrics() if report else {})}
    return record_training(run, "float", result, config, extra)


def replay(file: Path) -> str:
    """Take the step again that stopped a training because something was not finite; what is found.

    Raises UserError if the file is none of a training's.
    """
    _, facts = load_tensors(file)
    if facts.get("kind") not in ("float", "qat"):
        raise UserError(f"{file}: not a step saved by a training; give a replay-*.safetensors file")
    config = Config.from_dict(facts["config"])
    model = build_motr(config.model)
    if facts["kind"] == "float":
        freeze_stages(model.base.backbone, config.train.frozen_stages)
        return replay_step(file, float_trainee(model, config), config)
    quantised = QuantizedMotr(folded_copy(model), Scheme.from_dict(facts["scheme"]))
    return replay_step(file, qat_trainee(quantised, config), qat_config(config))


def validate_float(run: Run, config: Config, model: Motr, step: int) -> dict[str, float | None]:
    """Score `model`, in eval mode, on the first frames of every test half; record kind `training`.

    Its metrics have the plain names (`idf1`, protocol motchallenge), with `validation_step`: by that a record of a
    validation is told from that of a whole training.
    """
    started = time.time()
    num_frames = config.train.validate_frames
    tracks = track_part(run, _engine(config, model), "test", num_frames=num_frames)
    gt = {name: found.select(found.frame <= num_frames) for name, found in read_ground_truth(run).items()}
    classes = open_store(run).classes
    scores = {**evaluate(gt, tracks, classes=classes)[OVERALL], **check_late_entrants(run, config, model)}
    metrics = {"validation_step": step, "validation_frames": num_frames, **scores}
    finite = {name: None if value is not None and math.isnan(value) else value for name, value in metrics.items()}
    # A training that was killed and goes on makes again the validations after its last checkpoint.
    if not any((r["config_hash"], r["metrics"]) == (config.hash, finite) for r in run.records("float", "training")):
        run.add_record("float", "training", finite, started=started, config=config, made_from=("data",))
    return finite


def check_late_entrants(run: Run, config: Config, model: Motr) -> dict[str, float | None]:
    """The late-entrant check on the test halves; `model` in eval mode."""
    engine, clips = _engine(config, model), config.train.late_entrant_clips
    store = open_store(run, "test")
    with torch.no_grad():
        return late_entrants(engine.graphs, store, engine.preprocess, config.model, num_clips=clips, seed=config.seed)


def _engine(config: Config, model: Motr) -> Engine:
    return torch_engine(MotrGraphs(model), config.model, next(model.parameters()).device)


def record_training(
    run: Run, stage: str, result: FitResult, config: Config, extra: Mapping[str, float | None] | None = None
) -> dict[str, Any]:
    """A `training` record with the loss curve among its assets; its duration counts interrupted parts too."""
    curve = run.assets / f"{stage}_loss.csv"
    write_text(curve, result.curve.read_text(encoding="utf-8"))
    metrics, started = {"steps": result.steps, **result.final, **(extra or {})}, time.time() - result.seconds
    return run.add_record(stage, "training", metrics, started=started, assets=[curve], config=config)
