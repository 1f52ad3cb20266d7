"""Tracklet-aware label assignment (MOTR): who is supervised by what, and who goes on to the next frame.

A track keeps its object while it lives. Only objects without a track are matched, and only to detect slots. This is
the decision that training puts between base graph and QIM, in place of the tracker's rules.

Shape legend: B clips, L decoder layers, D detect and T track slots, N = D + T, detect slots first. Boxes cxcywh.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_cxcywh_to_xyxy, box_iou, pairwise_covered, pairwise_giou, pairwise_iou
from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import Objects
from motrlab.data.transforms import FrameObjects
from motrlab.tracking.step import FrameOutput
from motrlab.tracking.tracker import EMPTY, Decision

NO_OBJECT = -1  # a live track slot that follows nobody: a false positive
_IGNORE_IOU = 0.5  # a detect slot that overlaps an ignored person more is not judged...
_IGNORE_SHARE = 0.5  # ...nor one of which more is in a region to be ignored
Float = NDArray[np.floating]
Int = NDArray[np.int64]
Pair = tuple[Int, Int]  # slots and the objects, by number, that they are to find


@dataclass(frozen=True)
class HungarianMatcher:
    """Objects to detect slots (DETR, arXiv 2005.12872, section 3.1), at the criterion's costs: class, L1 and GIoU."""

    config: TrainConfig

    def __call__(self, scores: Float, boxes: Float, gt_boxes: Float, kinds: Int | None = None) -> tuple[Int, Int]:
        """Slots and objects, min(n, m) each, slots in ascending order.

        `scores` `[n, K]` for every class, 0 to 1, or `[n]` whatever the class; `boxes` `[n, 4]`; of the objects
        `gt_boxes` `[m, 4]` (cxcywh) and, with scores for every class, `kinds` `[m]`.
        """
        # A network that has blown up is reported by its loss; the solver would only refuse what is not finite.
        cost = self.cost(scores, boxes, gt_boxes, kinds)
        return linear_sum_assignment(np.nan_to_num(cost, posinf=1e9, neginf=-1e9))

    def cost(self, scores: Float, boxes: Float, gt_boxes: Float, kinds: Int | None = None) -> Float:
        """`[n, m]`."""
        p = np.clip(scores.astype(np.float64), 1e-8, 1 - 1e-8)
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        focal = alpha * (1 - p) ** gamma * -np.log(p) - (1 - alpha) * p**gamma * -np.log(1 - p)
        focal = focal[:, None] if kinds is None else focal[:, kinds]
        l1 = np.abs(boxes[:, None] - gt_boxes[None]).sum(-1)
        giou = pairwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(gt_boxes))
        costs = self.config.class_weight * focal + self.config.l1_weight * l1 - self.config.giou_weight * giou
        return np.asarray(costs)


@dataclass(frozen=True)
class FrameMatch:
    """What one frame is supervised with.

    `valid` `[L, B, N]`: slots that carry a class loss (all detect slots, live track slots). `index` `[3, k]`: layer,
    clip and slot of the positive ones, by layers; `box` `[k, 4]`: where they are to be; `kind` `[k]`: their classes.
    `num_objects`: newborns and tracks, also those whose object disappeared.
    """

    valid: NDArray[np.bool_]
    index: Int
    box: Float
    kind: Int
    num_objects: int


def positives(parts: Iterable[tuple[int, int, Int, FrameObjects, Int]]) -> tuple[Int, Float, Int]:
    """`index`, `box` and `kind` of a `FrameMatch`, from layer, clip, slots `[n]` and their objects, by number `[n]`."""
    layers, clips, slots, objects, which = zip(*parts, strict=True)
    boxes = [frame.boxes[rows] for frame, rows in zip(objects, which, strict=True)]
    kinds = [frame.kinds[rows] for frame, rows in zip(objects, which, strict=True)]
    lengths = [len(own) for own in slots]
    index = np.stack((np.repeat(layers, lengths), np.repeat(clips, lengths), np.concatenate(slots)))
    return index.astype(np.int64), np.concatenate(boxes), np.concatenate(kinds)


