"""Identity metrics (arXiv 1609.01775): boxes under the best one-to-one assignment of whole tracks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from motrlab.evaluation.pairs import IOU_THRESHOLD, PairedSequence


def count(sequence: PairedSequence) -> dict[str, Any]:
    """Counts of one sequence; they add up over sequences."""
    near = sequence.iou >= IOU_THRESHOLD
    gt_ids, row = np.unique(sequence.gt_id[sequence.pair_gt[near]], return_inverse=True)
    pred_ids, column = np.unique(sequence.pred_id[sequence.pair_pred[near]], return_inverse=True)
    shape = (len(gt_ids), len(pred_ids))
    together = np.bincount(row * len(pred_ids) + column, minlength=len(gt_ids) * len(pred_ids)).reshape(shape)
    idtp = int(together[linear_sum_assignment(together, maximize=True)].sum())
    return {"idtp": idtp, "idfp": len(sequence.pred_id) - idtp, "idfn": len(sequence.gt_id) - idtp}


def metrics(counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
    """Fractions from 0 to 1."""
    idtp, idfp, idfn = counts["idtp"], counts["idfp"], counts["idfn"]
    return {
        "idf1": idtp / max(1.0, idtp + 0.5 * (idfp + idfn)),
        "idp": idtp / max(1, idtp + idfp),
        "idr": idtp / max(1, idtp + idfn),
    }
