"""Tracks of several classes: thresholds of each, votes over the frames, suppression within a class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.errors import UserError
from motrlab.tracking.tracker import EMPTY, LiveTracks, Tracker

RULES = TrackerConfig(
    birth_score=0.5, miss_score=0.3, reset_score=0.4, output_score=0.2, min_area_px=0, max_misses=2, suppress_iou=0.5
)
APART = np.array([[[0.2, 0.5, 0.1, 0.2], [0.5, 0.5, 0.1, 0.2]] * 2], np.float32)  # of two detect and two track slots
TOGETHER = np.array([[[0.5, 0.5, 0.1, 0.2]] * 4], np.float32)


def update(
    tracker: Tracker, scores: list[float], kinds: list[int], boxes: np.ndarray = APART
) -> tuple[np.ndarray, LiveTracks]:
    given = np.array([scores], np.float32)
    decision = tracker.update(given, boxes, kinds=np.array([kinds]))
    return decision.source[0], tracker.live(decision, given, boxes)[0]


@pytest.mark.parametrize("coast", [False, True])
def test_each_class_has_its_own_thresholds(coast: bool) -> None:
    rules = replace(RULES, coast=coast, birth_scores=(0.5, 0.8), miss_scores=(0.3, 0.6), reset_scores=(0.3, 0.6),
                    output_scores=(0.1, 0.7))  # fmt: skip
    tracker = Tracker(rules, 2, 2, num_classes=2)
    source, live = update(tracker, [0.6, 0.6, 0, 0], [0, 1, 0, 0])
    assert source.tolist() == [0, EMPTY]  # 0.6 is enough for the first class alone
    assert live.kind.tolist() == [0]
    source, live = update(tracker, [0, 0.9, 0.4, 0], [0, 1, 0, 0])
    assert source.tolist() == [2, 1]
    assert live.kind.tolist() == [0, 1]
    _, live = update(tracker, [0, 0, 0.4, 0.65], [0, 0, 0, 1])
    assert live.misses.tolist() == [0, 0]
    assert live.written(rules, 100.0).kind.tolist() == [0]  # 0.65 is not above 0.7
    _, live = update(tracker, [0, 0, 0.4, 0.5], [0, 0, 0, 1])
    assert live.misses.tolist() == [0, 1]


def test_a_track_is_of_the_class_that_most_frames_say() -> None:
    tracker = Tracker(RULES, 2, 2, num_classes=3)
    told = [update(tracker, [0.6, 0, 0, 0], [2, 0, 0, 0])[1].kind[0]]
    for score, kind in ((0.5, 1), (0.2, 1), (0.5, 1), (0.9, 2)):  # 0.2 is a miss, and no vote
        told.append(update(tracker, [0, 0, score, 0], [0, 0, kind, 0])[1].kind[0])
    assert told == [2, 2, 2, 1, 2]


def test_a_slot_that_is_free_again_forgets_its_class() -> None:
    tracker = Tracker(RULES, 2, 1, num_classes=2)
    boxes = APART[:, :3]
    for scores in ([0.9, 0, 0], [0, 0, 0.9], [0, 0, 0], [0, 0, 0]):
        update(tracker, scores, [1, 0, 1], boxes)
    assert update(tracker, [0.6, 0, 0], [0, 0, 0], boxes)[1].kind.tolist() == [0]


@pytest.mark.parametrize("coast", [False, True])
@pytest.mark.parametrize("kinds", [(0, 0), (0, 1)])
def test_duplicates_are_those_of_one_class(coast: bool, kinds: tuple[int, int]) -> None:
    tracker = Tracker(replace(RULES, coast=coast), 2, 2, num_classes=2)
    source, _ = update(tracker, [0.9, 0.8, 0, 0], [*kinds, 0, 0], TOGETHER)
    assert (source != EMPTY).sum() == len(set(kinds))
    if kinds == (0, 1):
        _, live = update(tracker, [0, 0, 0.9, 0.8], [0, 0, *kinds], TOGETHER)
        assert live.track_id.tolist() == [1, 2]
        assert not live.unseen.any()


def test_scores_for_another_number_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"birth_scores has 3 values, but model.num_classes is 2"):
        Tracker(replace(RULES, birth_scores=(0.1, 0.2, 0.3)), 2, 2, num_classes=2)
    with pytest.raises(UserError, match="miss_scores must not exceed reset_scores"):
        replace(RULES, miss_scores=(0.3, 0.5))
    with pytest.raises(UserError, match="output_scores must be fractions"):
        replace(RULES, output_scores=(0.3, 1.5))
