"""What a training trains, apart from how: float training here, QAT in `motrlab.quantization.qat`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import Config, ModelConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.model.efficientnet import freeze_batch_norm
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.tracking.step import Graphs
from motrlab.training.checkpoint import save_model
from motrlab.training.clip_loop import clip_loss, with_calls
from motrlab.training.criterion import ClipLoss
from motrlab.training.denoising import Denoising
from motrlab.training.memory import checkpointed

# What only training has: the field of `TrainConfig` that asks for it, and a module that makes a `clip_loop.Extra` of a
# batch's objects and random generators. A new kind is a file, its field and an entry here.
EXTRAS: dict[str, Callable[[ModelConfig, TrainConfig], nn.Module]] = {"denoising_groups": Denoising}


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


class ClipModel(nn.Module):
    """What float training trains: `motr`, and what only training has; called with clips, it gives their loss."""

    def __init__(self, motr: Motr, config: TrainConfig) -> None:
        super().__init__()
        self.motr, self.config = motr, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            extras = [make(motr.config, config) for field, make in EXTRAS.items() if getattr(config, field)]
        self.extras = nn.ModuleList(extras)

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        graphs: Graphs = MotrGraphs(self.motr, encoded=True)
        if self.config.checkpoint_frames:  # frame by frame, or the backbone's activations of all would exist at once
            values = [checkpointed(self._value_maps, image) for image in batch.images]
            calls = {name: functools.partial(checkpointed, getattr(graphs, name)) for name in ("base", "qim")}
            graphs = with_calls(graphs, **calls)  # the decision between them stays outside: it is made once
        else:
            values = self._value_maps(batch.images.flatten(0, 1)).split(batch.images.shape[1], 1)
        # The decoder's tensors are small: casting them costs more than bf16 saves, and boxes want float32.
        with torch.autocast(batch.images.device.type, enabled=False):
            extras = [extra(batch.objects, rngs) for extra in self.extras]
            return clip_loss(graphs, values, batch.objects, self.motr.config, self.config, rngs, extras)

    def _value_maps(self, images: Tensor) -> Tensor:
        """`[B, 3, height, width]` → `[L, B, C, H, W]`, float32."""
        memory = self.motr.base.encode(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return self.motr.base.value_maps(memory)


def float_trainee(model: Motr, config: Config) -> Trainee:
    """Float training of `model`. With `freeze_bn`, statistics stay as they came: from ImageNet, from a detector."""

    def prepare(step: int) -> None:
        model.train()  # a validation has called eval()
        if config.train.freeze_bn:
            freeze_batch_norm(model)

    return Trainee(
        clips=ClipModel(model, config.train),
        model=model,
        prepare=prepare,
        save=lambda path: save_model(path, model, config),
        facts={"kind": "float", "config": config.to_dict()},
    )
