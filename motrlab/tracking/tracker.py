"""Life and death of tracks, vectorised over slots and over parallel streams.

Shape legend: B streams, D detect and T track slots, N = D + T, detect slots first. Boxes are cxcywh as fractions of
the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy, pairwise_iou
from motrlab.config import TrackerConfig

Int = NDArray[np.int64]
Float = NDArray[np.floating]
Bool = NDArray[np.bool_]
EMPTY = -1


@dataclass(frozen=True)
class Decision:
    """Which slot every track slot continues from: `source` `[B, T]`, a slot number from 0 to N - 1, or `EMPTY`.

    `shift` `[B, 4, T]`, if given, moves the next reference boxes (fractions of the image). `hold` `[B, T]`, if given,
    marks tracks that keep the query they came with: the QIM's update is not taken.
    """

    source: Int
    shift: Float | None = None
    hold: Bool | None = None


@dataclass(frozen=True)
class TrackedBoxes:
    """Boxes written for one frame of one stream: `track_id` `[n]` from 1, `cxcywh` `[n, 4]`, `score` `[n]`."""

    track_id: Int
    cxcywh: Float
    score: Float


class Tracker:
    """The runtime rules of REFERENCE.md for `batch` parallel streams that start together.

    A track keeps its slot; a newborn takes a free one, best score first. Ids count from 1 in order of birth, per
    stream. When all slots are taken, births wait.

    With `config.coast`, a track that is not seen in a frame (its score is below `miss_score`, or another track has the
    better claim to the same person) keeps its query and moves on at its last velocity, instead of being drawn to
    whoever stands in front of it. Of two tracks with one box the claim is with the one that comes nearer to where its
    own motion put it. A newborn on top of a track is no birth at all.
    """

    def __init__(self, config: TrackerConfig, num_detect: int, num_track: int, batch: int = 1) -> None:
        self.config = config
        self.num_detect = num_detect
        self.track_id: Int = np.full((batch, num_track), EMPTY, np.int64)
        self.misses: Int = np.zeros((batch, num_track), np.int64)
        self.next_id: Int = np.ones(batch, np.int64)
        self.unseen: Bool = np.zeros((batch, num_track), bool)  # coasting in this frame
        self.box: Float = np.zeros((batch, num_track, 4), np.float32)  # where each track is believed to be
        self.velocity: Float = np.zeros((batch, num_track, 2), np.float32)  # of its centre, per frame

    def update(self, scores: Float, boxes: Float) -> Decision:
        """One frame: `scores` `[B, N]` from 0 to 1, `boxes` `[B, N, 4]` → where each track slot continues from."""
        own_scores, own_boxes = scores[:, self.num_detect :], boxes[:, self.num_detect :]
        live: Bool = self.track_id != EMPTY
        missed = live & (own_scores < self.config.miss_score)
        if self.config.coast:
            missed |= self._outclaimed(live & ~missed, own_boxes)
        away = self.misses + 1  # frames since each track was last seen, for those seen now
        live = self._age(live, missed, own_scores)
        source = np.where(live, self.num_detect + np.arange(live.shape[1]), EMPTY)
        self.track_id[~live] = EMPTY
        self.unseen = missed & live
        born = self._give_birth(source, scores[:, : self.num_detect])
        if self.config.suppress_iou is not None:
            self._suppress(source, boxes, born)
        return self._coast(source, boxes, born, away) if self.config.coast else Decision(source)

    def _age(self, live: Bool, missed: Bool, scores: Float) -> Bool:
        """Count misses; `[B, T]` of the tracks that live on."""
        self.misses[live & ~missed & (scores >= self.config.reset_score)] = 0
        self.misses[missed] += 1
        result: Bool = live & (self.misses < self.config.max_misses)
        return result

    def _outclaimed(self, seen: Bool, boxes: Float) -> Bool:
        """Tracks with a box that another track has the better claim to; `seen`, result `[B, T]`."""
        if self.config.suppress_iou is None:
            return np.zeros_like(seen)
        corners = box_cxcywh_to_xyxy(boxes)
        overlaps = pairwise_iou(corners, corners) > self.config.suppress_iou
        expected = self.box[..., :2] + self.velocity
        surprise = (np.abs(boxes[..., :2] - expected) / np.maximum(boxes[..., 2:], 1e-6)).sum(-1)
        order = surprise + 1e-9 * self.track_id  # the older one where both are as near
        result: Bool = (overlaps & (order[:, :, None] > order[:, None, :]) & seen[:, :, None] & seen[:, None, :]).any(2)
        return result

    def _give_birth(self, source: Int, scores: Float) -> Bool:
        """Fill free entries of `source` with the best detect slots at or above the birth score; `[B, T]` of these."""
        order = np.argsort(-scores, axis=1, kind="stable")
        num_born = (scores >= self.config.birth_score).sum(1)
        free = source == EMPTY
        rank = np.cumsum(free, axis=1) - 1  # how many free slots come before
        born: Bool = free & (rank < num_born[:, None])
        stream, slot = np.nonzero(born)
        source[stream, slot] = order[stream, rank[stream, slot]]
        self.track_id[stream, slot] = self.next_id[stream] + rank[stream, slot]
        self.misses[stream, slot] = 0
        self.next_id += born.sum(1)
        return born

    def _suppress(self, source: Int, boxes: Float, born: Bool) -> None:
        """Of two tracks that overlap more than `suppress_iou`, end the younger; coasting, only newborns end."""
        live = source != EMPTY
        places = np.take_along_axis(boxes, np.maximum(source, 0)[..., None], 1)
        if self.config.coast:
            places = np.where(self.unseen[..., None], self.box, places)
        corners = box_cxcywh_to_xyxy(places)
        overlaps = pairwise_iou(corners, corners) > self.config.suppress_iou
        younger = self.track_id[:, :, None] > self.track_id[:, None, :]
        may_end = born if self.config.coast else live
        drop = (overlaps & younger & may_end[:, :, None] & live[:, None, :]).any(2)
        source[drop] = EMPTY
        self.track_id[drop] = EMPTY

    def _coast(self, source: Int, boxes: Float, born: Bool, away: Int) -> Decision:
        """Follow the motion of tracks that are seen, and move those that are not along; `away` `[B, T]` in frames."""
        found = np.take_along_axis(boxes, np.maximum(source, 0)[..., None], 1)
        gain = self.config.velocity_gain
        seen = ~self.unseen & ~born
        # A track that comes back has coasted: what its box is off by has grown over all the frames it was away.
        error = found[..., :2] - self.box[..., :2] - self.velocity
        step = self.velocity + error / away[..., None]
        self.velocity[seen] = (1 - gain) * self.velocity[seen] + gain * step[seen]
        self.velocity[born] = 0
        self.box[..., :2] += self.velocity
        self.box[~self.unseen] = found[~self.unseen]
        shift = np.where(self.unseen[..., None], self.box - found, 0).swapaxes(1, 2)
        return Decision(source, shift, self.unseen.copy())

    def written(self, decision: Decision, scores: Float, boxes: Float, image_area_px: Any) -> list[TrackedBoxes]:
        """What is written for this frame, per stream: tracks seen now that score high enough and are large enough.

        `image_area_px` `[B]`, or one number for all: areas of the original images.
        """
        config = self.config
        unseen = self.unseen & config.coast  # without coasting, only the score decides
        coasting = unseen & (self.misses <= config.coast_written)
        place = np.maximum(decision.source, 0)
        score = np.take_along_axis(scores, place, 1)
        box = np.where(coasting[..., None], self.box, np.take_along_axis(boxes, place[..., None], 1))
        area = box[..., 2] * box[..., 3] * np.broadcast_to(image_area_px, len(place))[:, None]
        seen = (score > config.output_score) & ~(self.unseen & config.coast)
        keep = (decision.source != EMPTY) & (seen | coasting) & (area > config.min_area_px)
        return [TrackedBoxes(i[k], b[k], s[k]) for i, b, s, k in zip(self.track_id, box, score, keep, strict=True)]
