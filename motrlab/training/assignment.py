"""Tracklet-aware assignment (MOTR section 3.2): who is supervised by what, and who goes on to the next frame.

A track keeps its object while it lives. Only objects without a track are matched, and only to detect slots. This is
the decision that training puts between base graph and QIM, in place of the tracker's rules.

Shape legend: B clips, L decoder layers, D detect and T track slots, N = D + T, detect slots first. Boxes cxcywh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy, box_iou, pairwise_iou
from motrlab.config import ModelConfig, TrainConfig
from motrlab.tracking.step import FrameOutput
from motrlab.tracking.tracker import EMPTY, Decision
from motrlab.training.matcher import make_matcher

Float = NDArray[np.floating]
Int = NDArray[np.int64]
NO_OBJECT = -1  # a live track slot that follows nobody: a false positive
_IGNORE_IOU = 0.5  # a detect slot that overlaps an ignored person more is not judged
_CLOSE = 2.0  # centres nearer than so many box sizes: a pair that could be mixed up


@dataclass(frozen=True)
class FrameObjects:
    """Ground truth of one frame of one clip: `boxes` `[n, 4]`, `ids` `[n]`, `visibility` `[n]`."""

    boxes: Float
    ids: Int
    visibility: Float


@dataclass(frozen=True)
class FrameMatch:
    """What one frame is supervised with.

    `valid` `[L, B, N]`: slots that carry a class loss (all detect slots, live track slots). For each layer, `clip`
    `[k]`, `slot` `[k]` and `box` `[k, 4]` of the positive slots. `num_objects`: newborns and tracks, also those whose
    object disappeared. `newborn`: per clip, boxes `[n, 4]` of the objects without a track. `ids` `[k]`: the objects of
    the last layer's positive slots.
    """

    valid: NDArray[np.bool_]
    clip: tuple[Int, ...]
    slot: tuple[Int, ...]
    box: tuple[Float, ...]
    num_objects: int
    newborn: tuple[Float, ...] = ()
    ids: Int = field(default_factory=lambda: np.zeros(0, np.int64))


class ClipAssignment:
    """Assignment over one batch of clips; `decide` is called once a frame, in order.

    Every clip has a random generator of its own, so that what happens to it does not depend on which clips stand
    beside it: in this batch, or on another processor.
    """

    def __init__(
        self,
        frames: list[list[FrameObjects]],
        model: ModelConfig,
        config: TrainConfig,
        rngs: Sequence[np.random.Generator],
    ) -> None:
        self.frames = frames  # [frame][clip]
        self.model = model
        self.config = config
        self.rngs = rngs
        self.matches: list[FrameMatch] = []
        batch = len(frames[0])
        self.live = np.zeros((batch, model.num_track), bool)
        self.object_id: Int = np.full((batch, model.num_track), NO_OBJECT, np.int64)
        self.drop_probability = [
            rng.uniform(0, 0.9) if rng.random() < config.heavy_drop_fraction else config.drop_probability
            for rng in rngs
        ]
        self.matcher = make_matcher(config)

    def decide(self, output: FrameOutput) -> Decision:
        """Match this frame, remember the match for the criterion, and choose the tracks of the next frame."""
        objects = self.frames[len(self.matches)]
        scores, boxes = output.layers()
        clip_matches = [
            self._match(b, frame, [s[b] for s in scores], [x[b] for x in boxes]) for b, frame in enumerate(objects)
        ]
        self.matches.append(self._collect(objects, clip_matches, boxes))
        source = np.full(self.live.shape, EMPTY, np.int64)
        shift = np.zeros((len(objects), 4, self.model.num_track), np.float32)
        hold = np.zeros_like(self.live)
        next_ids = np.full_like(self.object_id, NO_OBJECT)
        for b, frame in enumerate(objects):
            chosen, ids, moved, held = self._carry_on(b, frame, clip_matches[b][-1], boxes[-1][b])
            source[b, : len(chosen)], next_ids[b, : len(ids)] = chosen, ids
            shift[b, :, : len(chosen)] = moved.T
            hold[b, : len(held)] = held
        self.live, self.object_id = source != EMPTY, next_ids
        return Decision(source, shift, hold if self.config.hold_below else None)

    def _match(self, b: int, frame: FrameObjects, scores: list[Float], boxes: list[Float]) -> list[tuple[Int, Int]]:
        """Per layer, positive slots and their objects: tracks with a visible object, then matched newborns."""
        num_detect = self.model.num_detect
        visible = frame.visibility >= self.config.min_visibility
        tracked = self.live[b, :, None] & (self.object_id[b, :, None] == frame.ids[None])  # [T, n]
        track, track_object = np.nonzero(tracked & (frame.visibility >= self.config.track_min_visibility))
        newborn = np.nonzero(visible & ~tracked.any(0))[0]
        matches = []
        for layer, (score, box) in enumerate(zip(scores, boxes, strict=True)):
            shared = self.config.coopetition and layer < len(scores) - 1
            wanted = np.nonzero(visible)[0] if shared else newborn
            slot, which = self.matcher(score[:num_detect], box[:num_detect], frame.boxes[wanted])
            matches.append((np.concatenate((num_detect + track, slot)), np.concatenate((track_object, wanted[which]))))
        return matches

    def _newborn(self, b: int, frame: FrameObjects) -> Float:
        """Boxes of the visible objects of clip `b` that nobody tracks."""
        tracked = np.isin(frame.ids, self.object_id[b, self.live[b]])
        return frame.boxes[(frame.visibility >= self.config.min_visibility) & ~tracked]

    def _valid(self, objects: list[FrameObjects], boxes: list[Float]) -> NDArray[np.bool_]:
        """`[L, B, N]`; with `below_visibility="ignore"` not the detect slots on people who are too hidden to be one."""
        exists = np.concatenate((np.ones((len(objects), self.model.num_detect), bool), self.live), 1)
        valid = np.repeat(exists[None], len(boxes), 0)
        if self.config.below_visibility == "ignore":
            for b, frame in enumerate(objects):
                hidden = box_cxcywh_to_xyxy(frame.boxes[frame.visibility < self.config.min_visibility])
                for layer, box in enumerate(boxes):
                    detect = box_cxcywh_to_xyxy(box[b, : self.model.num_detect])
                    valid[layer, b, : len(detect)] &= ~(pairwise_iou(detect, hidden) > _IGNORE_IOU).any(1)
        return valid

    def _collect(
        self, objects: list[FrameObjects], matches: list[list[tuple[Int, Int]]], boxes: list[Float]
    ) -> FrameMatch:
        valid = self._valid(objects, boxes)
        layers = range(len(matches[0]))
        clip = tuple(np.concatenate([np.full(len(m[i][0]), b) for b, m in enumerate(matches)]) for i in layers)
        slot = tuple(np.concatenate([m[i][0] for m in matches]) for i in layers)
        box = tuple(np.concatenate([o.boxes[m[i][1]] for o, m in zip(objects, matches, strict=True)]) for i in layers)
        followed = int((self.live & (self.object_id != NO_OBJECT)).sum())
        born = sum(int((m[-1][0] < self.model.num_detect).sum()) for m in matches)
        for layer in layers:
            valid[layer, clip[layer], slot[layer]] = True
        newborn = tuple(self._newborn(b, frame) for b, frame in enumerate(objects))
        ids = np.concatenate([o.ids[m[-1][1]] for o, m in zip(objects, matches, strict=True)])
        return FrameMatch(valid, clip, slot, box, followed + born, newborn, ids)

    def _carry_on(
        self, b: int, frame: FrameObjects, match: tuple[Int, Int], boxes: Float
    ) -> tuple[Int, Int, Float, NDArray[np.bool_]]:
        """Of the next frame's tracks of clip `b`, at most T: sources, object ids, reference shifts, and who holds its
        query; the last array may be shorter: the rest does not.
        """
        slots, which = match
        rng = self.rngs[b]
        iou = box_iou(box_cxcywh_to_xyxy(boxes[slots]), box_cxcywh_to_xyxy(frame.boxes[which]))
        good = iou > self.config.keep_iou
        # A track whose object is hidden or gone goes on, so that it is there when the object comes back.
        lost = self.live[b] & (self.object_id[b] != NO_OBJECT)
        lost[slots[slots >= self.model.num_detect] - self.model.num_detect] = False
        hidden = np.nonzero(lost)[0]
        source = np.concatenate((slots[good], self.model.num_detect + hidden))
        ids = np.concatenate((frame.ids[which[good]], self.object_id[b, hidden]))
        unseen = (slots >= self.model.num_detect) & (frame.visibility[which] < self.config.hold_below)
        held = np.concatenate((unseen[good], np.ones(len(hidden), bool)))
        stays = rng.random(len(source)) >= self.drop_probability[b]
        source, ids, held = source[stays], ids[stays], held[stays]
        false_positives = self._false_positives(
            source, np.setdiff1d(np.arange(self.model.num_detect), slots), boxes, rng
        )
        clones = source[rng.random(len(source)) < self.config.clone_probability]
        jitter = rng.normal(0, self.config.reference_jitter, (len(source) + len(false_positives), 4))
        clone_shift = np.zeros((len(clones), 4))
        clone_shift[:, :2] = rng.uniform(0.3, 1.0, (len(clones), 2)) * rng.choice((-1, 1), (len(clones), 2))
        swaps = self._swaps(boxes[source], rng)
        source = np.concatenate((source, false_positives, clones))
        shift = np.concatenate((jitter, clone_shift)) * boxes[source][:, [2, 3, 2, 3]]
        shift[: len(swaps)] += swaps
        ids = np.concatenate((ids, np.full(len(source) - len(ids), NO_OBJECT)))
        room = self.model.num_track
        return source[:room], ids[:room], shift[:room], held[:room]

    def _swaps(self, boxes: Float, rng: np.random.Generator) -> Float:
        """Reference shifts `[n, 4]` that exchange the places of some close pairs among tracks with `boxes` `[n, 4]`.

        Their queries stay where they are, so who is who must be told by looks (cf. MOTIP, arXiv 2403.16848).
        """
        shift = np.zeros_like(boxes)
        picked = np.nonzero(rng.random(len(boxes)) < self.config.swap_probability)[0]
        if len(boxes) < 2:
            return shift
        for i in picked.tolist():
            distance = np.abs(boxes[:, :2] - boxes[i, :2]) / boxes[i, 2:]
            far = distance.max(1)
            far[i] = np.inf
            j = int(far.argmin())
            if far[j] < _CLOSE and not shift[[i, j]].any():
                shift[i], shift[j] = boxes[j] - boxes[i], boxes[i] - boxes[j]
        return shift

    def _false_positives(self, source: Int, unmatched: Int, boxes: Float, rng: np.random.Generator) -> Int:
        """For a share of the tracks, the unmatched detect slot that overlaps it most becomes a track of nobody."""
        picked = source[rng.random(len(source)) < self.config.false_positive_ratio]
        if len(picked) == 0 or len(unmatched) == 0:
            return np.zeros(0, np.int64)
        corners = box_cxcywh_to_xyxy(boxes)
        iou = pairwise_iou(corners[picked], corners[unmatched])
        found: Int = np.unique(unmatched[iou.argmax(1)[iou.max(1) > 0]])
        return found
