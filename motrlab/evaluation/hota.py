"""HOTA (arXiv 2009.07736): detection and association accuracy in one number, averaged over localisation thresholds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from motrlab.evaluation.pairs import IOU_SLACK, PairedSequence

ALPHAS = np.arange(0.05, 0.99, 0.05)  # the paper's 19 localisation thresholds


def count(sequence: PairedSequence) -> dict[str, Any]:
    """Sums over matches for each of the 19 thresholds, float64 [19]; they add up over sequences.

    `association` is the sum of A(c) over the true positives c (equation 15), so that AssA is its mean.
    """
    num_tracks = max(1, len(sequence.pred_length))
    of_pair = sequence.gt_id[sequence.pair_gt] * num_tracks + sequence.pred_id[sequence.pair_pred]
    tracks, of_pair = np.unique(of_pair, return_inverse=True)  # pairs of whole tracks that ever overlap
    gt, pred = np.divmod(tracks, num_tracks)
    length = sequence.gt_length[gt] + sequence.pred_length[pred]

    together = np.bincount(of_pair, weights=_shares(sequence), minlength=len(tracks))
    score = (together / (length - together))[of_pair] * sequence.iou  # a soft Jaccard index steers the matching
    matched = sequence.match(sequence.iou > 0, lambda frame, _: score[sequence.span(frame)])

    hits = sequence.iou[matched] >= ALPHAS[:, None] - IOU_SLACK  # [19, matches]
    tp = hits.sum(1).astype(float)
    # TPA of a match: how often its two tracks are matched to each other at this threshold.
    tpa = np.stack([np.bincount(of_pair[matched][hit], minlength=len(tracks)) for hit in hits])
    association = (tpa * tpa / np.maximum(1, length - tpa)).sum(1)
    return {"tp": tp, "fn": len(sequence.gt_id) - tp, "fp": len(sequence.pred_id) - tp, "association": association}


def _shares(sequence: PairedSequence) -> np.ndarray:
    """How much of all overlap of its two boxes each pair is, fraction 0 to 1; 1 where neither overlaps another."""
    shares = np.ones(len(sequence.iou))
    for frame in sequence.contested(sequence.iou > 0):
        span = sequence.span(frame)
        iou = sequence.matrix(frame, sequence.iou[span])
        overlap = (iou.sum(0)[None, :] + iou.sum(1)[:, None] - iou)[iou > 0]
        shares[span] = np.divide(sequence.iou[span], overlap, out=np.zeros(len(overlap)), where=overlap > IOU_SLACK)
    return shares


def metrics(counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
    """Fractions from 0 to 1, means over the thresholds; `hota` is the geometric mean of both at each threshold."""
    deta = counts["tp"] / np.maximum(1, counts["tp"] + counts["fn"] + counts["fp"])
    assa = counts["association"] / np.maximum(1, counts["tp"])
    return {"hota": float(np.sqrt(deta * assa).mean()), "deta": float(deta.mean()), "assa": float(assa.mean())}
