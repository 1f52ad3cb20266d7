"""Tracks scored with other tracks as ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.errors import UserError
from motrlab.evaluation.agreement import as_ground_truth, track_agreement
from motrlab.evaluation.metrics import OVERALL
from motrlab.evaluation.tracks import Tracks


def tracks(ids: tuple[int, ...] = (1, 2), frames: int = 10, shift: float = 0.0) -> Tracks:
    rows = [(f, i, 50.0 * i + f + shift, 20.0, 20.0, 40.0, 0.3) for f in range(1, frames + 1) for i in ids]
    return Tracks.from_rows(rows)


def test_the_same_tracks_under_other_ids_agree_fully() -> None:
    found = track_agreement({"A": tracks((1, 2))}, {"A": tracks((1, 2))})[OVERALL]
    assert (found["idf1"], found["mota"], found["idsw"]) == (1.0, 1.0, 0)
    renamed = Tracks(tracks().frame, tracks().track_id + 7, tracks().ltwh, tracks().score)
    assert track_agreement({"A": tracks()}, {"A": renamed})[OVERALL]["idf1"] == 1.0


def test_what_differs_is_counted() -> None:
    reference, other = tracks((1, 2)), tracks((1,))
    found = track_agreement({"A": reference}, {"A": other})[OVERALL]
    assert found["fn"] == 10
    assert found["idf1"] == pytest.approx(2 * 10 / (20 + 10))
    swapped = Tracks(reference.frame, np.where(reference.frame > 5, 3 - reference.track_id, reference.track_id),
                     reference.ltwh, reference.score)  # fmt: skip
    found = track_agreement({"A": reference}, {"A": swapped})[OVERALL]
    assert found["idsw"] == 2
    assert found["idf1"] == 0.5


def test_a_sequence_without_tracks_counts_as_missed() -> None:
    found = track_agreement({"A": tracks(), "B": tracks()}, {"A": tracks()})
    assert found["B"]["fn"] == 20
    with pytest.raises(UserError, match="no ground truth"):
        track_agreement({"A": tracks()}, {"B": tracks()})


def test_every_row_is_a_visible_pedestrian() -> None:
    gt = as_ground_truth(tracks())
    assert len(gt.people) == len(tracks())
    assert (gt.visibility == 1).all()
