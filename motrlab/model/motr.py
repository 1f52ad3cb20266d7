"""Both graphs as one module, so that one optimiser and one checkpoint hold them."""

from typing import Any

import torch
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.model.base import BaseGraph, BaseOutput, ExtraSlots, decode_boxes
from motrlab.model.efficientnet import fold_batch_norm
from motrlab.model.operations import FLOAT, Operations
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


class MotrGraphs:
    """The graphs of a float model as the frame step needs them (`tracking.step.Graphs`).

    With `encoded=True` a frame is what `BaseGraph.value_maps` gives instead of an image, with `ExtraSlots` or without:
    training encodes all frames of a clip in one batch. `net`: how they are computed.
    """

    def __init__(self, model: Motr, *, encoded: bool = False, net: Operations = FLOAT) -> None:
        self._model, self._net = model, net
        self._base: Any = model.base.decode if encoded else model.base

    @property
    def detect_query(self) -> Tensor:
        return self._model.base.detect.query

    def base(self, frame: Any, query: Tensor, mask: Tensor, reference: Tensor, *extra: ExtraSlots) -> BaseOutput:
        return self._base(frame, query, mask, reference, *extra, net=self._net)

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        return self._model.qim(embedding, query, mask, net=self._net)

    def decode(self, boxes: Tensor) -> Tensor:
        return decode_boxes(boxes, self._model.config)
