"""The baseline: a ByteTrack-style tracker (arXiv 2110.06864) on the boxes of a det.txt.

Detections are taken in two goes: confident ones look for a track first, then weak ones may continue the tracks that
are still open, so that a person half hidden, whose score drops, is not lost. What a score means differs between
detectors (DPM: unbounded, ACF of MOT15: up to about 100, Faster R-CNN: a fraction), so the thresholds are quantiles
of the scores in the file, and `choose_quantiles` takes them from training data: the cleaner a detector, the lower.

Boxes move by a constant-velocity Kalman filter (Kalman 1960; noise model of DeepSORT, arXiv 1703.07402) over n tracks
at once: state `[n, 8]` is cx, cy, w, h in pixels and their change per frame; covariance `[n, 8, 8]`.
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_cxcywh_to_ltwh, box_cxcywh_to_xyxy, box_ltwh_to_cxcywh, pairwise_iou
from motrlab.data.motchallenge import Annotations, Detections
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks

Quantiles = tuple[float, float]  # of the scores: from here on a box is "high", associated first; may start a track
DEFAULT = (0.3, 0.4)
GRID = tuple((high, round(high + more, 1)) for high in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5) for more in (0.0, 0.1))
MAX_LOST_FRAMES = 30  # a track is kept so long after its last box (the paper's)
_HIGH_IOU, _LOW_IOU = 0.2, 0.5  # least IoU in the first association (the paper's), and in the second
_TENTATIVE_IOU = 0.3  # for the second box of a new track
_POSITION_NOISE, _VELOCITY_NOISE = 1 / 20, 1 / 160  # standard deviations as shares of the box size, DeepSORT's choice
_MOTION = np.eye(8) + np.eye(8, k=4)


def choose_quantiles(
    gt: Mapping[str, Annotations], detections: Mapping[str, Detections]
) -> tuple[Quantiles, dict[str, float]]:
    """The entry of `GRID` whose tracks of the train halves have the best mean of MOTA and IDF1.

    Also what a record says of it: `chosen.high_quantile`, `chosen.birth_quantile`, `chosen.train_mota`,
    `chosen.train_idf1` (protocol `motchallenge`). Without any gt box `DEFAULT`, and no scores.
    """
    best, best_scores = DEFAULT, dict[str, float]()
    for quantiles in GRID if any(map(len, gt.values())) else ():
        pred = {name: track_detections(found, quantiles) for name, found in detections.items()}
        overall = evaluate(gt, pred)[OVERALL]
        scores = {"chosen.train_mota": overall["mota"], "chosen.train_idf1": overall["idf1"]}
        if not best_scores or sum(scores.values()) > sum(best_scores.values()):
            best, best_scores = quantiles, scores
    return best, {"chosen.high_quantile": best[0], "chosen.birth_quantile": best[1], **best_scores}


def track_detections(detections: Detections, quantiles: Quantiles = DEFAULT) -> Tracks:
    """Link the detections of one sequence to tracks; boxes are the filter's estimates, ids count from 1.

    A track is written from its second box on (in the sequence's first frame at once) and only where it has a
    detection: nothing is interpolated.
    """
    if not len(detections.frame):
        return Tracks.empty()
    tracker = _Tracker(*np.quantile(detections.score, quantiles))
    boxes = box_ltwh_to_cxcywh(detections.ltwh)
    first, last = int(detections.frame.min()), int(detections.frame.max())
    starts = np.searchsorted(detections.frame, np.arange(first, last + 2))
    for frame, begin, end in zip(range(first, last + 1), starts[:-1], starts[1:], strict=True):
        tracker.step(frame, boxes[begin:end], detections.score[begin:end], is_first=frame == first)
    return Tracks.from_rows(np.concatenate([np.zeros((0, 7)), *tracker.written]))


class _Tracker:
    """The live tracks of one sequence, one row each, frame by frame; an unconfirmed track has id 0."""

    def __init__(self, high: float, birth: float) -> None:
        self.high, self.birth = high, birth  # scores
        self.mean, self.covariance = np.zeros((0, 8)), np.zeros((0, 8, 8))
        self.track_id = self.last_frame = np.zeros(0, dtype=np.int64)
        self.num_ids = 0
        self.written: list[np.ndarray] = []  # rows of frame, id, ltwh, score

    def step(self, frame: int, boxes: np.ndarray, scores: np.ndarray, is_first: bool) -> None:
        """One frame: `boxes` `[m, 4]` cxcywh in pixels, `scores` `[m]`."""
        self.mean, self.covariance = predict(self.mean, self.covariance)
        confirmed, tentative = np.flatnonzero(self.track_id > 0), np.flatnonzero(self.track_id == 0)
        high, low = np.flatnonzero(scores >= self.high), np.flatnonzero(scores < self.high)

        first = self._associate(confirmed, boxes, high, _HIGH_IOU)
        # Only tracks seen in the frame before: a weak box far from a long-lost track is more likely noise.
        seen = confirmed[self.last_frame[confirmed] == frame - 1]
        second = self._associate(np.setdiff1d(seen, first[0]), boxes, low, _LOW_IOU)
        third = self._associate(tentative, boxes, np.setdiff1d(high, first[1]), _TENTATIVE_IOU)
        rows, columns = (np.concatenate(parts) for parts in zip(first, second, third, strict=True))

        self.mean[rows], self.covariance[rows] = update(self.mean[rows], self.covariance[rows], boxes[columns])
        self.last_frame[rows] = frame
        new = rows[self.track_id[rows] == 0]  # a second box makes them tracks
        self.track_id[new] = self._new_ids(len(new))
        self._write(frame, rows, scores[columns])

        alive = np.flatnonzero((frame - self.last_frame <= MAX_LOST_FRAMES) & (self.track_id > 0))
        born = np.setdiff1d(high, columns)
        born = born[scores[born] >= self.birth]
        # Tentative, but for the first frame, before which nothing was seen.
        ids = self._new_ids(len(born)) if is_first else np.zeros(len(born), dtype=np.int64)
        newborn = (*initial_state(boxes[born]), ids, np.full(len(born), frame))
        kept = (x[alive] for x in (self.mean, self.covariance, self.track_id, self.last_frame))
        self.mean, self.covariance, self.track_id, self.last_frame = map(
            np.concatenate, zip(kept, newborn, strict=True)
        )
        if is_first:
            self._write(frame, np.arange(len(born)), scores[born])

    def _associate(
        self, rows: np.ndarray, boxes: np.ndarray, columns: np.ndarray, min_iou: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of track row and detection with the least summed IoU distance and at least `min_iou` each."""
        iou = pairwise_iou(box_cxcywh_to_xyxy(self.mean[rows, :4]), box_cxcywh_to_xyxy(boxes[columns]))
        found_rows, found_columns = linear_sum_assignment(-np.where(iou < min_iou, 0.0, iou))
        good = iou[found_rows, found_columns] >= min_iou
        return rows[found_rows[good]], columns[found_columns[good]]

    def _new_ids(self, count: int) -> np.ndarray:
        self.num_ids += count
        return np.arange(self.num_ids - count + 1, self.num_ids + 1)

    def _write(self, frame: int, rows: np.ndarray, scores: np.ndarray) -> None:
        ltwh = box_cxcywh_to_ltwh(self.mean[rows, :4])
        self.written.append(np.column_stack([np.full(len(rows), frame), self.track_id[rows], ltwh, scores]))


def initial_state(cxcywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """State and covariance of tracks first seen at `cxcywh` `[n, 4]`, at rest and far from sure of it."""
    mean = np.concatenate([cxcywh, np.zeros_like(cxcywh)], axis=1)
    return mean, _noise(cxcywh, 2 * _POSITION_NOISE, 10 * _VELOCITY_NOISE)


def predict(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One frame on."""
    moved = mean @ _MOTION.T
    moved[:, 2:4] = np.maximum(moved[:, 2:4], 1.0)  # a long-lost box must not shrink to nothing
    return moved, _MOTION @ covariance @ _MOTION.T + _noise(mean, _POSITION_NOISE, _VELOCITY_NOISE)


def update(mean: np.ndarray, covariance: np.ndarray, cxcywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correct predicted tracks with the boxes `cxcywh` `[n, 4]` they were matched to."""
    innovation = covariance[:, :4, :4] + _noise(mean, _POSITION_NOISE)
    gain = np.linalg.solve(innovation, covariance[:, :4, :]).transpose(0, 2, 1)  # [n, 8, 4]
    corrected = mean + (gain @ (cxcywh - mean[:, :4])[:, :, None])[:, :, 0]
    return corrected, covariance - gain @ covariance[:, :4, :]


def _noise(boxes: np.ndarray, *shares: float) -> np.ndarray:
    """Covariance of independent errors, `shares` of the width and height of `boxes` `[n, 4 or more]`."""
    size = np.maximum(boxes[:, [2, 3, 2, 3]], 1.0)
    return np.square(np.concatenate([share * size for share in shares], axis=1))[:, :, None] * np.eye(4 * len(shares))
