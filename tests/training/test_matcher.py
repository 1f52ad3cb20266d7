"""The matcher against all ways to pair, and its cost against the formulas pair by pair."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motrlab.config import TrainConfig
from motrlab.training.assignment import HungarianMatcher

CONFIG = TrainConfig(steps=1)
MATCHER = HungarianMatcher(CONFIG)
SIZES = {
    "as many slots as objects": (4, 4),
    "more slots": (6, 3),
    "more objects": (2, 5),
    "one and one": (1, 1),
    "one slot": (1, 4),
    "no slots": (0, 3),
    "no objects": (3, 0),
    "nothing": (0, 0),
}


def draw(num_slots: int, num_objects: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        return np.column_stack((rng.uniform(0.1, 0.9, (n, 2)), rng.uniform(0.05, 0.4, (n, 2)))).astype(np.float32)

    return rng.uniform(0.01, 0.99, num_slots).astype(np.float32), boxes(num_slots), boxes(num_objects)


def giou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two cxcywh boxes, step by step; 0 for two boxes that are one point."""
    a0, a1, a2, a3 = (float(v) for v in (a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2))
    b0, b1, b2, b3 = (float(v) for v in (b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2))
    common = max(0.0, min(a2, b2) - max(a0, b0)) * max(0.0, min(a3, b3) - max(a1, b1))
    union = (a2 - a0) * (a3 - a1) + (b2 - b0) * (b3 - b1) - common
    hull = (max(a2, b2) - min(a0, b0)) * (max(a3, b3) - min(a1, b1))
    return common / union - (hull - union) / hull


def pair_cost(score: float, box: np.ndarray, gt: np.ndarray) -> float:
    """2 focal + 5 L1 + 2 GIoU."""
    as_object = -0.25 * (1 - score) ** 2 * math.log(score)
    as_nothing = -0.75 * score**2 * math.log(1 - score)
    return 2 * (as_object - as_nothing) + 5 * sum(abs(float(x - y)) for x, y in zip(box, gt, strict=True)) - 2 * giou(
        box, gt
    )  # fmt: skip


def cheapest(cost: list[list[float]], num_slots: int, num_objects: int) -> float:
    """Over all ways to pair the smaller side with different members of the larger."""
    if num_slots <= num_objects:
        ways = itertools.permutations(range(num_objects), num_slots)
        return min(sum(cost[i][j] for i, j in enumerate(way)) for way in ways)
    ways = itertools.permutations(range(num_slots), num_objects)
    return min(sum(cost[i][j] for j, i in enumerate(way)) for way in ways)


def check(scores: np.ndarray, boxes: np.ndarray, gt: np.ndarray) -> None:
    """One partner each, as many pairs as there can be, and no pairing is cheaper."""
    slots, objects = MATCHER(scores, boxes, gt)
    assert len(slots) == len(objects) == min(len(scores), len(gt))
    assert len(set(objects.tolist())) == len(objects)
    assert np.all(np.diff(slots) > 0)  # ascending, so different
    cost = [[pair_cost(float(s), b, g) for g in gt] for s, b in zip(scores, boxes, strict=True)]
    total = sum(cost[i][j] for i, j in zip(slots, objects, strict=True))
    assert total == pytest.approx(cheapest(cost, len(scores), len(gt)), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_slots", "num_objects"), SIZES.values(), ids=SIZES)
def test_no_pairing_is_cheaper(num_slots: int, num_objects: int, seed: int) -> None:
    check(*draw(num_slots, num_objects, seed))


SCORE = st.integers(1, 255).map(lambda n: n / 256)
BOX = st.tuples(*[st.integers(-16, 80).map(lambda n: n / 64)] * 2, *[st.integers(1, 96).map(lambda n: n / 64)] * 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(SCORE, BOX), max_size=5), st.lists(BOX, max_size=4))
def test_no_pairing_is_cheaper_whatever_the_boxes(slots: list[tuple], objects: list[tuple]) -> None:
    """Boxes beyond the image, equal boxes, equal scores, nobody at all."""
    scores = np.array([score for score, _ in slots], np.float32)
    boxes = np.array([box for _, box in slots], np.float32).reshape(-1, 4)
    check(scores, boxes, np.array(objects, np.float32).reshape(-1, 4))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_slots_and_objects_does_not_matter(seed: int) -> None:
    scores, boxes, gt = draw(6, 4, seed)
    rng = np.random.default_rng(seed)
    of_slots, of_objects = rng.permutation(6), rng.permutation(4)
    pairs = set(zip(*(x.tolist() for x in MATCHER(scores, boxes, gt)), strict=True))
    slots, objects = MATCHER(scores[of_slots], boxes[of_slots], gt[of_objects])
    assert set(zip(of_slots[slots].tolist(), of_objects[objects].tolist(), strict=True)) == pairs


