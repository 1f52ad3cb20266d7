"""Slots that only training has, to teach the decoder more per frame; nothing of them is exported.

Groups (Group DETR, arXiv 2207.13085): further sets of detect queries. A group sees itself and the tracks, and is
matched with the newborn objects just as the detect slots are.
Denoising (DN-DETR, arXiv 2203.01305; negatives as in DINO, arXiv 2203.03605): queries that start from the boxes of
visible objects with noise on them. One half is to find its object again; the other, further off, is background. They
see only their own group.

Shape legend: B clips, L layers, C channels, W slot columns, D detect and T track slots, N = D + T, E extra slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from motrlab.config import ModelConfig, TrainConfig
from motrlab.model.base import BaseOutput, DetectQueries, ExtraSlots
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.model.operations import MASKED
from motrlab.tracking.step import FrameOutput
from motrlab.training.assignment import FrameMatch, FrameObjects
from motrlab.training.matcher import HungarianMatcher
from motrlab.training.memory import checkpointed

Float = NDArray[np.floating]
Int = NDArray[np.int64]


class ExtraQueries(nn.Module):
    """The learned parts: queries and references of each group, and one query that every noised box starts with."""

    def __init__(self, model: ModelConfig, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.groups = nn.ModuleList(DetectQueries(model) for _ in range(config.query_groups))
        if config.denoising_groups:
            self.denoising = nn.Parameter(torch.randn(1, model.d_model, 1, 1) * 0.02)

    def slots(self, noised: NoisedBoxes, batch: int) -> ExtraSlots:
        """Groups first, then the noised boxes."""
        columns = self.model.slot_columns
        queries, references = [], []
        for group in self.groups:
            assert isinstance(group, DetectQueries)
            queries.append(group.query.expand(batch, -1, -1, -1))
            references.append(group.reference().expand(batch, -1, -1, -1))
        if self.config.denoising_groups:
            device = self.denoising.device
            boxes = torch.from_numpy(noised.boxes).to(device).transpose(1, 2).unflatten(2, (-1, columns))
            queries.append(self.denoising.expand(batch, -1, boxes.shape[2], columns))
            references.append(boxes)
        bias = torch.from_numpy(self._bias(noised)).to(queries[0].device)
        return ExtraSlots(torch.cat(queries, 2), torch.cat(references, 2), bias)

    def _bias(self, noised: NoisedBoxes) -> NDArray[np.float32]:
        """`[B, 1, N + E, N + E]`: who must not see whom."""
        detect, ordinary = self.model.num_detect, self.model.num_slots
        extra = detect * self.config.query_groups
        size = ordinary + extra + noised.boxes.shape[1]
        sees = np.zeros((len(noised.boxes), size, size), bool)
        sees[:, :ordinary, :ordinary] = True
        for start in range(ordinary, ordinary + extra, detect):
            sees[:, start : start + detect, start : start + detect] = True
            sees[:, start : start + detect, detect:ordinary] = True
        own = noised.group[:, :, None] == noised.group[:, None, :]
        sees[:, ordinary + extra :, ordinary + extra :] = own & noised.real[:, None, :]
        return np.where(sees, 0, MASKED).astype(np.float32)[:, None]


class NoisedBoxes:
    """Boxes that denoising starts from, for one frame: `boxes float32 [B, E, 4]`, `group` and `real` `[B, E]`.

    `target` `[B, E]`: the object that a slot is to find again, -1 for background; padding is not `real`.
    """

    def __init__(
        self,
        objects: Sequence[FrameObjects],
        model: ModelConfig,
        config: TrainConfig,
        rngs: Sequence[np.random.Generator],
        most: int | None = None,
    ) -> None:
        """`most`: people that there must be room for; default: as many as there are."""
        visible = [_visible(o, config) for o in objects]
        groups = config.denoising_groups
        most = max(map(len, visible)) if most is None else most
        size = max(-(-most * 2 * groups // model.slot_columns), 1) * model.slot_columns if groups else 0
        self.boxes = np.full((len(objects), size, 4), 0.5, np.float32)
        self.group = np.full((len(objects), size), -1)
        self.target = np.full((len(objects), size), -1)
        for b, (frame, rng) in enumerate(zip(objects, rngs, strict=True)):
            chosen = visible[b]
            kinds = np.repeat(np.arange(2 * groups), len(chosen))  # even: to be found; odd: background
            boxes = _noised(np.tile(frame.boxes[chosen], (2 * groups, 1)), kinds % 2 == 1, config.denoising_noise, rng)
            self.boxes[b, : len(boxes)] = boxes
            self.group[b, : len(boxes)] = kinds // 2
            self.target[b, : len(boxes)] = np.where(kinds % 2 == 0, np.tile(chosen, 2 * groups), -1)
        self.real = self.group >= 0


def _visible(objects: FrameObjects, config: TrainConfig) -> Int:
    return np.nonzero(objects.visibility >= config.min_visibility)[0]


def _noised(boxes: Float, far: NDArray[np.bool_], noise: float, rng: np.random.Generator) -> Float:
    """Centres moved by up to `noise` (`far`: between one and two times that) half sizes, sizes changed by as much."""
    amount = rng.uniform(0, 1, boxes.shape) * noise + np.where(far, noise, 0)[:, None]
    signed = amount * rng.choice((-1.0, 1.0), boxes.shape)
    centre = boxes[:, :2] + signed[:, :2] * boxes[:, 2:] / 2
    return np.concatenate((centre, boxes[:, 2:] * np.exp(signed[:, 2:])), 1)


class ExtraGraphs(MotrGraphs):
    """`MotrGraphs` of a clip's memories that carry the extra slots along and keep what they gave, frame by frame."""

    def __init__(
        self,
        motr: Motr,
        queries: ExtraQueries,
        objects: Sequence[Sequence[FrameObjects]],
        rngs: Sequence[np.random.Generator],
    ) -> None:
        super().__init__(motr, encoded=True)
        self._queries = queries
        self._objects = objects
        self._rngs = rngs
        config = queries.config
        self._most = max(len(_visible(o, config)) for row in objects for o in row)  # every frame has equal room
        self.noised: list[NoisedBoxes] = []
        self.outputs: list[FrameOutput] = []

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> BaseOutput:
        model, config = self._queries.model, self._queries.config
        noised = NoisedBoxes(self._objects[len(self.noised)], model, config, self._rngs, self._most)
        slots = self._queries.slots(noised, len(query))
        logits, boxes, embedding = self._run(self._model.base.decode, frame, query, mask, reference, slots)
        rows = model.num_slots // model.slot_columns
        decoded = tuple(self.decode(x[:, :, rows:]) for x in boxes)
        self.noised.append(noised)
        self.outputs.append(FrameOutput(tuple(x[:, :, rows:] for x in logits), decoded, embedding[:, :, rows:]))
        return tuple(x[:, :, :rows] for x in logits), tuple(x[:, :, :rows] for x in boxes), embedding[:, :, :rows]

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        updated: Tensor = self._run(self._model.qim, embedding, query, mask)
        return updated

    def _run(self, graph: Callable[..., Any], *inputs: Any) -> Any:
        return checkpointed(graph, *inputs) if self._queries.config.checkpoint_frames else graph(*inputs)

    def matches(self, ordinary: Sequence[FrameMatch], matcher: HungarianMatcher) -> list[FrameMatch]:
        """What the extra slots of each frame are supervised with; `ordinary`: the matches of the ordinary slots."""
        return [self._frame_match(t, match, matcher) for t, match in enumerate(ordinary)]

    def _frame_match(self, t: int, ordinary: FrameMatch, matcher: HungarianMatcher) -> FrameMatch:
        model, num_groups = self._queries.model, self._queries.config.query_groups
        noised, objects = self.noised[t], self._objects[t]
        behind = num_groups * model.num_detect
        clip, slot = np.nonzero(noised.target >= 0)
        again = [objects[b].boxes[noised.target[b, s]] for b, s in zip(clip.tolist(), slot.tolist(), strict=True)]
        denoised = (clip, slot + behind, np.array(again, np.float32).reshape(-1, 4))
        layers = []
        for scores, boxes in zip(*self.outputs[t].layers(), strict=True):
            found = [denoised]
            for b, newborn in enumerate(ordinary.newborn):
                for first in range(0, behind, model.num_detect):
                    part = slice(first, first + model.num_detect)
                    chosen, which = matcher(scores[b, part], boxes[b, part], newborn)
                    found.append((np.full(len(chosen), b), chosen + first, newborn[which]))
            layers.append([np.concatenate(column) for column in zip(*found, strict=True)])
        clips, slots, targets = zip(*layers, strict=True)
        valid = np.concatenate((np.ones((len(objects), behind), bool), noised.real), 1)
        return replace(ordinary, valid=np.repeat(valid[None], len(layers), 0), clip=clips, slot=slots, box=targets)
