"""`--engine motmetrics`: CLEAR and identity counted by py-motmetrics alone, by its own rules. It has no HOTA.

It gets the boxes that a protocol leaves and their distances, nothing else. It carries a pair on from *any* earlier
frame and then matches as many boxes as it can, where the benchmark carries on from the frame before only and
then maximises the summed IoU; 80 % is mostly tracked for it, and a fragment needs a gap of frames that it was shown.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from motrlab.evaluation import clear, identity
from motrlab.evaluation.pairs import IOU_SLACK, IOU_THRESHOLD, PairedSequence

_NAMES = {
    "tp": "num_detections", "fp": "num_false_positives", "fn": "num_misses", "idsw": "num_switches",
    "frag": "num_fragmentations", "mt": "mostly_tracked", "pt": "partially_tracked", "ml": "mostly_lost",
    "idtp": "idtp", "idfp": "idfp", "idfn": "idfn",
}  # fmt: skip


def count(sequence: PairedSequence) -> dict[str, Any]:
    """Counts of one sequence; they add up over sequences."""
    if not len(sequence.gt_id) or not len(sequence.pred_id):  # motmetrics divides by both
        return clear.count(sequence) | identity.count(sequence)
    import motmetrics

    accumulator = motmetrics.MOTAccumulator()
    distance = np.where(sequence.iou >= IOU_THRESHOLD - IOU_SLACK, 1 - sequence.iou, np.nan)
    for frame in np.union1d(sequence.gt_frame, sequence.pred_frame):
        gt, pred = np.flatnonzero(sequence.gt_frame == frame), np.flatnonzero(sequence.pred_frame == frame)
        pairs = np.flatnonzero(sequence.gt_frame[sequence.pair_gt] == frame)
        distances = np.full((len(gt), len(pred)), np.nan)
        if len(pairs):
            distances[sequence.pair_gt[pairs] - gt[0], sequence.pair_pred[pairs] - pred[0]] = distance[pairs]
        accumulator.update(sequence.gt_id[gt], sequence.pred_id[pred], distances, frameid=frame)
    names = [*_NAMES.values(), "motp"]
    found = motmetrics.metrics.create().compute(accumulator, metrics=names, return_dataframe=False)
    counts: dict[str, Any] = {ours: round(found[theirs]) for ours, theirs in _NAMES.items()}
    return counts | {"iou": counts["tp"] * (1 - float(found["motp"])) if counts["tp"] else 0.0}


def metrics(counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
    """As those of `clear` and `identity`."""
    return clear.metrics(counts, overall=overall) | identity.metrics(counts, overall=overall)
