"""What a training trains, apart from how: float training here, QAT in `motrlab.quantization.qat`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from motrlab.config import Config
from motrlab.model.efficientnet import freeze_batch_norm
from motrlab.model.motr import Motr
from motrlab.training.checkpoint import save_model
from motrlab.training.clip_loop import ClipModel


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """What `fit` trains.

    `clips(batch, generators)` gives a `ClipLoss`. `model`, a part of it, is what is validated and saved.
    `prepare(step)` sets modes before an update. `save(path)` writes `model` for the stages after. `facts` tell how to
    make `clips` again.
    """

    clips: nn.Module
    model: nn.Module
    prepare: Callable[[int], None]
    save: Callable[[Path], None]
    facts: Mapping[str, Any] = field(default_factory=dict)


def float_trainee(model: Motr, config: Config) -> Trainee:
    """Float training of `model`. With `freeze_bn`, statistics stay as they came: from ImageNet, from a detector."""

    ready = False

    def prepare(step: int) -> None:
        nonlocal ready
        if ready and model.training:  # nobody has called eval() since
            return
        model.train()
        if config.train.freeze_bn:
            freeze_batch_norm(model)
        ready = True

    return Trainee(
        clips=ClipModel(model, config.train),
        model=model,
        prepare=prepare,
        save=lambda path: save_model(path, model, config),
        facts={"kind": "float", "config": config.to_dict()},
    )
