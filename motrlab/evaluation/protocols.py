"""What counts as ground truth and as a prediction: the protocols, and a sequence made ready for the metrics.

`motchallenge` is the benchmark's rule: people with a non-zero flag count, and a prediction that lies on something
person-like (a reflection, a mannequin, someone on a vehicle) is neither right nor wrong. `hat` is the rule of the
reference system: every box with flag 1 counts, whatever its class, and nothing is forgiven.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_ltwh_to_xyxy, pairwise_iou
from motrlab.data.motchallenge import Annotations
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks

IOU_THRESHOLD = 0.5  # of both protocols, DESIGN.md
# An IoU that misses the threshold by one rounding error still reaches it, as in TrackEval's CLEAR and preprocessing.
IOU_SLACK = float(np.finfo(float).eps)
PEDESTRIAN = 1  # class ids of MOT16 (arXiv 1603.00831, table 3)
DISTRACTORS = (2, 7, 8, 12)  # person on vehicle, static person, distractor, reflection
PROTOCOLS = ("motchallenge", "hat")


@dataclass(frozen=True)
class FramePairs:
    """One frame: `gt_ids` int64 [g], `pred_ids` int64 [p] (both numbered from 0 in the sequence), `iou` [g, p]."""

    gt_ids: np.ndarray
    pred_ids: np.ndarray
    iou: np.ndarray


@dataclass(frozen=True)
class PairedSequence:
    """The frames that hold a gt box or a prediction, in order, after the protocol's removals."""

    frames: tuple[FramePairs, ...]
    num_gt_ids: int
    num_pred_ids: int

    @property
    def num_gt(self) -> int:
        """Ground truth boxes."""
        return sum(len(frame.gt_ids) for frame in self.frames)

    @property
    def num_pred(self) -> int:
        """Predicted boxes."""
        return sum(len(frame.pred_ids) for frame in self.frames)


def check_protocol(protocol: str) -> str:
    """`protocol` itself. Raises UserError when there is none of that name."""
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return protocol


def prepare_sequence(gt: Annotations, pred: Tracks, protocol: str) -> PairedSequence:
    """Apply `protocol` to a sequence and compute the IoU of what is left, frame by frame."""
    counts = _counted_gt(gt, check_protocol(protocol))
    removes = protocol == "motchallenge" and gt.has_class
    gt_boxes, pred_boxes = box_ltwh_to_xyxy(gt.ltwh), box_ltwh_to_xyxy(pred.ltwh)
    frames: list[FramePairs] = []
    for gt_rows, pred_rows in _rows_by_frame(gt.frame, pred.frame):
        iou = pairwise_iou(gt_boxes[gt_rows], pred_boxes[pred_rows])
        keep = np.ones(len(pred_rows), dtype=bool)
        if removes and iou.size:
            keep[_on_distractor(iou, gt.class_id[gt_rows])] = False
        counted = counts[gt_rows]
        frames.append(
            FramePairs(gt.track_id[gt_rows][counted], pred.track_id[pred_rows][keep], iou[np.ix_(counted, keep)])
        )
    return _number_ids(frames)


def _counted_gt(gt: Annotations, protocol: str) -> np.ndarray:
    """Which gt boxes a tracker has to find, bool [n]."""
    if protocol == "hat":
        return gt.flag == 1
    if gt.has_class:
        return (gt.flag != 0) & (gt.class_id == PEDESTRIAN)
    return gt.flag != 0


def _on_distractor(iou: np.ndarray, class_id: np.ndarray) -> np.ndarray:
    """Columns of `iou` matched to a distractor, when all gt boxes of the frame compete for the predictions."""
    score = np.where(iou < IOU_THRESHOLD - IOU_SLACK, 0.0, iou)
    rows, columns = linear_sum_assignment(-score)
    matched = score[rows, columns] > IOU_SLACK
    return columns[matched & np.isin(class_id[rows], DISTRACTORS)]


def _rows_by_frame(gt_frame: np.ndarray, pred_frame: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row indices of each frame, gt and predictions. Rows keep their order: it decides ties between equal matches."""
    frames = np.union1d(gt_frame, pred_frame)
    groups = []
    for frame in (gt_frame, pred_frame):
        order = np.argsort(frame, kind="stable")
        groups.append(np.split(order, np.searchsorted(frame[order], frames[1:])))
    return zip(*groups, strict=True)


def _number_ids(frames: list[FramePairs]) -> PairedSequence:
    """Number the ids that are left from 0, so that metrics can index with them."""
    empty = [np.zeros(0, dtype=np.int64)]
    gt_ids = np.unique(np.concatenate([f.gt_ids for f in frames] or empty))
    pred_ids = np.unique(np.concatenate([f.pred_ids for f in frames] or empty))
    numbered = tuple(
        FramePairs(np.searchsorted(gt_ids, f.gt_ids), np.searchsorted(pred_ids, f.pred_ids), f.iou)
        for f in frames
        if len(f.gt_ids) + len(f.pred_ids)
    )
    return PairedSequence(numbered, len(gt_ids), len(pred_ids))
