"""Exponential moving average of a model's weights and BatchNorm statistics (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The average of a model's state over its updates; of whole numbers (`num_batches_tracked`) the last value.

    The weight of what came first is corrected as in Adam (arXiv 1412.6980, section 3): after one update the average is
    the model itself, and the initial weights have no part in it.

    Args:
        model: on its device; only names and shapes are taken from it.
        decay: 0 to 1, of one update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        assert 0 < decay < 1, decay
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the state of `model` after one optimiser step."""
        self.updates += 1
        weight = (1 - self.decay) / (1 - self.decay**self.updates)
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.average[name])
                values.append(value)
            else:
                self.average[name].copy_(value)
        torch._foreach_lerp_(averages, values, weight)

    def load(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint."""
        self.updates = updates
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside the block `model` has the averaged state; after it its own again, bit by bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(own)
