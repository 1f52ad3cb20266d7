"""Metrics: hand-counted cases, folders, and equality with TrackEval on random and on real problems."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import motmetrics
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motrlab.data.motchallenge import Annotations, read_annotations, read_detections, read_sequence_info
from motrlab.errors import UserError
from motrlab.evaluation import clear, identity, metrics, pairs
from motrlab.evaluation.bytetrack import track_detections
from motrlab.evaluation.metrics import OVERALL, agreement, evaluate
from motrlab.evaluation.pairs import PairedSequence, pair_sequence
from motrlab.evaluation.protocols import PROTOCOLS, RULES, Rule
from motrlab.evaluation.tracks import Tracks, read_tracks, write_tracks
from motrlab.report.accuracy import accuracy_table

FRACTIONS = ["mota", "motp", "idf1", "idp", "idr", "hota", "deta", "assa"]
COUNTS = ["fp", "fn", "idsw", "frag", "mt", "pt", "ml", "num_gt"]
KEYS = FRACTIONS + COUNTS
MOT_ROOT = Path(os.environ.get("MOTRLAB_MOT_ROOT", "/nowhere"))


def rows(track_id: int, frames: range | tuple[int, ...], x: float = 0, *rest: float) -> list[tuple[float, ...]]:
    return [(frame, track_id, x, *rest) for frame in frames]


def want(**values: float) -> dict[str, float]:
    return values


FOUR, FIVE = range(1, 5), range(1, 6)
# name: gt rows, predicted rows (frame, id, x), expected values
CASES: dict[str, tuple[list[tuple[float, ...]], list[tuple[float, ...]], dict[str, float]]] = {
    "perfect": (
        rows(1, FOUR) + rows(2, FOUR, 100),
        rows(7, FOUR) + rows(3, FOUR, 100),
        want(mota=1, motp=1, idf1=1, idp=1, idr=1, hota=1, deta=1, assa=1, fp=0, fn=0, idsw=0, frag=0, mt=2, num_gt=8),
    ),
    "no predictions": (
        rows(1, FOUR) + rows(2, FOUR, 100),
        [],
        want(mota=0, motp=0, idf1=0, hota=0, fp=0, fn=8, mt=0, pt=0, ml=2, num_gt=8),
    ),
    "no gt": ([], rows(1, FOUR), want(idf1=0, hota=0, fp=4, fn=0, ml=0, num_gt=0)),
    "nothing at all": ([], [], dict.fromkeys(KEYS, 0)),
    "one switch": (
        rows(1, FOUR),
        rows(1, (1, 2)) + rows(2, (3, 4)),
        want(mota=0.75, idf1=0.5, idsw=1, frag=0, deta=1, assa=0.5, hota=0.5**0.5, mt=1),
    ),
    "switch after a gap": (
        rows(1, FOUR) + rows(2, FOUR, 100),
        rows(1, (1, 2)) + rows(3, (4,)) + rows(2, FOUR, 100),
        want(mota=1 - 2 / 8, idsw=1, frag=1, fn=1),
    ),
    "fragment": (
        rows(1, FIVE) + rows(2, FIVE, 100),
        rows(1, (1, 2, 4, 5)) + rows(2, FIVE, 100),
        want(mota=0.9, fn=1, idsw=0, frag=1, mt=1, pt=1, ml=0, idr=0.9, idp=1),
    ),
    "a frame without predictions makes no fragment": (
        rows(1, FIVE), rows(1, (1, 2, 4, 5)), want(mota=0.8, fn=1, frag=0, idsw=0)
    ),
    "false positives": (
        rows(1, FOUR),
        rows(1, FOUR) + rows(2, FOUR, 50),
        want(mota=0, fp=4, fn=0, idf1=2 / 3, idp=0.5, idr=1, deta=0.5, assa=1, hota=0.5**0.5),
    ),
    "frames with nobody": (
        rows(1, (1, 5)), rows(1, (1, 3, 5)), want(mota=0.5, fp=1, fn=0, frag=0, idsw=0, num_gt=2)
    ),
    "tracked for a fifth": (rows(1, FIVE), rows(1, (2,)), want(mt=0, pt=1, ml=0, fn=4)),
    "tracked for a sixth": (rows(1, range(1, 7)), rows(1, (2,)), want(mt=0, pt=0, ml=1, fn=5)),
    "IoU of one half matches": (rows(1, FOUR), rows(1, FOUR, 10 / 3), want(mota=1, motp=0.5, fp=0, fn=0)),
    "IoU below one half does not": (rows(1, FOUR), rows(1, FOUR, 3.5), want(mota=-1, motp=0, fp=4, fn=4, assa=9 / 19)),
    "the pair of the frame before goes on": (
        # In frame 2 track 2 lies better, but track 1 still reaches the threshold.
        rows(1, (1, 2)), [(1, 1, 0), (2, 1, 2), (2, 2, 0)], want(idsw=0, fp=1, mota=0.5, motp=(1 + 8 / 12) / 2)
    ),
    "an older pair does not": (
        rows(1, (1, 2, 3)) + rows(2, (1, 2, 3), 100),
        [(1, 1, 0), (3, 1, 2), (3, 2, 0), *rows(9, (1, 2, 3), 100)],
        want(idsw=1, fp=1, fn=1, frag=1),
    ),
    "an id used again for somebody else": (
        rows(1, (1, 2)) + rows(2, (3, 4), 100), rows(1, (1, 2)) + rows(1, (3, 4), 100),
        want(mota=1, idsw=0, idf1=0.5, assa=0.5, mt=2),
    ),
    "equal boxes, two for one": (rows(1, FOUR), rows(1, FOUR) + rows(2, FOUR), want(mota=0, fp=4, idsw=0, idr=1)),
    "equal boxes, two for two": (
        rows(1, FOUR) + rows(2, FOUR), rows(8, FOUR) + rows(9, FOUR), want(mota=1, idsw=0, idf1=1, hota=1)
    ),
    "flag 0 is no target, and hides nothing": (
        rows(1, FOUR) + rows(2, FOUR, 50, 0, 1), rows(1, FOUR) + rows(2, FOUR, 50), want(num_gt=4, fp=4, mota=0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_counted(name: str, make_gt: Callable, make_pred: Callable, oracle: Callable) -> None:
    gt_rows, pred_rows, expected = CASES[name]
    gt, pred = {"SEQ": make_gt(gt_rows)}, {"SEQ": make_pred(pred_rows)}
    for protocol in PROTOCOLS:
        results = evaluate(gt, pred, protocol)
        assert list(results) == ["SEQ", OVERALL]
        for values in results.values():
            assert list(values) == KEYS
            assert {key: values[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    if name != "IoU of one half matches":  # TrackEval reads files: rounding to 0.001 px moves the case at the threshold
        assert_equal(evaluate(gt, pred), oracle(gt, pred, "motchallenge"))


@pytest.mark.parametrize(("class_id", "removed"), [(2, 1), (7, 1), (8, 1), (12, 1), (1, 0), (3, 0), (6, 0), (11, 0)])
def test_predictions_on_distractors(class_id: int, removed: int, make_gt: Callable, make_pred: Callable) -> None:
    gt = {"SEQ": make_gt(rows(1, FOUR) + rows(2, FOUR, 50, 0, class_id))}
    pred = {"SEQ": make_pred(rows(1, FOUR) + rows(2, FOUR, 51))}
    assert evaluate(gt, pred, "motchallenge")["SEQ"]["fp"] == (0 if removed else 4)
    assert evaluate(gt, pred, "hat")["SEQ"]["fp"] == 4


def test_a_person_before_a_mannequin_keeps_its_prediction(make_gt: Callable, make_pred: Callable) -> None:
    gt = {"SEQ": make_gt(rows(1, FOUR) + rows(2, FOUR, 2, 0, 7))}
    values = evaluate(gt, {"SEQ": make_pred(rows(1, FOUR, 0.5))})["SEQ"]
    assert (values["fp"], values["fn"]) == (0, 0)


def test_without_gt_mota_is_that_of_trackeval(make_gt: Callable, make_pred: Callable) -> None:
    """0 for a sequence, minus the false positives for all of them."""
    results = evaluate({"A": make_gt([]), "B": make_gt([])}, {"A": make_pred(rows(1, FOUR))})
    assert (results["A"]["mota"], results["B"]["mota"], results[OVERALL]["mota"]) == (0, 0, -4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("flag", "num_gt"), [(-1, 4), (2, 4), (0, 0)])
def test_every_flag_but_0_counts_under_both_protocols(
    flag: int, num_gt: int, protocol: str, make_gt: Callable, make_pred: Callable
) -> None:
    gt = {"SEQ": make_gt(rows(1, FOUR, 0, flag))}
    assert evaluate(gt, {"SEQ": make_pred(rows(1, FOUR))}, protocol)["SEQ"]["num_gt"] == num_gt


def test_hat_counts_every_class_with_flag_1(make_gt: Callable, make_pred: Callable) -> None:
    gt = {"SEQ": make_gt(rows(1, FOUR) + rows(2, FOUR, 50, 1, 3))}
    pred = {"SEQ": make_pred(rows(1, FOUR) + rows(2, FOUR, 50))}
    assert evaluate(gt, pred, "hat")["SEQ"]["num_gt"] == 8
    assert evaluate(gt, pred, "hat")["SEQ"]["mota"] == 1
    assert evaluate(gt, pred, "motchallenge")["SEQ"]["num_gt"] == 4
    assert evaluate(gt, pred, "motchallenge")["SEQ"]["fp"] == 4


def test_mot15_has_flags_but_no_classes(make_gt: Callable, make_pred: Callable, oracle: Callable) -> None:
    gt = {"SEQ": make_gt(rows(1, FOUR) + rows(2, FOUR, 50, 0), has_class=False)}
    pred = {"SEQ": make_pred(rows(1, FOUR) + rows(2, FOUR, 50))}
    assert evaluate(gt, pred, "motchallenge") == evaluate(gt, pred, "hat")
    assert evaluate(gt, pred)["SEQ"]["fp"] == 4
    assert_equal(evaluate(gt, pred), oracle(gt, pred, "motchallenge"))


def test_overall_adds_counts(make_gt: Callable, make_pred: Callable) -> None:
    gt = {"A": make_gt(rows(1, FOUR)), "B": make_gt(rows(1, range(1, 13)))}
    results = evaluate(gt, {"A": make_pred(rows(1, FOUR))})
    assert results["B"]["fn"] == 12
    assert results[OVERALL]["mota"] == pytest.approx(0.25)
    assert results[OVERALL]["deta"] == pytest.approx(0.25)
    assert results[OVERALL]["assa"] == pytest.approx(1)
    assert (results[OVERALL]["mt"], results[OVERALL]["ml"], results[OVERALL]["num_gt"]) == (1, 1, 16)


def test_counts_are_ints_and_json_takes_them(make_gt: Callable, make_pred: Callable) -> None:
    values = evaluate({"A": make_gt(rows(1, FOUR))}, {"A": make_pred(rows(1, (1, 2)))})
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert {key for key, value in values["A"].items() if type(value) is int} == set(COUNTS)
    assert {key for key, value in values["A"].items() if type(value) is float} == set(FRACTIONS)


def test_user_mistakes(make_gt: Callable, make_pred: Callable) -> None:
    gt = {"A": make_gt(rows(1, FOUR))}
    with pytest.raises(UserError, match=r"predictions of 'B'.*sequences are A"):
        evaluate(gt, {"B": make_pred([])})
    with pytest.raises(UserError, match=r"unknown protocol 'mot'.*motchallenge, hat"):
        evaluate(gt, {}, "mot")
    with pytest.raises(UserError, match="no ground truth"):
        evaluate({}, {})


def test_tracks_agree_under_any_ids(make_pred: Callable) -> None:
    two = make_pred(rows(1, FOUR) + rows(2, FOUR, 100))
    renamed = Tracks(two.frame, two.track_id + 7, two.ltwh, two.score)
    assert agreement({"A": two}, {"A": renamed})[OVERALL]["idf1"] == 1
    swapped = Tracks(two.frame, np.where(two.frame > 2, 3 - two.track_id, two.track_id), two.ltwh, two.score)
    values = agreement({"A": two, "B": two}, {"A": swapped})
    assert (values["A"]["idsw"], values["A"]["idf1"], values["B"]["fn"]) == (2, 0.5, 8)
    with pytest.raises(UserError, match="no ground truth"):
        agreement({"A": two}, {"B": two})


# --- equality with TrackEval ---


def assert_equal(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9, rel=0), name


def problem(
    seed: int, people: int, frames: int, noise: float, grid: float, spread: float = 25
) -> tuple[Annotations, Tracks]:
    """People on random walks among distractors and ignored boxes, and a tracker that errs in every way.

    A coarse `grid` puts boxes onto few places, so that equal overlaps and overlaps at the threshold are frequent.
    A small `spread` makes a crowd in which everybody overlaps many others.
    """
    rng = np.random.default_rng(seed)
    gt_rows, pred_rows = [], []
    place, speed = rng.uniform(0, spread * people, (people, 2)), rng.normal(0, 2, (people, 2))
    size = rng.uniform(10, 40, (people, 2))
    class_id = rng.choice([1, 1, 1, 1, 2, 3, 7, 8, 12], people)
    flag = np.where(class_id == 1, rng.random(people) < 0.9, rng.random(people) < 0.3)
    alias = np.arange(people)
    for frame in range(1, frames + 1):
        place = place + speed
        if rng.random() < 0.1:  # a frame with nobody, or one the tracker sleeps through
            continue
        if rng.random() < 0.2:  # two tracks swap, one takes the id of another that is gone, or one begins again
            a, b = rng.integers(people, size=2)
            alias[[a, b]] = alias[[b, a]]
            alias[a] = alias.max() + 1 if rng.random() < 0.5 else alias[a]
        for i in range(people):
            box = np.maximum(np.round(np.r_[place[i], size[i]] / grid) * grid, [-1e9, -1e9, grid, grid])
            if rng.random() < 0.85:
                gt_rows.append((frame, i + 1, *box, flag[i], class_id[i]))
            if rng.random() < 0.8:
                moved = np.round((box + rng.normal(0, noise, 4) * size[i].mean()) / grid) * grid
                pred_rows.append((frame, alias[i] + 1, *np.maximum(moved, [-1e9, -1e9, grid, grid]), 1.0))
    table = np.array(gt_rows, dtype=float).reshape(-1, 8)
    integers = table.astype(np.int64)
    gt = Annotations(
        integers[:, 0], integers[:, 1], table[:, 2:6], integers[:, 6], integers[:, 7], np.ones(len(table)), True
    )
    order = np.lexsort(np.array(pred_rows, dtype=float).reshape(-1, 7)[:, [1, 0]].T)
    return gt, Tracks.from_rows(np.array(pred_rows, dtype=float).reshape(-1, 7)[order])


problems = given(
    seed=st.integers(0, 10**6),
    people=st.integers(1, 24),
    frames=st.integers(1, 25),
    noise=st.sampled_from([0.0, 0.05, 0.15, 0.4]),
    grid=st.sampled_from([0.001, 1.0, 8.0]),
    spread=st.sampled_from([25.0, 2.0]),
    protocol=st.sampled_from(PROTOCOLS),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@problems
def test_equal_to_trackeval(oracle: Callable, seed: int, protocol: str, **sizes: Any) -> None:
    first, second = problem(seed, **sizes), problem(seed + 1, **sizes)
    gt = {"A": first[0], "B": second[0], "unseen": first[0]}
    pred = {"A": first[1], "B": second[1]}
    assert_equal(evaluate(gt, pred, protocol), oracle(gt, pred, protocol))


@settings(max_examples=30, deadline=None, derandomize=True)
@problems
def test_counts_are_those_of_motmetrics_where_matches_are_ours(seed: int, protocol: str, **sizes: Any) -> None:
    """motmetrics keeps the books of our correspondences, and finds the identities itself."""
    sequence = pair_sequence(*problem(seed, **sizes), protocol)
    ours = clear.count(sequence) | identity.count(sequence)
    if not len(sequence.gt_id) or not len(sequence.pred_id):
        return
    ids = books(sequence, np.flatnonzero(sequence.iou >= 0.5), ["idtp", "idfp", "idfn"])
    assert ids == {name: ours[name] for name in ids}
    names = {"num_detections": "tp", "num_false_positives": "fp", "num_misses": "fn", "num_switches": "idsw"}
    found = books(sequence, clear.correspondences(sequence), [*names, "track_ratios"])
    assert {name: found[name] for name in names} == {theirs: ours[name] for theirs, name in names.items()}
    ratios = found["track_ratios"]
    assert ((ratios > 0.8).sum(), (ratios < 0.2).sum()) == (ours["mt"], ours["ml"])


def books(sequence: PairedSequence, allowed: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What motmetrics counts when only some pairs may match."""
    accumulator = motmetrics.MOTAccumulator()
    for frame in np.union1d(sequence.gt_frame, sequence.pred_frame):
        gt, pred = np.flatnonzero(sequence.gt_frame == frame), np.flatnonzero(sequence.pred_frame == frame)
        distances = np.full((len(gt), len(pred)), np.nan)
        for pair in allowed[sequence.gt_frame[sequence.pair_gt[allowed]] == frame]:
            distances[sequence.pair_gt[pair] - gt[0], sequence.pair_pred[pair] - pred[0]] = 1 - sequence.iou[pair]
        accumulator.update(sequence.gt_id[gt], sequence.pred_id[pred], distances, frameid=frame)
    return dict(motmetrics.metrics.create().compute(accumulator, metrics=names, return_dataframe=False))


