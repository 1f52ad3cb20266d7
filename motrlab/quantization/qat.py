"""Quantisation-aware training: the float training's loop on the calibrated model in fixed point.

Starts from the ranges of calibration and the weights of the float model. Activations are on their grids; weights are
trained in float, and rounded adaptively at the end. Ranges that an observer averages
or takes the largest of move for the first part of the steps and are then frozen; those that were chosen from a
histogram (percentile, MSE, KL) stay as calibration chose them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from motrlab.config import Config, QatConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.data.store import FrameStore
from motrlab.quantization.calibration import round_again
from motrlab.quantization.quantized import QuantizedGraphs, QuantizedMotr
from motrlab.training.checkpoint import state_hash
from motrlab.training.clip_loop import clip_loss
from motrlab.training.criterion import ClipLoss
from motrlab.training.trainee import Trainee
from motrlab.training.trainer import FitResult, fit


class QatClips(nn.Module):
    """What QAT trains: `quantised`, called with a batch of clips and giving their loss."""

    def __init__(self, quantised: QuantizedMotr, config: Config) -> None:
        super().__init__()
        self.quantised = quantised
        self.config = config

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        return qat_loss(self.quantised, batch, self.config, rngs)


def qat_trainee(quantised: QuantizedMotr, config: Config, *, quantise: bool = True) -> Trainee:
    """QAT of the calibrated `quantised` by the schedule of `config.qat`, for `fit` with `qat_config(config)`.

    With `quantise` false the quantisers stay off: the same training of the float model, to compare with.
    """
    adapted = qat_config(config)
    frozen_from = round(config.qat.freeze_observers * config.qat.steps)

    learned = quantise and config.qat.learn_scales
    quantised.ranges.scale.requires_grad_(learned)

    def prepare(step: int) -> None:
        if learned:
            quantised.ranges.keep_positive()
        else:
            quantised.ranges.advance()
        moving = step < frozen_from and not learned
        quantised.mode(("train" if moving else "train_frozen") if quantise else "float")

    return Trainee(
        clips=QatClips(quantised, adapted),
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
    *,
    quantise: bool = True,
    videos: Sequence[Iterable[Tensor]] = (),
    validate: Callable[[int], Mapping[str, float | None]] | None = None,
) -> FitResult:
    """Train the calibrated `quantised` in place for `config.qat.steps` updates; ends in mode `evaluate`.

    Activations are on their grids throughout. Weights are trained in float and rounded adaptively at the end, on
    `videos` (what calibration watched): training moves them by many grid points, and rounding to nearest, at every
    step as at the end, makes ten times the noise.
    `folder` gets `model.safetensors` at the end (see `QuantizedMotr.load`), and on the way what `trainer.fit` writes.
    With `quantise` false the float model is trained instead, on the same clips at the same rates, and the mode at the
    end is `float`.
    """
    trainee = qat_trainee(quantised, config, quantise=quantise)
    origin = state_hash(quantised) + ("" if quantise else " float")
    result = fit(trainee, store, qat_config(config), folder, validate=validate, origin=origin)
    if quantise:
        trainee.prepare(config.qat.steps)  # what the last step has moved
        round_again(quantised, videos, config)
    else:
        quantised.mode("float")
    if result.is_main:
        quantised.save(folder / "model.safetensors", config)
    return result


def qat_loss(
    quantised: QuantizedMotr, batch: ClipBatch, config: Config, rngs: Sequence[np.random.Generator]
) -> ClipLoss:
    """The clip-collective loss of the graphs on one batch; `rngs`: one generator per clip."""
    base, net = quantised.model.base, quantised.net
    net.refresh()  # integers of the weights are part of this step's graph
    maps = base.value_maps(base.encode(batch.images.flatten(0, 1), net), net)  # of all frames at once
    frames = maps.split(batch.images.shape[1], 1)
    graphs = QuantizedGraphs(quantised, encoded=True)
    return clip_loss(graphs, frames, batch.objects, config.model, config.train, rngs)


def qat_config(config: Config) -> Config:
    """`config` with a float training that has QAT's length, learning rates and clips.

    Every parameter has the same rate, and there is no bf16: it would hide the rounding that is trained against.
    """
    return dataclasses.replace(config, train=_train_config(config.train, config.qat))


def _train_config(train: TrainConfig, qat: QatConfig) -> TrainConfig:
    return dataclasses.replace(
        train,
        steps=qat.steps,
        optimizer="adamw",
        lr=qat.lr,
        weight_decay=qat.weight_decay,
        backbone_lr_factor=1.0,
        offset_lr_factor=1.0,
        schedule="step",
        step_milestones=qat.lr_milestones,
        warmup=0.0,
        clip_frames=(qat.clip_frames,),
        clip_milestones=(),
        clip_epochs=(),
        bf16=False,
        # Observers count what passes through them, once.
        checkpoint_frames=False,
        ema_decay=0.0,
        keep_every=0,
        checkpoint_every=max(1, min(train.checkpoint_every, qat.steps // 4)),
    )
