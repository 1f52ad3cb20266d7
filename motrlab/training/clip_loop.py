"""A batch of clips through the frame step: the loss of one training step."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from torch import Tensor

from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import Objects
from motrlab.tracking.step import FrameOutput, Graphs, frame_loop
from motrlab.training.assignment import ClipAssignment, FrameMatch
from motrlab.training.criterion import ClipLoss, SetCriterion


class Extra:
    """Something that only training has, for one batch of clips: each kind overrides what it changes."""

    def graphs(self, graphs: Graphs) -> Graphs:
        """What the frames go through, one after the other and each of them once."""
        return graphs

    def loss(self, loss: ClipLoss, matches: Sequence[FrameMatch]) -> ClipLoss:
        """`loss` with its own terms; `matches`: what the ordinary slots of each frame are supervised with."""
        return loss


def with_calls(graphs: Graphs, **calls: Callable[..., Any]) -> Graphs:
    """`graphs` with another `base`, `qim` or `decode`."""
    own = {name: getattr(graphs, name) for name in ("base", "qim", "decode", "detect_query")}
    return cast(Graphs, SimpleNamespace(**{**own, **calls}))


def clip_outputs(
    graphs: Graphs, values: Sequence[Tensor], assignment: ClipAssignment, model: ModelConfig
) -> list[FrameOutput]:
    """Run the frame step over frames with the assignment's decisions.

    `values`: per frame what the decoder samples, `BaseGraph.value_maps` `[L, B, C, H, W]`; `graphs.base` takes these.
    """
    return [step.output for step in frame_loop(graphs, values, assignment.decide, model, batch=values[0].shape[1])]


def clip_loss(
    graphs: Graphs,
    values: Sequence[Tensor],
    objects: Objects,
    model: ModelConfig,
    config: TrainConfig,
    rngs: Sequence[np.random.Generator],
    extras: Sequence[Extra] = (),
) -> ClipLoss:
    """Loss of one batch of clips; `objects[frame][clip]` is the ground truth. Gradients flow across the frames.

    `values`: see `clip_outputs`. `rngs`: one random generator per clip.
    """
    assignment = ClipAssignment(objects, model, config, rngs)
    for extra in extras:
        graphs = extra.graphs(graphs)
    outputs = clip_outputs(graphs, values, assignment, model)
    loss = SetCriterion(config)(outputs, assignment.matches)
    for extra in extras:
        loss = extra.loss(loss, assignment.matches)
    return loss
