"""Exponential moving average of a model's weights and BatchNorm statistics (Polyak and Juditsky, 1992)."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Ema(AveragedModel):
    """The average of a model's state over its `update_parameters`; of whole numbers the last value.

    The weight of what came first is corrected as in Adam (arXiv 1412.6980, section 3): after one update the average is
    the model itself, and the initial weights have no part in it. `decay`: 0 to 1, of one update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        assert 0 < decay < 1, decay
        super().__init__(model, multi_avg_fn=functools.partial(_take_in, decay), use_buffers=True)

    @property
    def average(self) -> dict[str, Any]:
        """The averaged state, under the model's names."""
        return self.module.state_dict()

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside the block `model` has the averaged state; after it its own again, bit by bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(own)


@torch.no_grad()
def _take_in(decay: float, averages: list[Tensor], values: list[Tensor], updates: Tensor | int) -> None:
    """Tensors of one type after `updates` earlier ones."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, values, (1 - decay) / (1 - decay ** (int(updates) + 1)))
    else:
        torch._foreach_copy_(averages, values)
