"""Coasting: a track that is not seen keeps its query and its motion."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.tracking.tracker import EMPTY, Decision, Tracker

RULES = TrackerConfig(
    birth_score=0.5, miss_score=0.5, reset_score=0.5, output_score=0.5, max_misses=5, min_area_px=0.0,
    suppress_iou=0.5, coast=True, velocity_gain=0.5, coast_written=1,
)  # fmt: skip
DETECT, TRACK = 2, 3


def frame(
    detect: dict[int, tuple[float, float]], track: dict[int, tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[1, N]` and boxes `[1, N, 4]`: slot → score and centre x; all boxes are .1 × .2 at y = .5."""
    scores, boxes = np.zeros((1, DETECT + TRACK)), np.tile([9.0, 0.5, 0.1, 0.2], (1, DETECT + TRACK, 1))
    for slot, (score, x) in {**detect, **{DETECT + t: v for t, v in track.items()}}.items():
        scores[0, slot], boxes[0, slot, 0] = score, x
    return scores, boxes


def step(tracker: Tracker, detect: dict[int, tuple[float, float]], track: dict[int, tuple[float, float]]) -> Decision:
    return tracker.update(*frame(detect, track))


def walking(x: float = 0.5, speed: float = 0.02) -> Tracker:
    """One track, id 1 in slot 0, seen for three frames and moving right; now at `x`."""
    tracker = Tracker(RULES, DETECT, TRACK)
    step(tracker, {0: (0.9, x - 3 * speed)}, {})
    for i in (2, 1, 0):
        step(tracker, {}, {0: (0.9, x - i * speed)})
    return tracker


def test_seen_track_is_neither_held_nor_moved() -> None:
    decision = step(walking(), {}, {0: (0.9, 0.52)})
    assert decision.hold is not None
    assert not decision.hold.any()
    assert decision.shift is not None
    assert not decision.shift.any()


def test_unseen_track_is_held_and_moves_on() -> None:
    tracker = walking()
    velocity = float(tracker.velocity[0, 0, 0])
    assert velocity == pytest.approx(0.0175, abs=1e-6)  # 0 at birth, then half of every difference
    for k in (1, 2):  # the network's box stays with somebody else, at .3
        decision = step(tracker, {}, {0: (0.1, 0.3)})
        assert decision.hold is not None
        assert decision.shift is not None
        assert decision.hold[0].tolist() == [True, False, False]
        assert 0.3 + decision.shift[0, 0, 0] == pytest.approx(0.5 + k * velocity, abs=1e-6)
        assert tracker.velocity[0, 0, 0] == pytest.approx(velocity)


def test_return_shares_the_error_over_the_frames_away() -> None:
    tracker = walking()
    velocity = float(tracker.velocity[0, 0, 0])
    for _ in range(3):
        step(tracker, {}, {0: (0.1, 0.3)})
    step(tracker, {}, {0: (0.9, 0.5 + 4 * velocity + 0.04)})  # .04 further than it coasted
    assert tracker.velocity[0, 0, 0] == pytest.approx(velocity + RULES.velocity_gain * 0.04 / 4, abs=1e-6)
    assert tracker.misses[0, 0] == 0


@pytest.mark.parametrize(("misses", "expected"), [(1, [1]), (2, [])])
def test_coasting_boxes_are_written_for_a_while(misses: int, expected: list[int]) -> None:
    tracker = walking()
    for _ in range(misses):
        inputs = frame({}, {0: (0.1, 0.3)})
        decision = tracker.update(*inputs)
    (live,) = tracker.live(decision, *inputs)
    written = live.written(tracker.config, 1e6)
    assert written.track_id.tolist() == expected
    if expected:
        assert written.cxcywh[0, 0] == pytest.approx(tracker.box[0, 0, 0])


def test_the_claim_is_with_the_expected_one() -> None:
    """An older track drawn onto a younger one's person coasts; without coasting the younger would end."""
    tracker = walking(0.3)
    step(tracker, {1: (0.9, 0.7)}, {0: (0.9, 0.32)})  # id 2 is born far away
    decision = step(tracker, {}, {0: (0.9, 0.7), 1: (0.9, 0.7)})
    assert tracker.unseen[0].tolist() == [True, False, False]
    assert tracker.track_id[0].tolist() == [1, 2, EMPTY]
    assert decision.source[0, 1] == DETECT + 1


def test_of_two_as_near_the_claim_is_with_the_older_one() -> None:
    tracker = Tracker(RULES, DETECT, TRACK)
    step(tracker, {0: (0.9, 0.25)}, {})
    step(tracker, {0: (0.9, 0.75)}, {0: (0.9, 0.25)})
    step(tracker, {}, {0: (0.9, 0.5), 1: (0.9, 0.5)})  # both are drawn to the middle
    assert tracker.unseen[0].tolist() == [False, True, False]


def test_newborn_on_top_of_a_seen_track_is_no_birth() -> None:
    tracker = walking()
    decision = step(tracker, {0: (0.9, 0.521)}, {0: (0.9, 0.52)})
    assert decision.source[0].tolist() == [DETECT, EMPTY, EMPTY]


def test_a_lost_track_does_not_block_a_birth_where_the_network_sees_it() -> None:
    tracker = walking()
    decision = step(tracker, {0: (0.9, 0.3)}, {0: (0.1, 0.3)})  # drawn to .3, believed to be near .52
    assert tracker.track_id[0].tolist() == [1, 2, EMPTY]
    assert decision.source[0, 1] == 0


def test_ends_after_max_misses() -> None:
    tracker = walking()
    for _ in range(RULES.max_misses):
        step(tracker, {}, {0: (0.1, 0.3)})
    assert tracker.track_id[0].tolist() == [EMPTY] * TRACK


def test_a_newborn_forgets_the_slots_past() -> None:
    tracker = walking()
    for _ in range(RULES.max_misses):
        step(tracker, {}, {0: (0.1, 0.3)})
    step(tracker, {0: (0.9, 0.8)}, {})
    assert not tracker.velocity[0, 0].any()
    assert tracker.box[0, 0, 0] == pytest.approx(0.8)
