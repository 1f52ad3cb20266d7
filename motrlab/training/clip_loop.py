"""A batch of clips through the frame step: the loss of one training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.tracking.step import FrameOutput, Graphs, empty_state, frame_step, state_like
from motrlab.training.assignment import ClipAssignment, FrameObjects
from motrlab.training.criterion import ClipLoss, SetCriterion
from motrlab.training.memory import CheckpointedGraphs, checkpointed


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
    rngs: Sequence[np.random.Generator],
) -> ClipLoss:
    """Loss of one batch of clips; `objects[frame][clip]` is the ground truth. Gradients flow across the frames.

    `rngs`: one random generator per clip.
    """
    assignment = ClipAssignment(objects, model, config, rngs)
    outputs = clip_outputs(graphs, frames, assignment, model)
    return SetCriterion(config)(outputs, assignment.matches)


def clip_objects(batch: ClipBatch) -> list[list[FrameObjects]]:
    """Ground truth of a batch as the assignment wants it: `[frame][clip]`."""
    return [
        [FrameObjects(b.cpu().numpy(), i.cpu().numpy(), v.cpu().numpy()) for b, i, v in zip(*frame, strict=True)]
        for frame in zip(batch.boxes, batch.ids, batch.visibility, strict=True)
    ]


class ClipModel(nn.Module):
    """What float training trains: `motr`, called with a batch of clips and giving their loss."""

    def __init__(self, motr: Motr, config: TrainConfig) -> None:
        super().__init__()
        self.motr = motr
        self.config = config

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        graphs: Graphs = MotrGraphs(self.motr, encoded=True)
        memory: Sequence[Tensor]
        if self.config.checkpoint_frames:  # frame by frame, or the backbone's activations of all would exist at once
            memory = [checkpointed(self.motr.base.encode, image).float() for image in batch.images]
            graphs = CheckpointedGraphs(graphs)
        else:
            memory = self.motr.base.encode(batch.images.flatten(0, 1)).float().split(batch.images.shape[1])
        # The decoder's tensors are small: casting them costs more than bf16 saves, and boxes want float32.
        with torch.autocast(batch.images.device.type, enabled=False):
            return clip_loss(graphs, memory, clip_objects(batch), self.motr.config, self.config, rngs)