class ClipAssignment:
    """Assignment over one batch of clips; `decide` is called once a frame, in order.

    Every clip has a random generator of its own, so that what happens to it does not depend on which clips stand
    beside it: in this batch, or on another processor.
    """

    def __init__(
        self, frames: Objects, model: ModelConfig, config: TrainConfig, rngs: Sequence[np.random.Generator]
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
        self.matcher = HungarianMatcher(config)

    def decide(self, output: FrameOutput) -> Decision:
        """Match this frame, remember the match for the criterion, and choose the tracks of the next frame."""
        objects = self.frames[len(self.matches)]
        scores, boxes = (np.stack(values) for values in output.layers())  # [L, B, N, K], [L, B, N, 4]
        pairs = [self._match(b, frame, scores[:, b], boxes[:, b]) for b, frame in enumerate(objects)]
        self.matches.append(self._collect(objects, pairs, boxes))
        source = np.full(self.live.shape, EMPTY, np.int64)
        shift = np.zeros((len(objects), 4, self.model.num_track), np.float32)
        next_ids = np.full_like(self.object_id, NO_OBJECT)
        for b, frame in enumerate(objects):
            chosen, ids, moved = self._carry_on(b, frame, pairs[b][-1], boxes[-1, b])
            source[b, : len(chosen)], next_ids[b, : len(ids)] = chosen, ids
            shift[b, :, : len(chosen)] = moved.T
        self.live, self.object_id = source != EMPTY, next_ids
        return Decision(source, shift)

    def _match(self, b: int, frame: FrameObjects, scores: Float, boxes: Float) -> list[Pair]:
        """Positive slots of each layer: tracks with a visible object, then matched newborns."""
        num_detect, visible = self.model.num_detect, frame.visibility >= self.config.min_visibility
        tracked = self.live[b, :, None] & (self.object_id[b, :, None] == frame.ids)  # [T, n]
        track, followed = np.nonzero(tracked & (frame.visibility >= self.config.track_min_visibility))
        pairs = []
        for layer, (score, box) in enumerate(zip(scores, boxes, strict=True)):
            shared = self.config.coopetition and layer < len(scores) - 1
            wanted = np.flatnonzero(visible if shared else visible & ~tracked.any(0))
            slot, which = self.matcher(score[:num_detect], box[:num_detect], frame.boxes[wanted], frame.kinds[wanted])
            pairs.append((np.concatenate((num_detect + track, slot)), np.concatenate((followed, wanted[which]))))
        return pairs

    def _valid(self, objects: Sequence[FrameObjects], boxes: Float) -> NDArray[np.bool_]:
        """`[L, B, N]`; not the detect slots in a region to be ignored, nor, with `below_visibility="ignore"`, those on
        people who are too hidden to be one.
        """
        num_detect = self.model.num_detect
        exists = np.concatenate((np.ones((len(objects), num_detect), bool), self.live), 1)
        valid = np.repeat(exists[None], len(boxes), 0)
        for b, frame in enumerate(objects):
            own, people = box_cxcywh_to_xyxy(boxes[:, b, :num_detect]), box_cxcywh_to_xyxy(frame.boxes)
            covered = pairwise_covered(own, people[frame.visibility < 0])
            valid[:, b, :num_detect] &= ~(covered > _IGNORE_SHARE).any(-1)
            if self.config.below_visibility == "ignore":
                overlap = pairwise_iou(own, people[frame.visibility < self.config.min_visibility])
                valid[:, b, :num_detect] &= ~(overlap > _IGNORE_IOU).any(-1)
        return valid

    def _collect(self, objects: Sequence[FrameObjects], pairs: Sequence[list[Pair]], boxes: Float) -> FrameMatch:
        index, box, kind = positives(
            (layer, b, pairs[b][layer][0], frame, pairs[b][layer][1])
            for layer in range(len(boxes))
            for b, frame in enumerate(objects)
        )
        valid = self._valid(objects, boxes)
        valid[tuple(index)] = True
        followed = int((self.live & (self.object_id != NO_OBJECT)).sum())
        born = sum(int((own[-1][0] < self.model.num_detect).sum()) for own in pairs)
        return FrameMatch(valid, index, box, kind, followed + born)

    def _carry_on(self, b: int, frame: FrameObjects, pair: Pair, boxes: Float) -> tuple[Int, Int, Float]:
        """Of the next frame's tracks of clip `b`, at most T: sources, object ids and reference shifts."""
        slots, which = pair
        rng, num_detect = self.rngs[b], self.model.num_detect
        good = box_iou(box_cxcywh_to_xyxy(boxes[slots]), box_cxcywh_to_xyxy(frame.boxes[which])) > self.config.keep_iou
        # A track whose object is hidden or out of view goes on, so that it is there when the object comes back.
        lost = self.live[b] & (self.object_id[b] != NO_OBJECT)
        lost[slots[slots >= num_detect] - num_detect] = False
        hidden = np.flatnonzero(lost)
        source = np.concatenate((slots[good], num_detect + hidden))
        ids = np.concatenate((frame.ids[which[good]], self.object_id[b, hidden]))
        stays = rng.random(len(source)) >= self.drop_probability[b]
        source, ids = source[stays], ids[stays]
        false_positives = self._false_positives(source, np.setdiff1d(np.arange(num_detect), slots), boxes, rng)
        clones = source[rng.random(len(source)) < self.config.clone_probability]
        jitter = rng.normal(0, self.config.reference_jitter, (len(source) + len(false_positives), 4))
        clone_shift = np.zeros((len(clones), 4))
        clone_shift[:, :2] = rng.uniform(0.3, 1.0, (len(clones), 2)) * rng.choice((-1, 1), (len(clones), 2))
        rng.random(len(source))  # numbers of a removed augmentation: presets train as they did with it
        source = np.concatenate((source, false_positives, clones))
        shift = np.concatenate((jitter, clone_shift)) * boxes[source][:, [2, 3, 2, 3]]
        ids = np.concatenate((ids, np.full(len(source) - len(ids), NO_OBJECT)))
        room = self.model.num_track
        return source[:room], ids[:room], shift[:room]

    def _false_positives(self, source: Int, unmatched: Int, boxes: Float, rng: np.random.Generator) -> Int:
        """For a share of the tracks, the unmatched detect slot that overlaps it most becomes a track of nobody."""
        picked = source[rng.random(len(source)) < self.config.false_positive_ratio]
        if len(picked) == 0 or len(unmatched) == 0:
            return np.zeros(0, np.int64)
        corners = box_cxcywh_to_xyxy(boxes)
        iou = pairwise_iou(corners[picked], corners[unmatched])
        return np.unique(unmatched[iou.argmax(1)[iou.max(1) > 0]])
