"""A batch of clips through the frame step: the loss of one training step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import ClipBatch
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.tracking.step import FrameOutput, Graphs, frame_loop
from motrlab.training.assignment import ClipAssignment, FrameMatch, FrameObjects
from motrlab.training.criterion import ClipLoss, SetCriterion, contrast_loss
from motrlab.training.extra_slots import ExtraGraphs, ExtraQueries
from motrlab.training.matcher import make_matcher
from motrlab.training.memory import CheckpointedGraphs, checkpointed


def clip_outputs(
    graphs: Graphs, frames: Sequence[Tensor], assignment: ClipAssignment, model: ModelConfig
) -> list[FrameOutput]:
    """Run the frame step over `frames` (what `graphs.base` takes, one per frame) with the assignment's decisions."""
    batch = frames[0].shape[-4]  # of memories `[B, C, H, W]` or their value maps `[L, B, C, H, W]`
    return [step.output for step in frame_loop(graphs, frames, assignment.decide, model, batch=batch)]


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
    """What float training trains: `motr`, and what only training has; called with clips, it gives their loss."""

    def __init__(self, motr: Motr, config: TrainConfig) -> None:
        super().__init__()
        self.motr = motr
        self.config = config
        self.matcher = make_matcher(config)
        self.criterion = SetCriterion(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            groups = config.query_groups + config.denoising_groups
            self.extra = ExtraQueries(motr.config, config) if groups else None
            channels = motr.config.d_model
            self.looks = nn.Linear(channels, channels) if config.appearance_weight else None

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        """`rngs`: one random generator per clip."""
        encode = self.motr.base.encode
        memory: list[Tensor]
        if self.config.checkpoint_frames:  # frame by frame, or the backbone's activations of all would exist at once
            memory = [checkpointed(encode, image).float() for image in batch.images]
        else:
            memory = [encode(batch.images.flatten(0, 1)).float()]
        # The decoder's tensors are small: casting them costs more than bf16 saves, and boxes want float32.
        with torch.autocast(batch.images.device.type, enabled=False):
            if not self.config.checkpoint_frames:
                memory = list(self.motr.base.value_maps(memory[0]).split(batch.images.shape[1], 1))
            return self._loss(memory, clip_objects(batch), rngs)

    def _loss(
        self, memory: Sequence[Tensor], objects: list[list[FrameObjects]], rngs: Sequence[np.random.Generator]
    ) -> ClipLoss:
        extra: ExtraGraphs | None = None
        graphs: Graphs = MotrGraphs(self.motr, encoded=True)
        if self.extra is not None:
            graphs = extra = ExtraGraphs(self.motr, self.extra, objects, [rng.spawn(1)[0] for rng in rngs])
        elif self.config.checkpoint_frames:
            graphs = CheckpointedGraphs(graphs)
        assignment = ClipAssignment(objects, self.motr.config, self.config, rngs)
        outputs = clip_outputs(graphs, memory, assignment, self.motr.config)
        loss = self.criterion(outputs, assignment.matches)
        if extra is not None:
            found = self.criterion(extra.outputs, extra.matches(assignment.matches, self.matcher))
            weight = self.config.extra_weight / (self.config.query_groups + self.config.denoising_groups)
            loss = loss.plus("extra", found.total * weight, sum_of_kinds(found) * weight)
        if self.looks is not None:
            contrast = self._contrast(self.looks, outputs, assignment.matches) * self.config.appearance_weight
            table = torch.zeros_like(next(iter(loss.terms.values())))
            table[-1, -1] = contrast.detach()
            loss = loss.plus("appearance", contrast, table)
        return loss

    def _contrast(self, looks: nn.Linear, outputs: Sequence[FrameOutput], matches: Sequence[FrameMatch]) -> Tensor:
        """Contrast of the last layer's embeddings, within each clip."""
        embedding = torch.stack([o.embedding.flatten(2).transpose(1, 2) for o in outputs])  # [F, B, N, C]
        frame = np.concatenate([np.full(len(m.ids), t) for t, m in enumerate(matches)])
        clip, slot = (np.concatenate([getattr(m, name)[-1] for m in matches]) for name in ("clip", "slot"))
        ids = np.concatenate([m.ids for m in matches])
        index = [torch.from_numpy(i.astype(np.int64)).to(embedding.device) for i in (frame, clip, slot, ids)]
        features = looks(embedding[index[0], index[1], index[2]])
        parts = [index[1] == b for b in range(embedding.shape[1])]
        temperature = self.config.appearance_temperature
        losses = [contrast_loss(features[p], index[3][p], index[0][p], temperature) for p in parts]
        return torch.stack(losses).sum()


def sum_of_kinds(loss: ClipLoss) -> Tensor:
    """`[F, L]`: all kinds of terms together."""
    return torch.stack(list(loss.terms.values())).sum(0)
