"""A batch of clips through the frame step: the loss of one training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from motrlab.config import ModelConfig, TrainConfig
from motrlab.tracking.step import FrameOutput, Graphs, empty_state, frame_step, state_like
from motrlab.training.assignment import ClipAssignment, FrameObjects
from motrlab.training.criterion import ClipLoss, SetCriterion


def clip_outputs(
    graphs: Graphs, frames: Sequence[Tensor], assignment: ClipAssignment, model: ModelConfig
) -> list[FrameOutput]:
    """Run the frame step over `frames` (what `graphs.base` takes, one per frame) with the assignment's decisions."""
    batch = frames[0].shape[0]
    state = state_like(empty_state(batch, model.d_model, model.num_track, model.slot_columns), frames[0])
    outputs = []
    for frame in frames:
        output, state = frame_step(graphs, frame, state, assignment.decide)
        outputs.append(output)
    return outputs


def clip_loss(
    graphs: Graphs,
    frames: Sequence[Tensor],
    objects: list[list[FrameObjects]],
    model: ModelConfig,
    config: TrainConfig,
    rng: np.random.Generator,
) -> ClipLoss:
    """Loss of one batch of clips; `objects[frame][clip]` is the ground truth. Gradients flow across the frames."""
    assignment = ClipAssignment(objects, model, config, rng)
    outputs = clip_outputs(graphs, frames, assignment, model)
    return SetCriterion(config)(outputs, assignment.matches)