def test_the_engine_motmetrics_is_an_opinion_of_its_own(make_gt: Callable, make_pred: Callable) -> None:
    gt, pred = problem(3, 9, 25, 0.05, 0.001, spread=200)  # nobody near anybody: no question who is whose
    ours, theirs = (evaluate({"A": gt}, {"A": pred}, engine=engine)["A"] for engine in ("motrlab", "motmetrics"))
    same = ("mota", "motp", "idf1", "idp", "idr", "fp", "fn", "idsw", "num_gt")
    assert {key: theirs[key] for key in same} == pytest.approx({key: ours[key] for key in same})
    assert ours["idsw"] > 0
    assert "hota" not in theirs
    gt_rows, pred_rows, _ = CASES["an older pair does not"]  # for motmetrics it does
    values = evaluate({"A": make_gt(gt_rows)}, {"A": make_pred(pred_rows)}, engine="motmetrics")
    assert values["A"]["idsw"] == 0
    assert values[OVERALL] == values["A"]
    nothing = evaluate({"A": make_gt(gt_rows), "B": make_gt([])}, {}, engine="motmetrics")
    assert (nothing[OVERALL]["fn"], nothing[OVERALL]["mota"]) == (6, 0)


def test_a_metric_is_a_file_and_an_entry(
    monkeypatch: pytest.MonkeyPatch, make_gt: Callable, make_pred: Callable
) -> None:
    class Length:
        @staticmethod
        def count(sequence: PairedSequence) -> dict[str, Any]:
            return {"boxes": len(sequence.pred_id), "tracks": len(sequence.pred_length)}

        @staticmethod
        def metrics(counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
            return {"length": counts["boxes"] / counts["tracks"]}

    monkeypatch.setitem(metrics.ENGINES, "motrlab", (clear, Length))
    pred = {"A": make_pred(rows(1, FOUR)), "B": make_pred(rows(1, (1, 2)))}
    results = evaluate({name: make_gt(rows(1, FOUR)) for name in pred}, pred)
    assert [values["length"] for values in results.values()] == [4, 2, 3]


def test_a_protocol_is_an_entry(monkeypatch: pytest.MonkeyPatch, make_gt: Callable, make_pred: Callable) -> None:
    """Cars alone: from the command line's check to what a report says of it."""
    monkeypatch.setitem(RULES, "cars", Rule(told="Cars alone.", targets=frozenset({3})))
    gt = {"A": make_gt([*rows(1, FOUR), *((frame, 2, 50, 1, 3) for frame in FOUR)])}
    found = evaluate(gt, {"A": make_pred(rows(1, FOUR))}, "cars")
    assert (found["A"]["num_gt"], found["A"]["fp"]) == (4, 4)
    record = {"stage": "float", "kind": "accuracy", "metrics": {f"cars.{k}": v for k, v in found["A"].items()}}
    table = accuracy_table([record], "cars")
    assert table is not None
    assert table.note == "Cars alone."


def test_a_large_sequence_is_paired_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    gt, pred = problem(3, 9, 25, 0.05, 1.0)
    whole = evaluate({"A": gt}, {"A": pred})
    for chunk in (1, 100):
        monkeypatch.setattr(pairs, "_CHUNK", chunk)
        assert evaluate({"A": gt}, {"A": pred}) == whole


def test_random_problems_hold_every_kind_of_error() -> None:
    gt, pred = problem(3, 9, 25, 0.05, 1.0)
    values = evaluate({"A": gt}, {"A": pred})["A"]
    assert all(values[key] > 0 for key in ("fp", "fn", "idsw", "frag"))
    assert evaluate({"A": gt}, {"A": pred}, "hat")["A"]["fp"] != values["fp"]


def test_shuffled_ids_cost() -> None:
    gt, pred = problem(3, 9, 25, 0.02, 0.001)
    rng = np.random.default_rng(0)
    track_id = pred.track_id.copy()
    for frame in np.unique(pred.frame):
        track_id[pred.frame == frame] = rng.permutation(track_id[pred.frame == frame])
    before = evaluate({"A": gt}, {"A": pred})["A"]
    after = evaluate({"A": gt}, {"A": Tracks(pred.frame, track_id, pred.ltwh, pred.score)})["A"]
    for key in ("mota", "idf1", "hota", "assa"):
        assert after[key] < before[key] - 0.05, key
    assert abs(after["deta"] - before["deta"]) < 0.02  # boxes are the same


@pytest.mark.skipif(not (MOT_ROOT / "MOT17-09-DPM").is_dir(), reason="no real data: set MOTRLAB_MOT_ROOT")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_to_trackeval_on_a_real_video(oracle: Callable, tmp_path: Path, protocol: str) -> None:
    folder = MOT_ROOT / "MOT17-09-DPM"
    info = read_sequence_info(folder)
    gt = {folder.name: read_annotations(folder / "gt" / "gt.txt", info)}
    write_tracks(tmp_path / "tracks.txt", track_detections(read_detections(folder / "det" / "det.txt", info)))
    pred = {folder.name: read_tracks(tmp_path / "tracks.txt")}
    ours = evaluate(gt, pred, protocol)
    assert_equal(ours, oracle(gt, pred, protocol))
    assert ours[OVERALL]["mota"] > 0.3  # 0.463 motchallenge, 0.362 hat: the baseline works
