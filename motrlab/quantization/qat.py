"""Quantisation-aware training: the float training's loop on the calibrated, fake-quantised graphs.

Starts from the calibrated state. Observers move the ranges for the first part of the steps and are then frozen;
weight scales always follow the weights, and one last forward pass brings them up to date (they would be one update
stale).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motrlab.config import Config, QatConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.data.store import FrameStore
from motrlab.quantization.fake_quantize import PerChannelFakeQuantize
from motrlab.quantization.prepare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.training.clip_loop import clip_loss
from motrlab.training.criterion import ClipLoss
from motrlab.training.trainer import FitResult, clip_objects, fit


def train_qat(
    quantised: QuantizedMotr,
    store: FrameStore,
    config: Config,
    folder: Path,
    *,
    validate: Callable[[Any, int], None] | None = None,
) -> FitResult:
    """Train the calibrated `quantised` in place for `config.qat.steps` updates; ends in mode `evaluate`.

    `folder` gets `model.safetensors` (see `QuantizedMotr.load`), `training.safetensors` on the way (a rerun goes on
    from it) and `loss.csv`.
    """
    adapted = qat_config(config)
    frozen_from = round(config.qat.freeze_observers * config.qat.steps)

    def before_step(step: int) -> None:
        quantised.mode("train" if step < frozen_from else "train_frozen")

    def loss(batch: ClipBatch, rng: np.random.Generator) -> ClipLoss:
        return qat_loss(quantised, batch, adapted, rng)

    result = fit(
        quantised,
        loss,
        store,
        adapted,
        folder,
        prepare_mode=lambda: None,
        before_step=before_step,
        validate=validate,
        origin=state_hash(quantised),
    )
    refresh_weight_scales(quantised)
    quantised.save(folder / "model.safetensors", config)
    return result


def qat_loss(quantised: QuantizedMotr, batch: ClipBatch, config: Config, rng: np.random.Generator) -> ClipLoss:
    """The clip-collective loss of the fake-quantised graphs on one batch."""
    frames = batch.images.unbind(0)
    return clip_loss(quantised.graphs, frames, clip_objects(batch), config.model, config.train, rng)


def qat_config(config: Config) -> Config:
    """`config` with a float training that has QAT's length, learning rates and clips.

    Every parameter has the same rate, and there is no bf16: it would hide the rounding that is trained against.
    """
    return dataclasses.replace(config, train=_train_config(config.train, config.qat))


def _train_config(train: TrainConfig, qat: QatConfig) -> TrainConfig:
    return dataclasses.replace(
        train,
        steps=qat.steps,
        lr=qat.lr,
        weight_decay=qat.weight_decay,
        backbone_lr_factor=1.0,
        offset_lr_factor=1.0,
        schedule="step",
        step_milestones=qat.lr_milestones,
        warmup=0.0,
        clip_frames=(qat.clip_frames,),
        clip_milestones=(),
        bf16=False,
        checkpoint_every=max(1, min(train.checkpoint_every, qat.steps // 4)),
    )


def state_hash(quantised: QuantizedMotr) -> str:
    """First 12 hex digits of the SHA-256 of parameters and scales: what a training started from."""
    digest = hashlib.sha256()
    for name, value in sorted(quantised.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


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
