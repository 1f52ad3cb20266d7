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
EMPTY = -1


@dataclass(frozen=True)
class Decision:
    """Which slot every track slot continues from: `source` `[B, T]`, a slot number from 0 to N - 1, or `EMPTY`.

    `shift` `[B, 4, T]`, if given, moves the next reference boxes (training only; fractions of the image).
    """

    source: Int
    shift: Float | None = None


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
    """

    def __init__(self, config: TrackerConfig, num_detect: int, num_track: int, batch: int = 1) -> None:
        self.config = config
        self.num_detect = num_detect
        self.track_id: Int = np.full((batch, num_track), EMPTY, np.int64)
        self.misses: Int = np.zeros((batch, num_track), np.int64)
        self.next_id: Int = np.ones(batch, np.int64)

    def update(self, scores: Float, boxes: Float) -> Decision:
        """One frame: `scores` `[B, N]` from 0 to 1, `boxes` `[B, N, 4]` → where each track slot continues from."""
        num_track = self.track_id.shape[1]
        live = self._age(scores[:, self.num_detect :])
        own = self.num_detect + np.arange(num_track)
        source = np.where(live, own, EMPTY)
        self.track_id[~live] = EMPTY
        self._give_birth(source, scores[:, : self.num_detect])
        if self.config.suppress_iou is not None:
            self._suppress(source, boxes)
        return Decision(source)

    def _age(self, scores: Float) -> NDArray[np.bool_]:
        """Count misses; `[B, T]` of the tracks that live on."""
        live: NDArray[np.bool_] = self.track_id != EMPTY
        self.misses[live & (scores >= self.config.reset_score)] = 0
        self.misses[live & (scores < self.config.miss_score)] += 1
        result: NDArray[np.bool_] = live & (self.misses < self.config.max_misses)
        return result

    def _give_birth(self, source: Int, scores: Float) -> None:
        """Fill free entries of `source` with the best detect slots at or above the birth score."""
        order = np.argsort(-scores, axis=1, kind="stable")
        num_born = (scores >= self.config.birth_score).sum(1)
        free = source == EMPTY
        rank = np.cumsum(free, axis=1) - 1  # how many free slots come before
        born = free & (rank < num_born[:, None])
        stream, slot = np.nonzero(born)
        source[stream, slot] = order[stream, rank[stream, slot]]
        self.track_id[stream, slot] = self.next_id[stream] + rank[stream, slot]
        self.misses[stream, slot] = 0
        self.next_id += born.sum(1)

    def _suppress(self, source: Int, boxes: Float) -> None:
        """Of two tracks that overlap more than `suppress_iou`, end the younger."""
        live = source != EMPTY
        corners = box_cxcywh_to_xyxy(np.take_along_axis(boxes, np.maximum(source, 0)[..., None], 1))
        overlaps = pairwise_iou(corners, corners) > self.config.suppress_iou
        younger = self.track_id[:, :, None] > self.track_id[:, None, :]
        drop = (overlaps & younger & live[:, :, None] & live[:, None, :]).any(2)
        source[drop] = EMPTY
        self.track_id[drop] = EMPTY

    def written(self, decision: Decision, scores: Float, boxes: Float, image_area_px: Any) -> list[TrackedBoxes]:
        """What is written for this frame, per stream: live tracks that score high enough and are large enough.

        `image_area_px` `[B]`, or one number for all: areas of the original images.
        """
        found = []
        areas = np.broadcast_to(image_area_px, len(decision.source))
        for stream, source in enumerate(decision.source):
            slot = np.nonzero(source != EMPTY)[0]
            score, box = scores[stream, source[slot]], boxes[stream, source[slot]]
            area = box[:, 2] * box[:, 3] * areas[stream]
            keep = (score > self.config.output_score) & (area > self.config.min_area_px)
            found.append(TrackedBoxes(self.track_id[stream, slot[keep]], box[keep], score[keep]))
        return found
