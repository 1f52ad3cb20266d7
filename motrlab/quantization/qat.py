"""Quantisation-aware training: the float training's loop on the calibrated model in fixed point.

Starts from the ranges of calibration and the weights of the float model. Activations are on their grids; weights are
trained in float, and rounded adaptively at the end. Ranges that an observer averages or takes the largest of move for
the first part of the steps; those that were chosen from a histogram (percentile, MSE, KL) stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from motrlab.config import Config
from motrlab.config.scheme import MIN_SCALE
from motrlab.data.clips import ClipBatch
from motrlab.data.store import FrameStore
from motrlab.lineage import config_hash
from motrlab.quantization.calibration import Videos, round_again
from motrlab.quantization.quantized import QuantizedGraphs, QuantizedMotr
from motrlab.training.checkpoint import state_hash
from motrlab.training.clip_loop import clip_loss
from motrlab.training.criterion import ClipLoss
from motrlab.training.trainee import Trainee
from motrlab.training.trainer import FitResult, fit


class QatClips(nn.Module):
    """What QAT trains: `quantised`, called with a batch of clips and giving their clip-collective loss."""

    def __init__(self, quantised: QuantizedMotr, config: Config) -> None:
        super().__init__()
        self.quantised, self.config = quantised, config

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        base, net, config = self.quantised.model.base, self.quantised.net, self.config
        net.refresh()  # integers of the weights are part of this step's graph
        maps = base.value_maps(base.encode(batch.images.flatten(0, 1), net), net)  # of all frames at once
        frames = maps.split(batch.images.shape[1], 1)
        graphs = QuantizedGraphs(self.quantised.model, encoded=True, net=net)
        return clip_loss(graphs, frames, batch.objects, config.model, config.train, rngs)


def qat_trainee(quantised: QuantizedMotr, config: Config, *, quantise: bool = True) -> Trainee:
    """QAT of a calibrated model, for `fit` with `qat_config(config)`; without `quantise` in float, to compare."""
    frozen_from = round(config.qat.freeze_observers * config.qat.steps)
    learned = quantise and config.qat.learn_scales
    quantised.ranges.scale.requires_grad_(learned)

    def prepare(step: int) -> None:
        if learned:
            quantised.ranges.scale.data.clamp_(min=MIN_SCALE)
        else:
            quantised.ranges.advance()
        moving = step < frozen_from and not learned
        quantised.mode(("train" if moving else "evaluate") if quantise else "float")

    return Trainee(
        clips=QatClips(quantised, qat_config(config)),
        model=quantised,
        prepare=prepare,
        save=lambda path: quantised.save(path, config),
        facts={"kind": "qat", "config": config.to_dict(), "scheme": quantised.scheme.to_dict()},
    )


def train_qat(
    quantised: QuantizedMotr,
    store: FrameStore,
    config: Config,
    folder: Path,
    videos: Videos = (),
    quantise: bool = True,
) -> FitResult:
    """Train the calibrated `quantised` in place for `config.qat.steps` updates; ends in mode `evaluate`.

    Weights are rounded adaptively at the end, on `videos` (what calibration watched): training moves them by many grid
    points, and rounding to nearest, at every step as at the end, makes ten times the noise. `folder` gets
    `model.safetensors` (see `QuantizedMotr.load`), and on the way what `trainer.fit` writes. With `quantise` false the
    float model is trained instead, on the same clips at the same rates; it ends in mode `float`.
    """
    trainee = qat_trainee(quantised, config, quantise=quantise)
    stage = "qat" if quantise else "float_extra"
    origin = f"{state_hash(quantised)} {stage} {config_hash(config, stage, 'training')}"
    result = fit(trainee, store, qat_config(config), folder, origin=origin)
    if quantise:
        trainee.prepare(config.qat.steps)  # what the last step has moved
        round_again(quantised, videos, config)
    else:
        quantised.mode("float")
    if result.is_main:
        quantised.save(folder / "model.safetensors", config)
    return result


def qat_config(config: Config) -> Config:
    """`config` with a float training that has QAT's length, learning rates and clips.

    Every parameter has the same rate. There is no bf16, which would hide the rounding that is trained against, and no
    frame is computed twice: observers count what passes through them.
    """
    qat, train = config.qat, config.train
    steps: dict[str, Any] = {
        "steps": qat.steps,
        "checkpoint_every": max(1, min(train.checkpoint_every, qat.steps // 4)),
    }
    adamw: dict[str, Any] = {"optimizer": "adamw", "lr": qat.lr, "weight_decay": qat.weight_decay}
    rates: dict[str, Any] = {"schedule": "step", "step_milestones": qat.lr_milestones, "warmup": 0.0}
    rates |= {"backbone_lr_factor": 1.0, "offset_lr_factor": 1.0}
    clips: dict[str, Any] = {"clip_frames": (qat.clip_frames,), "clip_milestones": (), "clip_epochs": ()}
    off: dict[str, Any] = {"bf16": False, "checkpoint_frames": False, "ema_decay": 0.0, "keep_every": 0}
    return replace(config, train=replace(train, **steps, **adamw, **rates, **clips, **off))
