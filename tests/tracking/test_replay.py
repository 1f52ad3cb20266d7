"""A replay against the tracker itself in closed loop: exact where it says so, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.errors import UserError
from motrlab.tracking.replay import Recording, is_exact, join, record_video, replay
from motrlab.tracking.sequence import track_frames
from tests.tracking.test_sequence import shrink, video

RULES = TrackerConfig(birth_score=0.55, miss_score=0.5, reset_score=0.52, output_score=0.4, max_misses=2, min_area_px=1)
COASTING = replace(RULES, coast=True, suppress_iou=0.6, coast_written=1, max_misses=4)
COLOURS = replace(COASTING, appearance=True)


def recorded(graphs: Any, sizes: Any, rules: TrackerConfig, seed: int = 1) -> Recording:
    return record_video(graphs, video(seed, 40), shrink, sizes, rules)


def in_closed_loop(graphs: Any, sizes: Any, rules: TrackerConfig) -> list[tuple[int, int, float]]:
    tracks = track_frames(graphs, video(1, 40), shrink, sizes, rules)
    return [(f, int(i), float(s)) for f, t in enumerate(tracks, 1) for i, s in zip(t.track_id, t.score, strict=True)]


def replayed(recording: Recording, rules: TrackerConfig) -> list[tuple[int, int, float]]:
    frame, boxes = replay(recording, rules)
    return [(int(f), int(i), float(s)) for f, i, s in zip(frame, boxes.track_id, boxes.score, strict=True)]


@pytest.mark.parametrize("rules", [RULES, COASTING, COLOURS], ids=["plain", "coasting", "colours"])
@pytest.mark.parametrize(
    "change", [{}, {"output_score": 0.6}, {"output_score": 0.0}, {"min_area_px": 900.0}, {"coast_written": 3}]
)
def test_rules_of_output_are_replayed_exactly(numpy_graphs: Any, sizes: Any, rules: TrackerConfig, change: Any) -> None:
    other = replace(rules, **change)
    assert is_exact(rules, other)
    expected = in_closed_loop(numpy_graphs, sizes, other)
    assert replayed(recorded(numpy_graphs, sizes, rules), other) == expected
    assert expected


def test_the_approximation_is_exact_for_the_recorded_rules(numpy_graphs: Any, sizes: Any, monkeypatch: Any) -> None:
    for rules in (RULES, COASTING, COLOURS):
        recording = recorded(numpy_graphs, sizes, rules)
        expected = replayed(recording, rules)
        with monkeypatch.context() as patch:
            patch.setattr("motrlab.tracking.replay.is_exact", lambda *_: False)
            found = replayed(recording, rules)
        assert [(f, s) for f, _, s in found] == [(f, s) for f, _, s in expected]
        names = {(b, a) for (_, a, _), (_, b, _) in zip(found, expected, strict=True)}
        assert len(names) == len({a for _, a in names}) == len({b for b, _ in names})  # ids are the same but for names


def test_colours_can_be_left_out_but_not_added(numpy_graphs: Any, sizes: Any) -> None:
    expected = in_closed_loop(numpy_graphs, sizes, COASTING)
    recording = recorded(numpy_graphs, sizes, COLOURS)
    assert replayed(recording, COASTING) == expected
    assert replayed(recording, COLOURS) != expected
    with pytest.raises(UserError, match=r"tracker\.appearance: .*colours were not recorded"):
        replay(recorded(numpy_graphs, sizes, COASTING), COLOURS)


@pytest.mark.parametrize("change", [{"max_misses": 1}, {"miss_score": 0.9, "reset_score": 0.9}, {"reset_score": 0.99}])
def test_stricter_rules_cut_tracks(numpy_graphs: Any, sizes: Any, change: Any) -> None:
    recording, rules = recorded(numpy_graphs, sizes, COASTING), replace(COASTING, **change)
    assert not is_exact(COASTING, rules)
    kept, all_rows = replayed(recording, rules), replayed(recording, COASTING)
    assert {(f, s) for f, _, s in kept} < {(f, s) for f, _, s in all_rows}


@pytest.mark.parametrize(
    "change", [{"birth_score": 0.8}, {"miss_score": 0.4}, {"max_misses": 3}, {"suppress_iou": 0.5}, {"coast": True}]
)
def test_what_needs_the_networks_is_refused(numpy_graphs: Any, sizes: Any, change: Any) -> None:
    with pytest.raises(UserError, match=rf"tracker\.{next(iter(change))}.*closed loop"):
        replay(recorded(numpy_graphs, sizes, RULES), replace(RULES, **change))


def test_joined_videos_are_those_alone(numpy_graphs: Any, sizes: Any) -> None:
    parts = [recorded(numpy_graphs, sizes, RULES, seed) for seed in (1, 2)]
    rows, both = [replayed(part, RULES) for part in parts], replayed(join(parts), RULES)
    last = int(parts[0].live.track_id.max())
    assert both == rows[0] + [(f + 40, i + last, s) for f, i, s in rows[1]]


def test_arrays_and_back(numpy_graphs: Any, sizes: Any) -> None:
    recording = recorded(numpy_graphs, sizes, COASTING)
    again = Recording.from_arrays(COASTING, recording.arrays())
    assert replayed(again, COASTING) == replayed(recording, COASTING)
    assert again.num_frames == 40
    np.testing.assert_array_equal(recording.size[0], [60, 40])


def test_no_frames(numpy_graphs: Any, sizes: Any) -> None:
    with pytest.raises(UserError, match="no frame"):
        record_video(numpy_graphs, [], shrink, sizes, RULES)
