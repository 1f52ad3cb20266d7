"""The rules of life and death, as a table of named stories; and properties over random ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.tracking.tracker import EMPTY, Decision, Tracker

CONFIG = TrackerConfig(max_misses=3)  # birth and reset at 0.7, a miss below 0.6
NUM_DETECT, NUM_TRACK = 3, 2
LOW = 0.1


@dataclass(frozen=True)
class Story:
    """Scores of the detect slots and of the track slots frame by frame, and the id in each track slot afterwards."""

    detect: list[list[float]]
    track: list[list[float]]
    ids: list[list[int]]
    config: TrackerConfig = field(default=CONFIG)


NOBODY = [LOW, LOW, LOW]
STORIES = {
    "nobody": Story([NOBODY], [[LOW, LOW]], [[-1, -1]]),
    "birth at the threshold": Story([[LOW, 0.7, LOW]], [[LOW, LOW]], [[1, -1]]),
    "no birth just below": Story([[LOW, 0.699, LOW]], [[LOW, LOW]], [[-1, -1]]),
    "the best score gets the first slot": Story([[0.8, LOW, 0.9]], [[LOW, LOW]], [[1, 2]]),
    "empty slots never live by their score": Story([NOBODY], [[0.99, 0.99]], [[-1, -1]]),
    "three misses end": Story(
        [[0.9, LOW, LOW], NOBODY, NOBODY, NOBODY],
        [[LOW, LOW], [0.59, LOW], [0.59, LOW], [0.59, LOW]],
        [[1, -1], [1, -1], [1, -1], [-1, -1]],
    ),
    "a score in between keeps the count": Story(
        [[0.9, LOW, LOW], NOBODY, NOBODY, NOBODY, NOBODY, NOBODY],
        [[LOW, LOW], [0.5, LOW], [0.6, LOW], [0.5, LOW], [0.69, LOW], [0.5, LOW]],
        [[1, -1], [1, -1], [1, -1], [1, -1], [1, -1], [-1, -1]],
    ),
    "a high score resets the count": Story(
        [[0.9, LOW, LOW], NOBODY, NOBODY, NOBODY, NOBODY, NOBODY, NOBODY],
        [[LOW, LOW], [0.5, LOW], [0.5, LOW], [0.7, LOW], [0.5, LOW], [0.5, LOW], [0.5, LOW]],
        [[1, -1], [1, -1], [1, -1], [1, -1], [1, -1], [1, -1], [-1, -1]],
    ),
    "a slot is free again in the frame its track ends": Story(
        [[0.9, 0.8, LOW], [0.9, LOW, LOW]], [[LOW, LOW], [0.1, 0.9]], [[1, 2], [3, 2]], replace(CONFIG, max_misses=1)
    ),
    "when all slots are taken births wait": Story(
        [[0.8, 0.9, 0.95], [0.9, LOW, LOW], [0.9, LOW, LOW]],
        [[LOW, LOW], [0.9, 0.9], [0.9, 0.1]],
        [[1, 2], [1, 2], [1, 3]],
        replace(CONFIG, max_misses=1),
    ),
    "a newborn starts without the misses of the slot's last track": Story(
        [[0.9, LOW, LOW], NOBODY, [0.9, LOW, LOW], NOBODY],
        [[LOW, LOW], [0.1, LOW], [0.1, LOW], [0.1, LOW]],
        [[1, -1], [1, -1], [2, -1], [2, -1]],
        replace(CONFIG, max_misses=2),
    ),
    "an id is never given twice": Story(
        [[0.9, LOW, LOW]] * 4,
        [[LOW, LOW], [0.1, LOW], [0.1, 0.1], [0.1, 0.1]],
        [[1, -1], [2, -1], [3, -1], [4, -1]],
        replace(CONFIG, max_misses=1),
    ),
}


def spread_boxes(batch: int = 1) -> Any:
    """One box for every slot, none touching another."""
    centres = (np.arange(NUM_DETECT + NUM_TRACK) + 0.5) / (NUM_DETECT + NUM_TRACK)
    boxes = np.stack([centres, centres, np.full_like(centres, 0.1), np.full_like(centres, 0.2)], -1)
    return np.repeat(boxes[None], batch, 0).astype(np.float32)


def frames_of(story: Story) -> list[Any]:
    return [np.array([detect + track], np.float32) for detect, track in zip(story.detect, story.track, strict=True)]


@pytest.mark.parametrize("name", STORIES)
def test_stories(name: str) -> None:
    story = STORIES[name]
    tracker = Tracker(story.config, NUM_DETECT, NUM_TRACK)
    for frame, (scores, ids) in enumerate(zip(frames_of(story), story.ids, strict=True), 1):
        decision = tracker.update(scores, spread_boxes())
        assert tracker.track_id[0].tolist() == ids, f"frame {frame}"
        assert ((decision.source == EMPTY) == (tracker.track_id == EMPTY)).all()


def test_sources_are_the_newborns_detect_slot_and_a_tracks_own() -> None:
    tracker = Tracker(CONFIG, NUM_DETECT, NUM_TRACK)
    born = tracker.update(np.array([[0.8, LOW, 0.9, LOW, LOW]]), spread_boxes())
    assert born.source.tolist() == [[2, 0]]
    carried = tracker.update(np.array([[LOW, LOW, LOW, 0.9, 0.9]]), spread_boxes())
    assert carried.source.tolist() == [[3, 4]]


SUPPRESSION = {  # IoU threshold; boxes of detect slots 0, 1, 2, which all would be born; those that are
    "off": (None, [(0.5, 0.2), (0.5, 0.2), (0.5, 0.2)], [0, 1, 2]),
    "same place": (0.7, [(0.5, 0.2), (0.5, 0.2), (0.9, 0.2)], [0, 2]),
    "little overlap": (0.7, [(0.5, 0.2), (0.55, 0.2), (0.9, 0.2)], [0, 1, 2]),
    "three in one place": (0.7, [(0.5, 0.2), (0.5, 0.2), (0.5, 0.2)], [0]),
    "small in large is no duplicate": (0.7, [(0.5, 0.4), (0.5, 0.1), (0.9, 0.2)], [0, 1, 2]),
}


@pytest.mark.parametrize("name", SUPPRESSION)
def test_suppression_drops_the_worse(name: str) -> None:
    threshold, places, born = SUPPRESSION[name]
    tracker = Tracker(replace(CONFIG, suppress_iou=threshold), 3, 3)
    boxes = np.array([[(x, 0.5, w, 0.4) for x, w in places] + [(0.05, 0.05, 0.01, 0.01)] * 3])
    decision = tracker.update(np.array([[0.95, 0.9, 0.85, LOW, LOW, LOW]]), boxes)
    assert decision.source[0, : len(born)].tolist() == born
    assert tracker.track_id[tracker.track_id != EMPTY].tolist() == list(range(1, len(born) + 1))
    assert ((decision.source == EMPTY) == (tracker.track_id == EMPTY)).all()


def test_suppression_keeps_the_older_track_in_whatever_slot() -> None:
    tracker = Tracker(replace(CONFIG, suppress_iou=0.7, max_misses=1), 1, 2)
    apart, together = [(0.1, 0.5, 0.1, 0.4), (0.9, 0.5, 0.1, 0.4)], [(0.9, 0.5, 0.1, 0.4)] * 2
    tracker.update(np.array([[0.9, LOW, LOW]]), np.array([[*apart[:1], *apart]]))  # id 1 in slot 0
    tracker.update(np.array([[0.9, 0.9, LOW]]), np.array([[*apart[1:], *apart]]))  # id 2 in slot 1
    tracker.update(np.array([[0.9, 0.1, 0.9]]), np.array([[*apart[:1], *apart]]))  # id 3 takes slot 0
    assert tracker.track_id.tolist() == [[3, 2]]
    tracker.update(np.array([[LOW, 0.9, 0.9]]), np.array([[*apart[:1], *together]]))
    assert tracker.track_id.tolist() == [[EMPTY, 2]]


def random_frames(batch: int, num_frames: int = 40) -> tuple[Any, Any]:
    random = np.random.default_rng(8)
    slots = NUM_DETECT + NUM_TRACK
    boxes = random.uniform(0.1, 0.9, (num_frames, batch, slots, 4))
    return random.uniform(0, 1, (num_frames, batch, slots)), boxes


@pytest.mark.parametrize("coast", [False, True])
def test_batch_of_two_equals_two_singles(coast: bool) -> None:
    config = replace(CONFIG, suppress_iou=0.5, coast=coast)
    scores, boxes = random_frames(batch=2)
    together = Tracker(config, NUM_DETECT, NUM_TRACK, batch=2)
    singles = [Tracker(config, NUM_DETECT, NUM_TRACK) for _ in range(2)]
    for score, box in zip(scores, boxes, strict=True):
        decision = together.update(score, box)
        written = [live.written(config, 1e6) for live in together.live(decision, score, box)]
        for stream, single in enumerate(singles):
            one = slice(stream, stream + 1)
            alone = single.update(score[one], box[one])
            assert decision.source[stream].tolist() == alone.source[0].tolist()
            assert together.track_id[stream].tolist() == single.track_id[0].tolist()
            expected = single.live(alone, score[one], box[one])[0].written(config, 1e6)
            assert written[stream].track_id.tolist() == expected.track_id.tolist()
            np.testing.assert_array_equal(written[stream].cxcywh, expected.cxcywh)
    assert together.next_id.min() > 5  # both streams lived


def test_ids_restart_with_every_tracker_and_count_per_stream() -> None:
    scores = np.array([[0.9, 0.9, LOW, LOW, LOW], [LOW, 0.9, LOW, LOW, LOW]])
    for _ in range(2):
        tracker = Tracker(CONFIG, NUM_DETECT, NUM_TRACK, batch=2)
        tracker.update(scores, spread_boxes(2))
        assert tracker.track_id.tolist() == [[1, 2], [1, EMPTY]]


def test_no_slot_is_used_twice_and_no_id_lives_twice() -> None:
    scores, boxes = random_frames(batch=3)
    tracker = Tracker(CONFIG, NUM_DETECT, NUM_TRACK, batch=3)
    for score, box in zip(scores, boxes, strict=True):
        decision = tracker.update(score, box)
        for row in (*decision.source, *tracker.track_id):
            used = row[row != EMPTY]
            assert len(set(used.tolist())) == len(used)


WRITTEN = {  # score, side of a square box as a fraction of an 80 × 80 image, is it written
    "high and large": (0.9, 0.5, True),
    "score on the threshold": (0.7, 0.5, False),
    "score just above": (0.7001, 0.5, True),
    "area on the threshold": (0.9, 0.125, False),
    "area just above": (0.9, 0.1251, True),
}


@pytest.mark.parametrize("coast", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written(name: str, coast: bool) -> None:
    score, side, expected = WRITTEN[name]
    tracker = Tracker(replace(CONFIG, coast=coast), 1, 1)
    tracker.track_id[:] = 4
    scores, boxes = np.array([[LOW, score]]), np.array([[(0.5, 0.5, side, side)] * 2])
    found = tracker.live(Decision(np.array([[1]])), scores, boxes)[0].written(tracker.config, 80.0 * 80.0)
    assert found.track_id.tolist() == ([4] if expected else [])
    assert len(found.cxcywh) == len(found.score) == int(expected)


def test_a_newborn_is_written_in_its_first_frame() -> None:
    tracker = Tracker(CONFIG, NUM_DETECT, NUM_TRACK)
    scores = np.array([[LOW, 0.9, LOW, LOW, LOW]])
    decision = tracker.update(scores, spread_boxes())
    found = tracker.live(decision, scores, spread_boxes())[0].written(tracker.config, 1e6)
    assert found.track_id.tolist() == [1]
    np.testing.assert_array_equal(found.cxcywh, spread_boxes()[0, 1:2])
