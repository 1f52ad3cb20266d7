"""The baseline tracker and its filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, Detections
from motrlab.evaluation import bytetrack
from motrlab.evaluation.bytetrack import DEFAULT, GRID, choose_quantiles, track_detections

EVERYTHING = (0.0, 0.0)


def walk(frames: range | list[int], x: float, speed: float, score: float = 1.0) -> list[tuple[float, ...]]:
    """frame, ltwh, score of somebody who is at `x` in frame 0."""
    return [(frame, x + speed * frame, 50, 20, 50, score) for frame in frames]


def detections(*walks: list[tuple[float, ...]]) -> Detections:
    table = np.array([row for rows in walks for row in rows], dtype=float).reshape(-1, 6)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Detections(table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5])


def test_two_people_keep_their_ids() -> None:
    tracks = track_detections(detections(walk(range(1, 31), 0, 3), walk(range(1, 31), 300, -2)), EVERYTHING)
    assert len(tracks) == 60
    right = tracks.ltwh[:, 0] > 150
    assert len(set(tracks.track_id[right])) == len(set(tracks.track_id[~right])) == 1
    assert sorted(set(tracks.track_id)) == [1, 2]


def test_a_late_comer_needs_two_boxes() -> None:
    tracks = track_detections(detections(walk(range(1, 10), 0, 1), walk(range(4, 10), 200, 1), walk([6], 400, 0)),
                              EVERYTHING)  # fmt: skip
    late = tracks.ltwh[:, 0] > 150
    assert tracks.frame[late].tolist() == [5, 6, 7, 8, 9]  # and nothing of the single box at 400
    assert sorted(set(tracks.track_id)) == [1, 2]


@pytest.mark.parametrize(("gap", "num_ids"), [(5, 1), (30, 1), (31, 2)])
def test_a_lost_track_is_found_where_it_was_heading(gap: int, num_ids: int) -> None:
    there, back = list(range(1, 21)), list(range(21 + gap, 60 + gap))
    other = walk(range(1, 100), 900, 0)  # so that frames go on
    tracks = track_detections(detections(walk([*there, *back], 0, 3), other), EVERYTHING)
    # The first frame's row of `back` is missed by a track that has to be confirmed again.
    assert len(set(tracks.track_id[tracks.ltwh[:, 0] < 700])) == num_ids


def test_weak_detections_continue_tracks_but_start_none() -> None:
    strong, weak = walk(range(1, 11), 0, 2), walk(range(11, 21), 0, 2, score=0.3)
    noise = walk(range(1, 21), 500, 0, score=0.3)
    tracks = track_detections(detections(strong, weak, noise), (0.8, 0.8))
    assert set(tracks.track_id) == {1}
    assert tracks.frame.tolist() == list(range(1, 21))
    assert tracks.score[10:].tolist() == [0.3] * 10


def test_only_the_order_of_scores_matters() -> None:
    rng = np.random.default_rng(0)
    rows = [row for i in range(6) for row in walk(range(1, 40), 60 * i, rng.normal(0, 2))]
    found = detections([(*row[:5], rng.random()) for row in rows])
    scaled = replace(found, score=found.score * 80 - 5)
    ours, theirs = track_detections(found), track_detections(scaled)
    assert 0 < len(ours) < len(rows)
    np.testing.assert_array_equal(ours.track_id, theirs.track_id)
    np.testing.assert_array_equal(ours.ltwh, theirs.ltwh)


@pytest.mark.parametrize(("noise", "chosen"), [(0, (0.0, 0.0)), (1, (0.1, 0.2))])
def test_quantiles_are_those_that_suit_the_training_data(noise: int, chosen: tuple[float, float]) -> None:
    """A weak fifth of the boxes is a person, or is none: then it is best left out, if need be by births alone."""
    people = [walk(range(1, 41), 200 * i, 2, score=1 + i) for i in range(4)]
    weakest = walk(range(1, 41), 900, 2, score=0.5)
    truth = [row for rows in (people if noise else [*people, weakest]) for row in rows]
    table = np.array(truth)
    ones = np.ones(len(table), np.int64)
    ids = np.repeat(np.arange(len(table) // 40), 40)
    gt = Annotations(table[:, 0].astype(np.int64), ids, table[:, 1:5], ones, ones, ones.astype(float), True)
    quantiles, record = choose_quantiles({"A": gt}, {"A": detections(*people, weakest)})
    assert quantiles == chosen
    assert chosen in GRID
    assert (record["chosen.high_quantile"], record["chosen.birth_quantile"]) == chosen
    assert record["chosen.train_idf1"] > 0.95


def test_without_training_data_quantiles_are_the_defaults() -> None:
    quantiles, record = choose_quantiles({}, {})
    assert quantiles == DEFAULT
    assert set(record) == {"chosen.high_quantile", "chosen.birth_quantile"}


@pytest.mark.parametrize("frames", [[], [7], [3, 4, 90]])
def test_few_detections(frames: list[int]) -> None:
    tracks = track_detections(detections(walk(frames, 0, 0)))
    assert tracks.frame.tolist() == frames[:2]


def test_filter_learns_the_velocity() -> None:
    rng = np.random.default_rng(1)
    start, speed = np.array([[100.0, 80, 20, 50], [10, 20, 30, 60]]), np.array([[3.0, -1, 0, 0], [0, 2, 0, 0]])
    mean, covariance = bytetrack.initial_state(start)
    first = covariance.copy()
    for step in range(1, 60):
        mean, covariance = bytetrack.predict(mean, covariance)
        mean, covariance = bytetrack.update(mean, covariance, start + step * speed + rng.normal(0, 0.3, (2, 4)))
    np.testing.assert_allclose(mean[:, :2], (start + 59 * speed)[:, :2], atol=1)
    np.testing.assert_allclose(mean[:, 4:6], speed[:, :2], atol=0.3)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    np.testing.assert_allclose(covariance, covariance.transpose(0, 2, 1), atol=1e-9)
    assert (np.trace(covariance, axis1=1, axis2=2) < np.trace(first, axis1=1, axis2=2)).all()


def test_filter_takes_no_tracks() -> None:
    mean, covariance = bytetrack.predict(*bytetrack.initial_state(np.zeros((0, 4))))
    mean, covariance = bytetrack.update(mean, covariance, np.zeros((0, 4)))
    assert (mean.shape, covariance.shape) == ((0, 8), (0, 8, 8))
