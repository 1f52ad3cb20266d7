"""Who is born when slots are scarce: a duplicate takes no slot and no id from a new person."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from motrlab.boxes import box_cxcywh_to_xyxy, pairwise_iou
from motrlab.config import TrackerConfig
from motrlab.tracking.tracker import EMPTY, Decision, Tracker, duplicates

RULES = TrackerConfig(
    birth_score=0.5, miss_score=0.5, reset_score=0.5, max_misses=3, suppress_iou=0.6, velocity_gain=0.5,
)  # fmt: skip
NUM_DETECT = 4
Seen = list[tuple[float, float]]  # per slot: score, and centre x of a box of .1 × .2 at y = .5


@dataclass(frozen=True)
class Case:
    """Live tracks at `tracks`, `free` slots behind theirs; what detect slots see; those that get the free slots."""

    tracks: list[float]
    free: int
    detect: Seen
    born: list[int]
    suppress_iou: float | None = 0.6


CASES = {
    "the best is a duplicate of a track": Case([0.2], 1, [(0.9, 0.205), (0.7, 0.6)], [1]),
    "all but the worst are duplicates of tracks": Case(
        [0.2, 0.4], 1, [(0.95, 0.4), (0.9, 0.2), (0.8, 0.205), (0.6, 0.8)], [3]
    ),
    "two on one new person, one slot": Case([0.2], 1, [(0.7, 0.6), (0.9, 0.605)], [1]),
    "two on one new person, two slots": Case([0.2], 2, [(0.7, 0.6), (0.9, 0.605)], [1, EMPTY]),
    "two on one new person and one on another": Case([], 2, [(0.9, 0.6), (0.8, 0.605), (0.7, 0.3)], [0, 2]),
    "as good as each other: the first": Case([], 2, [(0.8, 0.6), (0.8, 0.605)], [0, EMPTY]),
    "only duplicates": Case([0.2], 1, [(0.9, 0.2), (0.8, 0.205)], [EMPTY]),
    "of three in a row the first": Case([], 3, [(0.9, 0.5), (0.8, 0.52), (0.7, 0.54)], [0, EMPTY, EMPTY]),
    "a duplicate below the birth score duplicates nothing": Case([0.2], 1, [(0.4, 0.6), (0.7, 0.605)], [1]),
    "little overlap": Case([0.2], 1, [(0.9, 0.24), (0.7, 0.6)], [0]),
    "new people only, the best first": Case([0.2], 2, [(0.6, 0.4), (0.9, 0.6), (0.7, 0.8)], [1, 2]),
    "no slot free": Case([0.2], 0, [(0.9, 0.6)], []),
    "nobody": Case([0.2], 1, [], [EMPTY]),
    "no suppression: a duplicate of a track": Case([0.2], 1, [(0.9, 0.2), (0.7, 0.6)], [0], None),
    "no suppression: duplicates of each other": Case([0.2], 2, [(0.9, 0.6), (0.8, 0.6), (0.7, 0.3)], [0, 1], None),
}


def step(tracker: Tracker, detect: Seen, track: Seen) -> Decision:
    """One frame; slots that are not named see nobody, far outside."""
    num_track = tracker.track_id.shape[1]
    scores, boxes = np.zeros((1, NUM_DETECT + num_track)), np.tile([9.0, 0.5, 0.1, 0.2], (1, NUM_DETECT + num_track, 1))
    for first, seen in ((0, detect), (NUM_DETECT, track)):
        for slot, (score, x) in enumerate(seen, first):
            scores[0, slot], boxes[0, slot, 0] = score, x
    return tracker.update(scores, boxes)


def tracker_with(tracks: list[float], free: int, rules: TrackerConfig) -> Tracker:
    """Tracks 1, 2, ... in slots 0, 1, ..., born at these places; then `free` free slots."""
    tracker = Tracker(rules, NUM_DETECT, len(tracks) + free)
    step(tracker, [(0.9, x) for x in tracks], [])
    return tracker


@pytest.mark.parametrize("coast", [False, True], ids=["younger ends", "coast"])
@pytest.mark.parametrize("name", CASES)
def test_who_is_born(name: str, coast: bool) -> None:
    case = CASES[name]
    num_live = len(case.tracks)
    tracker = tracker_with(case.tracks, case.free, replace(RULES, suppress_iou=case.suppress_iou, coast=coast))
    decision = step(tracker, case.detect, [(0.9, x) for x in case.tracks])
    own = [NUM_DETECT + t for t in range(num_live)]
    assert decision.source[0].tolist() == own + case.born
    num_born = len([slot for slot in case.born if slot != EMPTY])
    ids = list(range(1, num_live + num_born + 1))  # without gaps
    assert tracker.track_id[0].tolist() == ids + [EMPTY] * (num_live + case.free - len(ids))
    assert tracker.next_id[0] == len(ids) + 1


@pytest.mark.parametrize("coast", [False, True], ids=["younger ends", "coast"])
def test_nobody_starves(coast: bool) -> None:
    """A detect slot that fires on a track in every frame does not keep a new person out, nor use ids up."""
    tracker = tracker_with([0.2], 1, replace(RULES, coast=coast))
    track = [(0.9, 0.2)]
    for _ in range(5):
        step(tracker, [(0.99, 0.2)], track)
        assert tracker.track_id[0].tolist() == [1, EMPTY]
    for _ in range(3):
        step(tracker, [(0.99, 0.2), (0.6, 0.7)], track)
        assert tracker.track_id[0].tolist() == [1, 2]
        track = [(0.9, 0.2), (0.9, 0.7)]


WHERE = {  # what the only detect slots see, while the network's box of the coasting track is at .3; who is born
    "where the lost track is believed to be": ([(0.9, 0.5), (0.7, 0.8)], 1),
    "where the network looks for it": ([(0.9, 0.3), (0.7, 0.8)], 0),
}


@pytest.mark.parametrize("name", WHERE)
def test_a_coasting_track_is_where_it_is_believed_to_be(name: str) -> None:
    detect, born = WHERE[name]
    tracker = tracker_with([0.5], 1, replace(RULES, coast=True))
    decision = step(tracker, detect, [(0.1, 0.3)])
    assert tracker.unseen[0].tolist() == [True, False]
    assert decision.source[0].tolist() == [NUM_DETECT, born]


def test_the_slot_of_a_track_that_ends_as_a_duplicate_is_free_at_once() -> None:
    tracker = tracker_with([0.2, 0.6], 0, RULES)
    # Track 2 is drawn onto track 1, a candidate sits on both, and a new person is at .8.
    decision = step(tracker, [(0.9, 0.202), (0.7, 0.8)], [(0.9, 0.2), (0.9, 0.205)])
    assert decision.source[0].tolist() == [NUM_DETECT, 1]
    assert tracker.track_id[0].tolist() == [1, 3]
    assert tracker.misses[0].tolist() == [0, 0]


def test_a_newborn_in_the_slot_of_a_missed_duplicate_starts_afresh() -> None:
    tracker = tracker_with([0.2, 0.6], 0, RULES)
    step(tracker, [(0.7, 0.8)], [(0.9, 0.2), (0.1, 0.205)])  # track 2 is missed, and ends
    assert tracker.track_id[0].tolist() == [1, 3]
    assert tracker.misses[0].tolist() == [0, 0]
    assert not tracker.unseen.any()


def some_boxes(random: np.random.Generator) -> Any:
    """Up to 30 boxes, or none; half of the time on a grid, where many are equal, nested or without any area."""
    number = random.integers(0, 31)
    boxes = np.concatenate((random.uniform(0.3, 0.7, (number, 2)), random.uniform(0, 0.5, (number, 2))), 1)
    return (np.round(boxes * 8) / 8 if random.random() < 0.5 else boxes).astype(np.float32)


@pytest.mark.parametrize("iou", [0.0, 0.1, 0.5, 0.6, 0.95, 1.0])
def test_duplicates_are_those_of_all_pairs(iou: float) -> None:
    random = np.random.default_rng(5)
    for _ in range(100):
        boxes = some_boxes(random)
        order = random.permutation(len(boxes)) if random.random() < 0.5 else random.integers(0, 3, len(boxes))
        settled = int(random.integers(0, len(boxes) + 1))
        corners = box_cxcywh_to_xyxy(boxes)
        expected = ((pairwise_iou(corners, corners) > iou) & (order[:, None] > order)).any(1)
        expected[:settled] = False
        np.testing.assert_array_equal(duplicates(boxes, order, iou, settled), expected)
