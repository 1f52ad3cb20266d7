"""The baseline: a ByteTrack-style tracker (arXiv 2110.06864) on the boxes of a det.txt.

Detections are taken in two goes: confident ones look for a track first, then weak ones may continue the tracks that
are still open, so that a person half hidden, whose score drops, is not lost. What a score means differs between
detectors (DPM: unbounded, ACF of MOT15: up to about 100, Faster R-CNN: a fraction), so the thresholds are quantiles
of the scores in the file, and `choose_quantiles` takes them from training data: the cleaner a detector, the lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_cxcywh_to_ltwh, box_cxcywh_to_xyxy, box_ltwh_to_cxcywh, pairwise_iou
from motrlab.data.motchallenge import Annotations, Detections
from motrlab.errors import UserError
from motrlab.evaluation import kalman
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks


@dataclass(frozen=True, kw_only=True)
class ByteTrackConfig:
    """Thresholds; quantiles and IoUs are fractions from 0 to 1."""

    low_quantile: float = 0.0  # detections scored below this quantile of the file are ignored...
    high_quantile: float = 0.3  # ...those from here on are "high" and associated first...
    birth_quantile: float = 0.4  # ...and from here on one that finds no track starts one
    high_iou: float = 0.2  # least IoU in the first association (the paper's)
    low_iou: float = 0.5  # in the second
    tentative_iou: float = 0.3  # for the second box of a new track
    max_lost_frames: int = 30  # a track is kept so long after its last box (the paper's)

    def __post_init__(self) -> None:
        if not 0 <= self.low_quantile <= self.high_quantile <= self.birth_quantile <= 1:
            raise UserError("bytetrack: quantiles must rise from low over high to birth, within 0 to 1")
        for name in ("high_iou", "low_iou", "tentative_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"bytetrack: {name} must lie above 0 and not above 1")
        if self.max_lost_frames < 0:
            raise UserError("bytetrack: max_lost_frames must not be negative")


GRID = tuple((high, round(high + more, 1)) for high in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5) for more in (0.0, 0.1))


def choose_quantiles(
    gt: Mapping[str, Annotations], detections: Mapping[str, Detections]
) -> tuple[ByteTrackConfig, dict[str, float]]:
    """The setting of `GRID` (high, birth) whose tracks of the train halves have the best mean of MOTA and IDF1.

    Also what a record says of it: `chosen.high_quantile`, `chosen.birth_quantile`, `chosen.train_mota`,
    `chosen.train_idf1` (protocol `motchallenge`). Without any gt box the defaults, and no scores.
    """
    best, best_scores = ByteTrackConfig(), dict[str, float]()
    for high, birth in GRID if any(map(len, gt.values())) else ():
        config = ByteTrackConfig(high_quantile=high, birth_quantile=birth)
        pred = {name: track_detections(found, config) for name, found in detections.items()}
        overall = evaluate(gt, pred)[OVERALL]
        scores = {"chosen.train_mota": overall["mota"], "chosen.train_idf1": overall["idf1"]}
        if not best_scores or sum(scores.values()) > sum(best_scores.values()):
            best, best_scores = config, scores
    quantiles = {"chosen.high_quantile": best.high_quantile, "chosen.birth_quantile": best.birth_quantile}
    return best, quantiles | best_scores


def track_detections(detections: Detections, config: ByteTrackConfig | None = None) -> Tracks:
    """Link the detections of one sequence to tracks; boxes are the filter's estimates, ids count from 1.

    A track is written from its second box on (in the sequence's first frame at once) and only where it has a
    detection: nothing is interpolated.
    """
    if not len(detections.frame):
        return Tracks.empty()
    tracker = _Tracker(config or ByteTrackConfig(), detections.score)
    boxes = box_ltwh_to_cxcywh(detections.ltwh)
    first, last = int(detections.frame.min()), int(detections.frame.max())
    starts = np.searchsorted(detections.frame, np.arange(first, last + 2))
    for frame, begin, end in zip(range(first, last + 1), starts[:-1], starts[1:], strict=True):
        tracker.step(frame, boxes[begin:end], detections.score[begin:end], is_first=frame == first)
    return Tracks.from_rows(np.concatenate([np.zeros((0, 7)), *tracker.written]))


class _Tracker:
    """The live tracks of one sequence, one row each, frame by frame; an unconfirmed track has id 0."""

    def __init__(self, config: ByteTrackConfig, scores: np.ndarray) -> None:
        self.config = config
        quantiles = (config.low_quantile, config.high_quantile, config.birth_quantile)
        self.low, self.high, self.birth = np.quantile(scores, quantiles)
        self.mean, self.covariance = np.zeros((0, 8)), np.zeros((0, 8, 8))  # see kalman
        self.track_id = self.last_frame = np.zeros(0, dtype=np.int64)
        self.num_ids = 0
        self.written: list[np.ndarray] = []  # rows of frame, id, ltwh, score

    def step(self, frame: int, boxes: np.ndarray, scores: np.ndarray, is_first: bool) -> None:
        """One frame: `boxes` `[m, 4]` cxcywh in pixels, `scores` `[m]`."""
        config = self.config
        self.mean, self.covariance = kalman.predict(self.mean, self.covariance)
        confirmed, tentative = np.flatnonzero(self.track_id > 0), np.flatnonzero(self.track_id == 0)
        high = np.flatnonzero(scores >= self.high)
        low = np.flatnonzero((scores >= self.low) & (scores < self.high))

        first = self._associate(confirmed, boxes, high, config.high_iou)
        # Only tracks seen in the frame before: a weak box far from a long-lost track is more likely noise.
        seen = confirmed[self.last_frame[confirmed] == frame - 1]
        second = self._associate(np.setdiff1d(seen, first[0]), boxes, low, config.low_iou)
        third = self._associate(tentative, boxes, np.setdiff1d(high, first[1]), config.tentative_iou)
        rows, columns = (np.concatenate(parts) for parts in zip(first, second, third, strict=True))

        self.mean[rows], self.covariance[rows] = kalman.update(self.mean[rows], self.covariance[rows], boxes[columns])
        self.last_frame[rows] = frame
        new = rows[self.track_id[rows] == 0]  # a second box makes them tracks
        self.track_id[new] = self._new_ids(len(new))
        self._write(frame, rows, scores[columns])

        alive = np.flatnonzero((frame - self.last_frame <= config.max_lost_frames) & (self.track_id > 0))
        born = np.setdiff1d(high, columns)
        self._renew(alive, frame, boxes, scores, born[scores[born] >= self.birth], is_first)

    def _associate(
        self, rows: np.ndarray, boxes: np.ndarray, columns: np.ndarray, min_iou: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of track row and detection with the least summed IoU distance and at least `min_iou` each."""
        iou = pairwise_iou(box_cxcywh_to_xyxy(self.mean[rows, :4]), box_cxcywh_to_xyxy(boxes[columns]))
        found_rows, found_columns = linear_sum_assignment(-np.where(iou < min_iou, 0.0, iou))
        good = iou[found_rows, found_columns] >= min_iou
        return rows[found_rows[good]], columns[found_columns[good]]

    def _renew(
        self, alive: np.ndarray, frame: int, boxes: np.ndarray, scores: np.ndarray, born: np.ndarray, is_first: bool
    ) -> None:
        """Keep the rows `alive` and begin tracks: tentative, but for the first frame, before which nothing was seen."""
        mean, covariance = kalman.initial_state(boxes[born])
        ids = self._new_ids(len(born)) if is_first else np.zeros(len(born), dtype=np.int64)
        self.mean = np.concatenate([self.mean[alive], mean])
        self.covariance = np.concatenate([self.covariance[alive], covariance])
        self.track_id = np.concatenate([self.track_id[alive], ids])
        self.last_frame = np.concatenate([self.last_frame[alive], np.full(len(born), frame)])
        if is_first:
            self._write(frame, np.arange(len(born)), scores[born])

    def _new_ids(self, count: int) -> np.ndarray:
        self.num_ids += count
        return np.arange(self.num_ids - count + 1, self.num_ids + 1)

    def _write(self, frame: int, rows: np.ndarray, scores: np.ndarray) -> None:
        ltwh = box_cxcywh_to_ltwh(self.mean[rows, :4])
        self.written.append(np.column_stack([np.full(len(rows), frame), self.track_id[rows], ltwh, scores]))
