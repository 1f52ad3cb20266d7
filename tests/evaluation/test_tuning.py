"""Scores of recordings: those of the metrics, video by video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.data.motchallenge import Annotations
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks
from motrlab.evaluation.tuning import SCORES, Axis, Half, best, with_values
from motrlab.tracking.replay import Recording
from motrlab.tracking.tracker import LiveTracks

RULES = TrackerConfig(birth_score=0.4, miss_score=0.3, reset_score=0.3, output_score=0.5, min_area_px=50)


def video(seed: int, num_people: int = 5, num_frames: int = 20) -> tuple[Recording, Annotations]:
    """People that walk apart, and a track on each, with a score at random; ids change in the middle."""
    random = np.random.default_rng(seed)
    frame, person = (x.ravel() for x in np.meshgrid(np.arange(num_frames) + 1, np.arange(num_people), indexing="ij"))
    n, ones = len(frame), np.ones(len(frame), np.int64)
    ltwh = np.stack((20.0 * person + frame, 0 * frame + 10.0, 0 * frame + 8.0, 0 * frame + 24.0), -1)
    gt = Annotations(frame, person + 1, ltwh, ones, ones, ones.astype(float), True)
    boxes = np.concatenate((ltwh[:, :2] + ltwh[:, 2:] / 2 + random.normal(0, 1.5, (n, 2)), ltwh[:, 2:]), 1) / 200
    boxes = boxes.astype(np.float32)
    identity = person + 1 + num_people * (frame > num_frames // 2)
    none = np.zeros(n, np.int64)
    live = LiveTracks(
        identity, identity, person, random.uniform(0.3, 1, n).astype(np.float32), boxes, boxes, none > 0, none, none
    )
    return Recording(RULES, num_frames, frame, np.full((n, 2), 200), live), gt


@pytest.fixture(scope="module")
def videos() -> dict[str, tuple[Recording, Annotations]]:
    return {name: video(seed) for seed, name in enumerate(("a", "b", "c"))}


@pytest.mark.parametrize("protocol", ["motchallenge", "hat"])
@pytest.mark.parametrize("output_score", [0.5, 0.8])
def test_scores_are_those_of_the_metrics(videos: dict, protocol: str, output_score: float) -> None:
    rules = replace(RULES, output_score=output_score)
    gt = {name: own for name, (_, own) in videos.items()}
    half = Half.of({name: recording for name, (recording, _) in videos.items()}, gt)
    alone = {name: Half.of({name: recording}, gt).tracks(rules) for name, (recording, _) in videos.items()}
    expected = evaluate(gt, alone, protocol)[OVERALL]
    assert half.scores(rules, protocol) == pytest.approx({name: expected[name] for name in SCORES})
    assert expected["idsw"] > 0
    assert expected["fn"] > 0


def test_boxes_are_in_pixels(videos: dict) -> None:
    recording, gt = videos["a"]
    tracks = Half.of({"a": recording}, {"a": gt}).tracks(RULES)
    assert isinstance(tracks, Tracks)
    np.testing.assert_allclose(tracks.ltwh[:, 2:], np.tile([8, 24], (len(tracks), 1)), rtol=1e-5)


def test_the_best_cell() -> None:
    values = np.array([[1.0, 3.0], [np.nan, 3.0]])
    assert best(values, "mota") == (0, 1)
    assert best(values, "idsw") == (0, 0)
    assert best(np.full((1, 1), np.nan), "mota") is None


def test_mistakes(videos: dict) -> None:
    recording, gt = videos["a"]
    with pytest.raises(UserError, match="no ground truth of x"):
        Half.of({"x": recording}, {"a": gt})
    with pytest.raises(UserError, match="no video"):
        Half.of({}, {})
    with pytest.raises(UserError, match="'speed'"):
        Axis("speed", (1.0,))
    with pytest.raises(UserError, match="miss_score must not exceed"):
        with_values(RULES, {"miss_score": 0.9})
    assert with_values(RULES, {"max_misses": 4.0}).max_misses == 4
