"""Both graphs as one module, so that one optimiser and one checkpoint hold them."""

from __future__ import annotations

import torch
from torch import nn

from motrlab.config import ModelConfig
from motrlab.model.base import BaseGraph
from motrlab.model.efficientnet import fold_batch_norm
from motrlab.model.qim import QueryInteraction


class Motr(nn.Module):
    """`base` and `qim`; parameter names are `base.…` and `qim.…`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.base = BaseGraph(config)
        self.qim = QueryInteraction(config)


def build_motr(config: ModelConfig, seed: int = 0) -> Motr:
    """A model with seeded initial weights; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Motr(config)


def folded_copy(model: Motr) -> Motr:
    """A copy in eval mode with every BatchNorm folded into its convolution: what is quantised and exported."""
    copy = Motr(model.config)
    copy.load_state_dict(model.state_dict())
    copy.eval()
    fold_batch_norm(copy)
    return copy
