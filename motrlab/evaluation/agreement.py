"""How alike the tracks of two stages are: one of them scored with the other as ground truth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from motrlab.data.motchallenge import Annotations
from motrlab.evaluation.metrics import Results, evaluate
from motrlab.evaluation.tracks import Tracks


def as_ground_truth(tracks: Tracks) -> Annotations:
    """Tracks as annotations of fully visible pedestrians."""
    ones = np.ones(len(tracks.frame), np.int64)
    return Annotations(tracks.frame, tracks.track_id, tracks.ltwh, ones, ones, ones.astype(np.float64), True)


def track_agreement(reference: Mapping[str, Tracks], other: Mapping[str, Tracks]) -> Results:
    """Metrics of `other` with `reference` as ground truth, protocol `hat`: 1 for the same tracks under any ids.

    Raises UserError if `other` has a sequence that `reference` lacks.
    """
    return evaluate({name: as_ground_truth(tracks) for name, tracks in reference.items()}, other, "hat")
