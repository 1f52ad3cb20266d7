"""CLEAR MOT (Bernardin and Stiefelhagen 2008): hits, misses, switches, fragments, people mostly tracked or lost.

A pair of the frame before goes on while its IoU reaches the threshold; the rest maximises the summed IoU. A frame
without gt or without predictions is skipped: the pairs before it still count as those before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from motrlab.evaluation.pairs import IOU_SLACK, IOU_THRESHOLD, PairedSequence

_CONTINUED = 1000.0  # outweighs any sum of IoUs in a frame: a pair of the frame before comes first
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # shares of a person's boxes, as used by MOTChallenge


def correspondences(sequence: PairedSequence) -> np.ndarray:
    """The pairs that belong together, in the order of frames."""
    gt_id, pred_id = sequence.gt_id[sequence.pair_gt], sequence.pred_id[sequence.pair_pred]
    before = np.full(len(sequence.gt_length), -1)  # predicted id of each gt id

    def score(frame: int, matched: np.ndarray) -> np.ndarray:
        before[:] = -1
        if frame:
            last = sequence.span(frame - 1)
            before[gt_id[last][matched[last]]] = pred_id[last][matched[last]]
        span = sequence.span(frame)
        return _CONTINUED * (before[gt_id[span]] == pred_id[span]) + sequence.iou[span]

    return np.flatnonzero(sequence.match(sequence.iou >= IOU_THRESHOLD - IOU_SLACK, score))


def switches(sequence: PairedSequence, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of `matches`, from `correspondences`, in which a person has another track than before, sorted; and for each
    the match before it.
    """
    order, _, changed = _successions(sequence, matches)
    now, before = matches[order[1:][changed]], matches[order[:-1][changed]]
    by_frame = np.argsort(now)
    return now[by_frame], before[by_frame]


def _successions(sequence: PairedSequence, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the matches by person and frame; of each but the first, whether it is the same person as in the one
    before it, and whether it is so with another track."""
    person, track = sequence.gt_id[sequence.pair_gt[matches]], sequence.pred_id[sequence.pair_pred[matches]]
    order = np.argsort(person, kind="stable")  # by person, and within a person by frame
    known = np.diff(person[order]) == 0
    return order, known, known & (np.diff(track[order]) != 0)


def count(sequence: PairedSequence) -> dict[str, Any]:
    """Counts of one sequence; they add up over sequences. `iou` runs over the true positives."""
    matches = correspondences(sequence)
    person = sequence.gt_id[sequence.pair_gt[matches]]
    order, known, changed = _successions(sequence, matches)
    ratio = np.bincount(person, minlength=len(sequence.gt_length)) / sequence.gt_length
    mt, ml = int((ratio > MOSTLY_TRACKED).sum()), int((ratio < MOSTLY_LOST).sum())
    return {
        "tp": len(matches),
        "fp": len(sequence.pred_id) - len(matches),
        "fn": len(sequence.gt_id) - len(matches),
        "idsw": int(changed.sum()),
        "frag": int((known & (np.diff(sequence.frame[matches][order]) > 1)).sum()),
        "mt": mt,
        "pt": len(ratio) - mt - ml,
        "ml": ml,
        "iou": float(sequence.iou[matches].sum()),
    }


def metrics(counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
    """`mota` at most 1, negative where errors outnumber boxes; `motp` mean IoU of the matches, 0 to 1; counts.

    Without any gt box `mota` is 0 for a sequence and minus the false positives over all, as in TrackEval.
    """
    tp, fp, idsw, num_gt = counts["tp"], counts["fp"], counts["idsw"], counts["tp"] + counts["fn"]
    mota = (tp - fp - idsw) / max(1, num_gt) if num_gt or overall else 0.0
    shown = ("fp", "fn", "idsw", "frag", "mt", "pt", "ml")
    return {"mota": mota, "motp": counts["iou"] / max(1, tp), **{k: counts[k] for k in shown}, "num_gt": num_gt}
