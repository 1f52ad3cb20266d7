"""HOTA (arXiv 2009.07736): detection and association accuracy in one number, averaged over localisation thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.evaluation.protocols import IOU_SLACK, PairedSequence

ALPHAS = np.arange(0.05, 0.99, 0.05)  # the paper's 19 localisation thresholds


@dataclass(frozen=True)
class HotaCounts:
    """Sums over matches for each of the 19 thresholds, float64 [19]; they add up over sequences.

    `association` is the sum of A(c) over the true positives c (equation 15), so that AssA is its mean.
    """

    tp: np.ndarray
    fn: np.ndarray
    fp: np.ndarray
    association: np.ndarray

    def _deta(self) -> np.ndarray:
        return self.tp / np.maximum(1, self.tp + self.fn + self.fp)

    def _assa(self) -> np.ndarray:
        return self.association / np.maximum(1, self.tp)

    @property
    def deta(self) -> float:
        """Detection accuracy, mean over the thresholds, fraction 0 to 1."""
        return float(self._deta().mean())

    @property
    def assa(self) -> float:
        """Association accuracy, mean over the thresholds, fraction 0 to 1."""
        return float(self._assa().mean())

    @property
    def hota(self) -> float:
        """Geometric mean of both at each threshold, then the mean over the thresholds, fraction 0 to 1."""
        return float(np.sqrt(self._deta() * self._assa()).mean())


def count_hota(sequence: PairedSequence) -> HotaCounts:
    """The counts of one sequence."""
    gt_length, pred_length = _track_lengths(sequence)
    gt, pred, iou = _match(sequence, _alignment(sequence, gt_length, pred_length))
    hit = iou >= ALPHAS[:, None] - IOU_SLACK  # [19, matches]
    tp = hit.sum(1).astype(float)
    # TPA of a match: how often its two tracks are matched to each other at this threshold.
    pairs, pair_of_match = np.unique(gt * max(1, sequence.num_pred_ids) + pred, return_inverse=True)
    tpa = np.stack([np.bincount(pair_of_match[h], minlength=len(pairs)) for h in hit]).astype(float)
    pair_gt, pair_pred = np.divmod(pairs, max(1, sequence.num_pred_ids))
    union = gt_length[pair_gt] + pred_length[pair_pred] - tpa
    association = (tpa * tpa / np.maximum(1, union)).sum(1)
    return HotaCounts(tp=tp, fn=sequence.num_gt - tp, fp=sequence.num_pred - tp, association=association)


def _track_lengths(sequence: PairedSequence) -> tuple[np.ndarray, np.ndarray]:
    """Number of boxes of every gt id and of every predicted id."""
    gt_length, pred_length = np.zeros(sequence.num_gt_ids), np.zeros(sequence.num_pred_ids)
    for frame in sequence.frames:
        gt_length[frame.gt_ids] += 1
        pred_length[frame.pred_ids] += 1
    return gt_length, pred_length


def _alignment(sequence: PairedSequence, gt_length: np.ndarray, pred_length: np.ndarray) -> np.ndarray:
    """How well two tracks go together over the whole video, `[gt ids, pred ids]`: it steers the matching.

    A soft Jaccard index, where each frame contributes the pair's IoU as a share of all overlap of its two boxes.
    """
    together = np.zeros((sequence.num_gt_ids, sequence.num_pred_ids))
    for frame in sequence.frames:
        overlap = frame.iou.sum(0)[None, :] + frame.iou.sum(1)[:, None] - frame.iou
        share = np.divide(frame.iou, overlap, out=np.zeros_like(frame.iou), where=overlap > IOU_SLACK)
        together[np.ix_(frame.gt_ids, frame.pred_ids)] += share
    return together / (gt_length[:, None] + pred_length[None, :] - together)


def _match(sequence: PairedSequence, alignment: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-to-one matches of all frames: gt id, predicted id, IoU, each `[matches]`."""
    gt, pred, iou = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for frame in sequence.frames:
        if not frame.iou.size:
            continue
        score = alignment[np.ix_(frame.gt_ids, frame.pred_ids)] * frame.iou
        rows, columns = linear_sum_assignment(-score)
        gt.append(frame.gt_ids[rows])
        pred.append(frame.pred_ids[columns])
        iou.append(frame.iou[rows, columns])
    return np.concatenate(gt), np.concatenate(pred), np.concatenate(iou)