def test_the_cost_of_every_pair() -> None:
    scores, boxes, gt = draw(7, 5, 3)
    expected = [[pair_cost(float(s), b, g) for g in gt] for s, b in zip(scores, boxes, strict=True)]
    np.testing.assert_allclose(MATCHER.cost(scores, boxes, gt), expected, rtol=1e-4, atol=1e-5)


def test_weights_scale_their_terms() -> None:
    scores, boxes, gt = draw(3, 2, 0)
    names = ("class_weight", "l1_weight", "giou_weight")
    none = replace(CONFIG, **dict.fromkeys(names, 0.0))  # type: ignore[arg-type]
    only = {name: HungarianMatcher(replace(none, **{name: 1.0})) for name in names}  # type: ignore[arg-type]
    parts = {name: matcher.cost(scores, boxes, gt) for name, matcher in only.items()}
    whole = 2 * parts["class_weight"] + 5 * parts["l1_weight"] + 2 * parts["giou_weight"]
    np.testing.assert_allclose(MATCHER.cost(scores, boxes, gt), whole, rtol=1e-6)


def test_ties_are_settled_and_settled_the_same_way() -> None:
    scores = np.full(3, 0.5, np.float32)
    boxes = np.tile(np.array([[0.5, 0.5, 0.2, 0.2]], np.float32), (3, 1))
    found, objects = MATCHER(scores, boxes, boxes[:2])
    assert len(set(found.tolist())) == 2
    assert sorted(objects.tolist()) == [0, 1]
    again = MATCHER(scores, boxes, boxes[:2])
    assert (found.tolist(), objects.tolist()) == (again[0].tolist(), again[1].tolist())


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_certain_scores_have_a_finite_cost(score: float) -> None:
    _, boxes, gt = draw(2, 2, 1)
    assert np.isfinite(MATCHER.cost(np.full(2, score, np.float32), boxes, gt)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_network_that_has_blown_up_is_matched_all_the_same(value: float) -> None:
    """Its loss says so; the matcher must not be what ends the training."""
    scores, boxes, gt = draw(4, 2, 0)
    boxes[1], scores[2] = value, np.nan
    with np.errstate(invalid="ignore"):
        slots, objects = MATCHER(scores, boxes, gt)
    assert sorted(objects.tolist()) == [0, 1]
    assert len(set(slots.tolist())) == 2


def test_of_several_classes_the_score_of_the_objects_own_counts() -> None:
    scores, boxes, gt_boxes = draw(4, 3, seed=5)
    each = np.stack((scores, scores[::-1]), 1)
    kinds = np.array([0, 1, 1])
    expected = [[pair_cost(float(each[i, k]), boxes[i], gt_boxes[j]) for j, k in enumerate(kinds)] for i in range(4)]
    np.testing.assert_allclose(MATCHER.cost(each, boxes, gt_boxes, kinds), expected, rtol=1e-5)
    same = np.tile(boxes[:1], (2, 1)), np.tile(gt_boxes[:1], (2, 1))
    slots, objects = MATCHER(np.array([[0.9, 0.1], [0.1, 0.9]]), *same, np.array([1, 0]))
    assert dict(zip(slots.tolist(), objects.tolist(), strict=True)) == {0: 1, 1: 0}
