"""Which boxes are misses, false positives and switches, frame by frame: what CLEAR counts, as rows to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations
from motrlab.evaluation import clear
from motrlab.evaluation.pairs import pair_rows
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tracks import Tracks


@dataclass(frozen=True)
class Mistakes:
    """Rows of the ground truth and of the tracks, int64.

    `missed` of the first, `false` of the second; `matched` `[m, 2]` of both, pairs that belong together; `switched`
    `[s, 3]` those of them in which a person has another track than before, and that track's row. `frames`: sorted, all
    that have a mistake.
    """

    missed: np.ndarray
    false: np.ndarray
    matched: np.ndarray
    switched: np.ndarray
    frames: np.ndarray

    def counts(self, gt: Annotations, tracks: Tracks, frame: int) -> dict[str, int]:
        """`fn`, `fp` and `idsw` of one frame; `gt` and `tracks` as given to `find_mistakes`."""
        found = {"fn": gt.frame[self.missed], "fp": tracks.frame[self.false], "idsw": gt.frame[self.switched[:, 0]]}
        return {name: int((frames == frame).sum()) for name, frames in found.items()}


def find_mistakes(gt: Annotations, tracks: Tracks, protocol: str = PROTOCOLS[0], classes: Classes = PEOPLE) -> Mistakes:
    """The mistakes of one sequence under `protocol`; their numbers are `fn`, `fp` and `idsw` of the metrics."""
    sequence, gt_rows, track_rows = pair_rows(gt, tracks, protocol, classes)
    matches = clear.correspondences(sequence)
    changed, before = clear.switches(sequence, matches)
    matched, switched = (
        np.column_stack((gt_rows[sequence.pair_gt[pairs]], track_rows[sequence.pair_pred[pairs]]))
        for pairs in (matches, changed)
    )
    switched = np.column_stack((switched, track_rows[sequence.pair_pred[before]]))
    missed, false = np.setdiff1d(gt_rows, matched[:, 0]), np.setdiff1d(track_rows, matched[:, 1])
    frames = np.unique(np.concatenate((gt.frame[missed], tracks.frame[false], gt.frame[switched[:, 0]])))
    return Mistakes(missed, false, matched, switched, frames)
