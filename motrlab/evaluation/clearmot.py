"""CLEAR and identity metrics, counted by motmetrics.

motmetrics carries a pair on from *any* earlier frame and matches as many boxes as it can; the benchmark's tool,
TrackEval, carries on from the frame before only and maximises the summed IoU. The difference is small, but numbers
are only comparable where it is none. So we decide the correspondences by the benchmark's rule and hand motmetrics
distances in which nothing else is possible; motmetrics keeps the books: switches, misses, track ratios, and the
global assignment of identities. Its own `iou_matrix` is not used (broken on NumPy 2), nor its fragment count (slow,
and blind to fragments around an absence).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import motmetrics
import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.evaluation.protocols import IOU_SLACK, IOU_THRESHOLD, FramePairs, PairedSequence

_CONTINUED = 1000.0  # outweighs any sum of IoUs in a frame: a pair of the frame before comes first
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # shares of a person's boxes, CLEAR MOT as used by MOTChallenge


@dataclass(frozen=True)
class ClearCounts:
    """Counts of CLEAR MOT; they add up over sequences. `iou_sum` runs over the true positives."""

    tp: int
    fp: int
    fn: int
    idsw: int
    frag: int
    mt: int
    pt: int
    ml: int
    iou_sum: float

    @property
    def num_gt(self) -> int:
        return self.tp + self.fn

    @property
    def mota(self) -> float:
        """At most 1, negative where errors outnumber the boxes; 0 where there is no ground truth."""
        return (self.tp - self.fp - self.idsw) / self.num_gt if self.num_gt else 0.0

    @property
    def motp(self) -> float:
        """Mean IoU of the matches, fraction 0 to 1; 0 where nothing matched."""
        return self.iou_sum / self.tp if self.tp else 0.0


@dataclass(frozen=True)
class IdCounts:
    """Boxes under the best one-to-one assignment of whole tracks (arXiv 1609.01775); they add up over sequences."""

    idtp: int
    idfp: int
    idfn: int

    @property
    def idf1(self) -> float:
        """Fraction 0 to 1."""
        return self.idtp / max(1.0, self.idtp + 0.5 * (self.idfp + self.idfn))

    @property
    def idp(self) -> float:
        """Fraction 0 to 1."""
        return self.idtp / max(1, self.idtp + self.idfp)

    @property
    def idr(self) -> float:
        """Fraction 0 to 1."""
        return self.idtp / max(1, self.idtp + self.idfn)


def count_clear(sequence: PairedSequence) -> ClearCounts:
    """CLEAR counts of one sequence."""
    num_gt, num_pred = sequence.num_gt, sequence.num_pred
    if not num_gt or not num_pred:  # motmetrics divides by both
        return ClearCounts(0, num_pred, num_gt, 0, 0, 0, 0, sequence.num_gt_ids, 0.0)
    matches = _correspondences(sequence)
    distances = []
    for frame, (rows, columns) in zip(sequence.frames, matches, strict=True):
        distance = np.full(frame.iou.shape, np.nan)
        distance[rows, columns] = 1 - frame.iou[rows, columns]
        distances.append(distance)
    names = ["num_detections", "num_false_positives", "num_misses", "num_switches", "motp", "track_ratios"]
    found = _summarise(_accumulate(sequence.frames, distances), names)
    ratios = found["track_ratios"].to_numpy()
    mt, ml = int((ratios > MOSTLY_TRACKED).sum()), int((ratios < MOSTLY_LOST).sum())
    tp = int(found["num_detections"])
    return ClearCounts(
        tp=tp,
        fp=int(found["num_false_positives"]),
        fn=int(found["num_misses"]),
        idsw=int(found["num_switches"]),
        frag=_fragments(sequence.frames, matches),
        mt=mt,
        pt=len(ratios) - mt - ml,
        ml=ml,
        iou_sum=tp * (1 - float(found["motp"])) if tp else 0.0,
    )


def count_identity(sequence: PairedSequence) -> IdCounts:
    """Identity counts of one sequence."""
    num_gt, num_pred = sequence.num_gt, sequence.num_pred
    if not num_gt or not num_pred:
        return IdCounts(0, num_pred, num_gt)
    distances = [np.where(frame.iou >= IOU_THRESHOLD, 1 - frame.iou, np.nan) for frame in sequence.frames]
    found = _summarise(_accumulate(sequence.frames, distances), ["idtp", "idfp", "idfn"])
    return IdCounts(**{name: round(value) for name, value in found.items()})


@cache
def _metrics_host() -> Any:
    return motmetrics.metrics.create()


def _summarise(accumulator: Any, names: list[str]) -> dict[str, Any]:
    return dict(_metrics_host().compute(accumulator, metrics=names, return_dataframe=False))


def _accumulate(frames: Iterable[FramePairs], distances: Iterable[np.ndarray]) -> Any:
    accumulator = motmetrics.MOTAccumulator()
    for index, (frame, distance) in enumerate(zip(frames, distances, strict=True)):
        accumulator.update(frame.gt_ids, frame.pred_ids, distance, frameid=index)
    return accumulator


def _correspondences(sequence: PairedSequence) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of `iou` that belong together, for each frame.

    A pair of the frame before goes on while its IoU reaches the threshold; the rest maximises the summed IoU.
    A frame without gt or without predictions is passed over: the pairs before it still count as those before.
    """
    before = np.full(sequence.num_gt_ids, -1)  # predicted id of each gt id
    matches = []
    for frame in sequence.frames:
        if not frame.iou.size:
            matches.append((np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)))
            continue
        continued = before[frame.gt_ids][:, None] == frame.pred_ids[None, :]
        score = np.where(frame.iou < IOU_THRESHOLD - IOU_SLACK, 0.0, _CONTINUED * continued + frame.iou)
        rows, columns = linear_sum_assignment(-score)
        matched = score[rows, columns] > IOU_SLACK
        rows, columns = rows[matched], columns[matched]
        before[:] = -1
        before[frame.gt_ids[rows]] = frame.pred_ids[columns]
        matches.append((rows, columns))
    return matches


def _fragments(frames: Iterable[FramePairs], matches: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """How often people are found again after a gap: runs of matched frames, less the first run of each person."""
    gt_ids, steps, step = [], [], 0
    for frame, (rows, _) in zip(frames, matches, strict=True):
        if frame.iou.size:  # a frame without gt or predictions makes no gap, as in `_correspondences`
            gt_ids.append(frame.gt_ids[rows])
            steps.append(np.full(len(rows), step))
            step += 1
    if not gt_ids:
        return 0
    person, when = np.concatenate(gt_ids), np.concatenate(steps)
    order = np.lexsort((when, person))
    return int(((np.diff(person[order]) == 0) & (np.diff(when[order]) > 1)).sum())
