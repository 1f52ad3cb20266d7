"""Mistakes as rows: a case that can be counted by hand, and the numbers of the metrics on random tracks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from motrlab.evaluation.metrics import evaluate
from motrlab.evaluation.mistakes import find_mistakes
from motrlab.evaluation.tracks import Tracks


def test_by_hand(make_gt: Callable[..., Any], make_pred: Callable[..., Tracks]) -> None:
    gt = make_gt([(1, 1, 0), (2, 1, 0), (3, 1, 0), (3, 2, 100), (4, 3, 300, 1, 8)])
    pred = make_pred([(1, 5, 0), (2, 6, 1), (3, 6, 0), (3, 9, 500), (4, 7, 300)])  # the last lies on a distractor
    found = find_mistakes(gt, pred)
    assert found.missed.tolist() == [3]
    assert found.false.tolist() == [3]
    assert found.matched.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert found.switched.tolist() == [[1, 1, 0]]
    assert found.frames.tolist() == [2, 3]
    assert found.counts(gt, pred, 3) == {"fn": 1, "fp": 1, "idsw": 0}
    assert found.counts(gt, pred, 2) == {"fn": 0, "fp": 0, "idsw": 1}


@pytest.mark.parametrize("protocol", ["motchallenge", "hat"])
@pytest.mark.parametrize("seed", range(4))
def test_as_many_as_the_metrics_count(seed: int, protocol: str, make_gt: Any, make_pred: Any) -> None:
    random = np.random.default_rng(seed)
    people = [
        (f, i, 12 * i + f, int(random.random() > 0.1), random.choice([1, 1, 8])) for f in range(1, 30) for i in range(6)
    ]
    tracks = [(f, i + 6 * (f // 9), 12 * i + f + random.normal(0, 3)) for f in range(1, 30) for i in range(7)]
    order = random.permutation(len(tracks))
    gt, pred = make_gt(people), make_pred([tracks[i] for i in order])
    found, counted = find_mistakes(gt, pred, protocol), evaluate({"a": gt}, {"a": pred}, protocol)["a"]
    assert (len(found.missed), len(found.false), len(found.switched)) == (counted["fn"], counted["fp"], counted["idsw"])
    assert counted["idsw"] > 0
    per_frame = [found.counts(gt, pred, frame) for frame in range(1, 30)]
    assert sum(c["fn"] for c in per_frame) == counted["fn"]
    assert [f for f, c in enumerate(per_frame, 1) if any(c.values())] == found.frames.tolist()


def test_nothing_at_all(make_gt: Any) -> None:
    found = find_mistakes(make_gt([]), Tracks.empty())
    assert found.frames.tolist() == []
    assert find_mistakes(make_gt([(1, 1, 0)]), Tracks.empty()).missed.tolist() == [0]
