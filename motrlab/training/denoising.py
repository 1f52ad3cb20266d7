"""Query denoising (DN-DETR, arXiv 2203.01305; negatives as in DINO, arXiv 2203.03605), which only training has.

Beside the ordinary slots stand groups of further ones that start from the boxes of visible objects with noise on them.
One half of a group is to find its objects again; the other, further off, is background. They see only their own group,
and the ordinary slots see none of them: nothing of it is exported.

Shape legend: B clips, L layers, C channels, W slot columns, D detect and T track slots, N = D + T, E extra slots.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import Objects
from motrlab.data.transforms import FrameObjects
from motrlab.model.base import BaseOutput, ExtraSlots
from motrlab.model.operations import MASKED
from motrlab.tracking.step import FrameOutput, Graphs
from motrlab.training.assignment import Float, FrameMatch, Int, positives
from motrlab.training.clip_loop import Extra, with_calls
from motrlab.training.criterion import ClipLoss, SetCriterion


class Denoising(nn.Module):
    """The learned query that every noised box starts with."""

    def __init__(self, model: ModelConfig, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.query = nn.Parameter(torch.randn(1, model.d_model, 1, 1) * 0.02)

    def forward(self, objects: Objects, rngs: Sequence[np.random.Generator]) -> "DenoisedClips":
        """What goes along with a batch of clips; `rngs`: one random generator per clip."""
        return DenoisedClips(self, objects, rngs)

    def slots(self, noised: "NoisedBoxes") -> ExtraSlots:
        """The slots of one frame."""
        batch, extra = noised.group.shape
        ordinary, device = self.model.num_slots, self.query.device
        reference = torch.from_numpy(noised.boxes).transpose(1, 2).unflatten(2, (-1, self.model.slot_columns))
        query = self.query.expand(batch, -1, *reference.shape[2:])
        sees = np.zeros((batch, ordinary + extra, ordinary + extra), bool)
        sees[:, :ordinary, :ordinary] = True
        own = noised.group[:, :, None] == noised.group[:, None, :]
        sees[:, ordinary:, ordinary:] = own & (noised.group >= 0)[:, None, :]
        bias = torch.from_numpy(np.where(sees, 0, MASKED).astype(np.float32))
        return ExtraSlots(query, reference.to(device), bias[:, None].to(device))


@dataclass(frozen=True)
class NoisedBoxes:
    """Where the slots of one frame start: `boxes float32 [B, E, 4]`, and their `group` `[B, E]`, -1 for padding.

    `target` `[B, E]`: the object that a slot is to find again, -1 for background and padding.
    """

    boxes: NDArray[np.float32]
    group: Int
    target: Int


def noised_boxes(
    objects: Sequence[FrameObjects], columns: int, config: TrainConfig, rngs: Sequence[np.random.Generator], most: int
) -> NoisedBoxes:
    """Noised boxes of one frame of every clip, in whole rows of `columns`, with room for `most` people."""
    groups = config.denoising_groups
    size = max(-(-most * 2 * groups // columns), 1) * columns
    boxes = np.full((len(objects), size, 4), 0.5, np.float32)
    group, target = np.full((2, len(objects), size), -1)
    for b, (frame, rng) in enumerate(zip(objects, rngs, strict=True)):
        chosen = _visible(frame, config)
        kinds = np.repeat(np.arange(2 * groups), len(chosen))  # even: to be found; odd: background
        noised = _noised(np.tile(frame.boxes[chosen], (2 * groups, 1)), kinds % 2 == 1, config.denoising_noise, rng)
        boxes[b, : len(kinds)] = noised
        group[b, : len(kinds)] = kinds // 2
        target[b, : len(kinds)] = np.where(kinds % 2 == 0, np.tile(chosen, 2 * groups), -1)
    return NoisedBoxes(boxes, group, target)


def _visible(objects: FrameObjects, config: TrainConfig) -> Int:
    return np.flatnonzero(objects.visibility >= config.min_visibility)


def _noised(boxes: Float, far: NDArray[np.bool_], noise: float, rng: np.random.Generator) -> Float:
    """Centres moved by up to `noise` (`far`: between one and two times that) half sizes, sizes changed by as much."""
    amount = rng.uniform(0, 1, boxes.shape) * noise + np.where(far, noise, 0)[:, None]
    signed = amount * rng.choice((-1.0, 1.0), boxes.shape)
    centre = boxes[:, :2] + signed[:, :2] * boxes[:, 2:] / 2
    return np.concatenate((centre, boxes[:, 2:] * np.exp(signed[:, 2:])), 1)


class DenoisedClips(Extra):
    """The extra slots of a batch of clips: they go along with the ordinary ones, and what they give is kept."""

    def __init__(self, denoising: Denoising, objects: Objects, rngs: Sequence[np.random.Generator]) -> None:
        self.denoising, self.model, self.config = denoising, denoising.model, denoising.config
        most = max(len(_visible(frame, self.config)) for row in objects for frame in row)  # every frame has equal room
        rngs, columns = [rng.spawn(1)[0] for rng in rngs], self.model.slot_columns
        self.objects = objects
        self.noised = [noised_boxes(row, columns, self.config, rngs, most) for row in objects]
        self.outputs: list[FrameOutput] = []

    def graphs(self, graphs: Graphs) -> Graphs:
        return with_calls(graphs, base=functools.partial(self._base, graphs))

    def _base(self, graphs: Graphs, values: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> BaseOutput:
        slots = self.denoising.slots(self.noised[len(self.outputs)])
        logits, boxes, embedding = graphs.base(values, query, mask, reference, slots)  # type: ignore[call-arg]
        end = self.model.num_slots // self.model.slot_columns
        decoded = tuple(graphs.decode(x[:, :, end:]) for x in boxes)
        self.outputs.append(FrameOutput(tuple(x[:, :, end:] for x in logits), decoded, embedding[:, :, end:]))
        return tuple(x[:, :, :end] for x in logits), tuple(x[:, :, :end] for x in boxes), embedding[:, :, :end]

    def loss(self, loss: ClipLoss, matches: Sequence[FrameMatch]) -> ClipLoss:
        found = SetCriterion(self.config)(self.outputs, list(map(self._match, self.objects, self.noised)))
        weight = 1 / self.config.denoising_groups
        return loss.plus("denoising", found.total * weight, torch.stack(list(found.terms.values())).sum(0) * weight)

    def _match(self, objects: Sequence[FrameObjects], noised: NoisedBoxes) -> FrameMatch:
        """What the extra slots of a frame are supervised with: the same in every layer."""
        layers, parts = range(self.model.decoder_layers), []
        for b, frame in enumerate(objects):
            slots = np.flatnonzero(noised.target[b] >= 0)
            parts.append((b, slots, frame, noised.target[b, slots]))
        valid = np.repeat(noised.group[None] >= 0, len(layers), 0)
        return FrameMatch(valid, *positives((layer, *part) for layer in layers for part in parts), num_objects=0)
