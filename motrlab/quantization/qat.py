"""Quantisation-aware training: the float training's loop on the calibrated, fake-quantised graphs.

Starts from the calibrated state. Observers move the ranges for the first part of the steps and are then frozen;
weight scales always follow the weights, and one last forward pass brings them up to date (they would be one update
stale).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import Config, QatConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.data.store import FrameStore
from motrlab.model.motr import Motr
from motrlab.quantization.distillation import DistillingGraphs
from motrlab.quantization.fake_quantize import PerChannelFakeQuantize
from motrlab.quantization.prepare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.training.checkpoint import state_hash
from motrlab.training.clip_loop import clip_loss, clip_objects
from motrlab.training.criterion import ClipLoss
from motrlab.training.trainee import Trainee
from motrlab.training.trainer import FitResult, fit


class QatClips(nn.Module):
    """What QAT trains: `quantised`, called with a batch of clips and giving their loss.

    `teacher`: the folded float model that `config.qat.distill` needs; it is no part of the module.
    """

    def __init__(self, quantised: QuantizedMotr, config: Config, teacher: Motr | None = None) -> None:
        super().__init__()
        self.quantised = quantised
        self.config = config
        self._teacher = (teacher,)

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        return qat_loss(self.quantised, batch, self.config, rngs, self._teacher[0])


def qat_trainee(
    quantised: QuantizedMotr, config: Config, *, teacher: Motr | None = None, quantise: bool = True
) -> Trainee:
    """QAT of the calibrated `quantised` by the schedule of `config.qat`, for `fit` with `qat_config(config)`.

    With `quantise` false the quantisers stay off: the same training of the float model, to compare with.
    """
    adapted = qat_config(config)
    frozen_from = round(config.qat.freeze_observers * config.qat.steps)

    def prepare(step: int) -> None:
        quantised.mode(("train" if step < frozen_from else "train_frozen") if quantise else "float")

    return Trainee(
        clips=QatClips(quantised, adapted, teacher),
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
    teacher: Motr | None = None,
    quantise: bool = True,
    validate: Callable[[int], Mapping[str, float | None]] | None = None,
) -> FitResult:
    """Train the calibrated `quantised` in place for `config.qat.steps` updates; ends in mode `evaluate`.

    `folder` gets `model.safetensors` (see `QuantizedMotr.load`), `training.safetensors` on the way (a rerun goes on
    from it) and `loss.csv`. `teacher`: the folded float model, needed by `config.qat.distill`. With `quantise` false
    the float model is trained instead, on the same clips at the same rates, and the mode at the end is `float`.
    """
    assert teacher is not None or not (quantise and config.qat.distill), "distillation needs the float model"
    trainee = qat_trainee(quantised, config, teacher=teacher if quantise else None, quantise=quantise)
    origin = state_hash(quantised) + ("" if quantise else " float")
    result = fit(trainee, store, qat_config(config), folder, validate=validate, origin=origin)
    if quantise:
        refresh_weight_scales(quantised)
    if result.is_main:
        quantised.save(folder / "model.safetensors", config)
    return result


def qat_loss(
    quantised: QuantizedMotr,
    batch: ClipBatch,
    config: Config,
    rngs: Sequence[np.random.Generator],
    teacher: Motr | None = None,
) -> ClipLoss:
    """The clip-collective loss of the graphs on one batch; `rngs`: one generator per clip.

    With a `teacher`, plus `config.qat.distill` times the distance from it, kind `distill`.
    """
    frames, objects = batch.images.unbind(0), clip_objects(batch)
    if teacher is None or not config.qat.distill:
        return clip_loss(quantised.graphs, frames, objects, config.model, config.train, rngs)
    graphs = DistillingGraphs(quantised.graphs, teacher.to(frames[0].device), config.train)
    loss = clip_loss(graphs, frames, objects, config.model, config.train, rngs)
    distance = graphs.total * config.qat.distill
    assert isinstance(distance, Tensor)
    table = torch.zeros_like(next(iter(loss.terms.values())))
    table[-1, -1] = distance.detach()
    return loss.plus("distill", distance, table)


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
        # Observers count what passes through them; averages and copies would need fresh weight scales.
        checkpoint_frames=False,
        ema_decay=0.0,
        best_metric="",
        keep_every=0,
        checkpoint_every=max(1, min(train.checkpoint_every, qat.steps // 4)),
    )


def refresh_weight_scales(quantised: QuantizedMotr) -> None:
    """One forward pass in which only weight scales move; ends in mode `evaluate`."""
    quantised.mode("evaluate")
    for module in quantised.fake_quantizers():
        if isinstance(module, PerChannelFakeQuantize):
            module.set_mode(observing=True, quantising=True)
    device = next(quantised.parameters()).device
    with torch.no_grad():
        for graph, inputs in zip((quantised.base, quantised.qim), example_inputs(quantised.config), strict=True):
            graph(*(x.to(device) for x in inputs))
    quantised.mode("evaluate")
