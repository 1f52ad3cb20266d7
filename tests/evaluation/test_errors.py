"""Where errors come from: sums are those of the metrics, levels and events those of hand-made scenes."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.evaluation.errors import FACTORS, Outcome, error_rows, outcome, worst_events
from motrlab.evaluation.metrics import evaluate
from motrlab.evaluation.tracks import Tracks

INFO = SequenceInfo(name="a", num_frames=60, width=200, height=100, frame_rate=10)
BOX = (100.0, 20.0, 10.0, 30.0)


def annotations(rows: list[tuple[float, ...]]) -> Annotations:
    """Rows of frame, id, x, y, w, h, visibility."""
    table = np.array(sorted(rows, key=lambda row: row[:2]))
    ones = np.ones(len(table), np.int64)
    return Annotations(
        table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6].copy(), ones, ones, table[:, 6].copy(), True
    )


def levels(found: Outcome, factor: str) -> list[str]:
    return [FACTORS[factor][i] for i in found.levels[factor]]


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_the_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, pred = [], []
    for person in range(6):
        x, track = rng.uniform(0, 150), person
        for frame in range(1, 61):
            x += rng.normal()
            rows.append((frame, person, x, 20.0, 10.0, 30.0, rng.random()))
            if rng.random() < 0.1:
                track = int(rng.integers(100, 10_000))
            if rng.random() < 0.8:
                pred.append((frame, track, x + rng.normal(), 20.0, 10.0, 30.0, 1.0))
    pred = list({row[:2]: row for row in pred}.values())
    gt, tracks = annotations(rows), Tracks.from_rows(pred)
    found, expected = outcome(gt, tracks, INFO), evaluate({"a": gt}, {"a": tracks}, "motchallenge")["a"]
    assert (found.missed.sum(), found.switched.sum()) == (expected["fn"], expected["idsw"])
    assert expected["idsw"] > 5
    for factor in FACTORS:
        own = [row for row in error_rows([found]) if row.factor == factor]
        sums = tuple(sum(getattr(row, name) for row in own) for name in ("boxes", "missed", "switches"))
        assert sums == (len(gt), expected["fn"], expected["idsw"])


def test_levels_of_a_box() -> None:
    gt = annotations(
        [(1, 1, *BOX, 1.0), (1, 2, 103.0, 20.0, 10.0, 30.0, 0.5), (1, 3, -1.0, 20.0, 4.0, 4.0, 0.2),
         (1, 4, 185.0, 20.0, 10.0, 50.0, 0.9)]
    )  # fmt: skip
    found = outcome(gt, Tracks.empty(), INFO)
    sizes = ("20 to 40 %", "20 to 40 %", "under 5 %", "over 40 %")
    assert levels(found, "Size") == [f"{size} of the frame's height" for size in sizes]
    assert levels(found, "Visibility") == ["in full view", "0.3 to 0.7", "under 0.3", "0.7 to 0.95"]
    assert levels(found, "Crowding") == ["overlap over 0.5", "overlap over 0.5", "alone", "alone"]
    assert levels(found, "Border") == [
        "inside", "inside", "cut by the border", "within a box's width of the border"
    ]  # fmt: skip
    assert found.missed.all()


def test_after_occlusion() -> None:
    seen = [1.0] * 8 + [0.1] * 2 + [1.0] * 12
    gt = annotations([(frame, 1, *BOX, v) for frame, v in enumerate(seen, 1)])
    told = levels(outcome(gt, Tracks.empty(), INFO), "After occlusion")
    first, hidden, after, longer = FACTORS["After occlusion"]
    assert told == [first] * 5 + [longer] * 3 + [hidden] * 2 + [after] * 10 + [longer] * 2


def test_who_is_not_annotated_was_hidden() -> None:
    gt = annotations([(frame, 1, *BOX, 1.0) for frame in (*range(1, 11), 20, 29, 30)])
    told = levels(outcome(gt, Tracks.empty(), INFO), "After occlusion")
    assert told[9:] == ["longer in view", "first second after it was hidden"] + ["first second after it was hidden"] * 2


def test_worst_events() -> None:
    """One is missed for four frames in full view, another for six when hardly seen; a third changes its track."""
    rows, pred = [], []
    for frame in range(1, 21):
        for person, x in ((1, 20.0), (2, 60.0), (3, 120.0)):
            hidden = person == 2 and 5 <= frame <= 10
            rows.append((frame, person, x, 20.0, 10.0, 30.0, 0.1 + frame / 1000 if hidden else 1.0))
            if not hidden and not (person == 1 and 12 <= frame <= 15):
                pred.append((frame, 9 if person == 3 and frame > 7 else person, x, 20.0, 10.0, 30.0, 1.0))
    found = worst_events({"a": outcome(annotations(rows), Tracks.from_rows(pred), INFO)})
    told = [(e.kind, e.person, e.frame, e.before, e.length) for e in found]
    assert told == [("miss", 1, 12, 0, 4), ("miss", 2, 10, 0, 6), ("switch", 3, 8, 7, 1)]
    assert len(worst_events({"a": outcome(annotations(rows), Tracks.from_rows(pred), INFO)}, 1)) == 2


def test_nobody_at_all() -> None:
    found = outcome(Annotations.empty(), Tracks.empty(), INFO)
    assert error_rows([found]) == []
    assert worst_events({"a": found}) == []
