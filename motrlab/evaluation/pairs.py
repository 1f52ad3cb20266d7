"""A sequence made ready for the metrics: the protocol applied, and every pair of overlapping boxes with its IoU.

Pairs are kept flat, for all frames at once. Matching people and predictions is only a question where a box has two
candidates, so the metrics count in whole arrays and solve an assignment in those frames alone. Where several
solutions are equally good, the one of TrackEval is found: it gets the same matrix, to the bit, in the same order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_ltwh_to_xyxy
from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations
from motrlab.errors import UserError
from motrlab.evaluation.protocols import RULES
from motrlab.evaluation.tracks import Tracks

IOU_THRESHOLD = 0.5  # of all protocols, DESIGN.md
# An IoU that misses the threshold by one rounding error still reaches it, as in TrackEval's CLEAR and preprocessing.
IOU_SLACK = float(np.finfo(float).eps)
_CHUNK = 1_000_000  # pairs of boxes looked at together: bounds the memory


@dataclass(frozen=True)
class PairedSequence:
    """Boxes of one sequence, sorted by frame, and the pairs that overlap.

    `gt_frame`, `gt_id` int64 [g]; `pred_frame`, `pred_id` int64 [p]; `pair_gt`, `pair_pred` int64 [n] are rows of
    these, sorted, `iou` float64 [n] is above 0. Ids are numbered from 0. A "frame" below is the index of a
    frame that has gt boxes and predictions: the others match nothing.
    """

    gt_frame: np.ndarray
    gt_id: np.ndarray
    pred_frame: np.ndarray
    pred_id: np.ndarray
    pair_gt: np.ndarray
    pair_pred: np.ndarray
    iou: np.ndarray

    @cached_property
    def gt_length(self) -> np.ndarray:
        """Boxes of every gt id."""
        return np.bincount(self.gt_id)

    @cached_property
    def pred_length(self) -> np.ndarray:
        """Boxes of every predicted id."""
        return np.bincount(self.pred_id)

    @cached_property
    def frame(self) -> np.ndarray:
        """Of each pair."""
        return np.searchsorted(self._frames, self.gt_frame[self.pair_gt])

    @cached_property
    def _frames(self) -> np.ndarray:
        return np.intersect1d(self.gt_frame, self.pred_frame)

    @cached_property
    def _bounds(self) -> list[tuple[int, int, int, int, int, int]]:
        """First row and row after the last, of gt, of predictions and of pairs, for each frame."""
        numbers = (self.gt_frame, self.pred_frame, self.gt_frame[self.pair_gt])
        bounds = [np.searchsorted(n, self._frames, side) for n in numbers for side in ("left", "right")]
        return list(zip(*(b.tolist() for b in bounds), strict=True))

    def span(self, frame: int) -> slice:
        """The frame's pairs."""
        return slice(*self._bounds[frame][4:])

    def matrix(self, frame: int, values: np.ndarray) -> np.ndarray:
        """A number for each of the frame's pairs as `[gt boxes, predictions]`, 0 where boxes do not overlap."""
        gt, gt_end, pred, pred_end, begin, end = self._bounds[frame]
        found = np.zeros((gt_end - gt, pred_end - pred))
        found[self.pair_gt[begin:end] - gt, self.pair_pred[begin:end] - pred] = values
        return found

    def match(self, candidates: np.ndarray, score: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
        """Which of the `candidates`, bool [n], are matched, one to one, so that each frame's sum of scores is greatest.

        Where no box of a frame has two of them, that is all. In other frames, in order, `score(frame, matched)` gives
        the positive scores of the frame's pairs; `matched` is settled up to the frame before.
        """
        matched = candidates.copy()
        for frame in self.contested(candidates):
            gt, gt_end, pred, _, begin, end = self._bounds[frame]
            scores = np.where(candidates[begin:end], score(frame, matched), 0.0)
            partner = np.full(gt_end - gt, -1)
            rows, columns = linear_sum_assignment(self.matrix(frame, scores), maximize=True)
            partner[rows] = columns
            together = partner[self.pair_gt[begin:end] - gt] == self.pair_pred[begin:end] - pred
            matched[begin:end] &= together
        return matched

    def contested(self, candidates: np.ndarray) -> list[int]:
        """Frames in which a box has several candidates."""
        again = np.zeros(len(candidates), bool)
        for rows, num_rows in ((self.pair_gt, len(self.gt_id)), (self.pair_pred, len(self.pred_id))):
            again |= np.bincount(rows[candidates], minlength=num_rows)[rows] > 1
        return np.unique(self.frame[again & candidates]).tolist()

    def select(self, gt: np.ndarray, pred: np.ndarray) -> "PairedSequence":
        """The boxes that two masks name, ids numbered from 0."""
        kept = gt[self.pair_gt] & pred[self.pair_pred]
        return PairedSequence(
            self.gt_frame[gt],
            np.unique(self.gt_id[gt], return_inverse=True)[1],
            self.pred_frame[pred],
            np.unique(self.pred_id[pred], return_inverse=True)[1],
            (np.cumsum(gt) - 1)[self.pair_gt[kept]],
            (np.cumsum(pred) - 1)[self.pair_pred[kept]],
            self.iou[kept],
        )


def pair_sequence(gt: Annotations, pred: Tracks, protocol: str, classes: Classes = PEOPLE) -> PairedSequence:
    """Pair the boxes of each frame and apply `protocol`, a name in `RULES`.

    Rows of one frame keep their order: it decides between matches that are equally good. Boxes of different tracked
    `classes` are no pair. Raises UserError for tracks with classes where only people are tracked.
    """
    return pair_rows(gt, pred, protocol, classes)[0]


def pair_rows(
    gt: Annotations, pred: Tracks, protocol: str, classes: Classes = PEOPLE
) -> tuple[PairedSequence, np.ndarray, np.ndarray]:
    """`pair_sequence`, and which rows of `gt` and of `pred` its boxes are: int64 `[g]`, `[p]`."""
    rule = RULES[protocol].of(classes)
    if len(classes) == 1 and (pred.class_id >= 0).any():
        raise UserError("tracks of several classes, but the ground truth's seqinfo.ini does not say `classes=`; add it")
    gt_order, pred_order = (np.argsort(frame, kind="stable") for frame in (gt.frame, pred.frame))
    gt_frame, pred_frame = gt.frame[gt_order], pred.frame[pred_order]
    pairs = zip(*_overlaps(gt_frame, gt.ltwh[gt_order], pred_frame, pred.ltwh[pred_order]), strict=True)
    found = PairedSequence(
        gt_frame, gt.track_id[gt_order], pred_frame, pred.track_id[pred_order], *map(np.concatenate, pairs)
    )
    counts, keep = gt.flag[gt_order] != 0, np.ones(len(pred_frame), bool)
    if gt.has_class and rule.targets is not None:
        counts &= np.isin(gt.class_id[gt_order], list(rule.targets))
    if gt.has_class and rule.removed:  # all gt boxes compete for the predictions, whatever their class and flag
        removed = np.isin(gt.class_id[gt_order], list(rule.removed))
        beside = np.isin(gt_frame, gt_frame[removed])[found.pair_gt]  # other frames have nothing to take away
        near = beside & (found.iou >= IOU_THRESHOLD - IOU_SLACK)
        if len(classes) > 1:  # it is people that they are mistaken for
            near &= pred.class_id[pred_order][found.pair_pred] == PEOPLE.numbers[0]
        matched = found.match(near, lambda frame, _: found.iou[found.span(frame)])
        keep[found.pair_pred[matched & removed[found.pair_gt]]] = False
    if len(classes) > 1:
        same = gt.class_id[gt_order][found.pair_gt] == pred.class_id[pred_order][found.pair_pred]
        one, other, iou = (x[same] for x in (found.pair_gt, found.pair_pred, found.iou))
        found = replace(found, pair_gt=one, pair_pred=other, iou=iou)
    return found.select(counts, keep), gt_order[counts], pred_order[keep]


def _overlaps(
    gt_frame: np.ndarray, gt_ltwh: np.ndarray, pred_frame: np.ndarray, pred_ltwh: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of gt and of predictions in one frame that overlap, and their IoU; at least one chunk."""
    begin = np.searchsorted(pred_frame, gt_frame, "left")
    count = np.searchsorted(pred_frame, gt_frame, "right") - begin  # boxes beside each gt box
    corners = [np.ascontiguousarray(box_ltwh_to_xyxy(boxes).T) for boxes in (gt_ltwh, pred_ltwh)]
    (gt_x0, gt_y0, gt_x1, gt_y1), (x0, y0, x1, y1) = corners
    gt_area, area = (gt_x1 - gt_x0) * (gt_y1 - gt_y0), (x1 - x0) * (y1 - y0)
    cuts = np.flatnonzero(np.diff(np.cumsum(count) // _CHUNK)) + 1
    for rows in np.split(np.arange(len(count)), cuts):
        counts = count[rows]
        gt = np.repeat(rows, counts)
        pred = np.arange(len(gt)) + np.repeat(begin[rows] - np.cumsum(counts) + counts, counts)
        width = np.minimum(gt_x1[gt], x1[pred]) - np.maximum(gt_x0[gt], x0[pred])
        beside = np.flatnonzero(width > 0)
        gt, pred, width = gt[beside], pred[beside], width[beside]
        height = np.maximum(0, np.minimum(gt_y1[gt], y1[pred]) - np.maximum(gt_y0[gt], y0[pred]))
        iou = width * height / (gt_area[gt] + area[pred] - width * height)
        over = np.flatnonzero(iou > 0)
        yield gt[over], pred[over], iou[over]
