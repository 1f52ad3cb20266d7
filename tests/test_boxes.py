from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from motrlab.boxes import (
    box_cxcywh_to_ltwh,
    box_cxcywh_to_xyxy,
    box_giou,
    box_iou,
    box_ltwh_to_cxcywh,
    box_ltwh_to_xyxy,
    pairwise_giou,
    pairwise_iou,
)

Boxes = Any


@st.composite
def xyxy(draw: st.DrawFn, max_boxes: int = 6) -> Boxes:
    """`[n, 4]` boxes of positive size, coordinates within ±100; n may be zero."""
    n = draw(st.integers(0, max_boxes))
    corner = draw(arrays(np.float64, (n, 2), elements=st.floats(-100, 100, width=32)))
    size = draw(arrays(np.float64, (n, 2), elements=st.floats(0.125, 100, width=32)))
    return np.concatenate((corner, corner + size), 1)


@given(boxes=xyxy())
@settings(max_examples=40, deadline=None)
def test_round_trip(boxes: Boxes) -> None:
    np.testing.assert_allclose(box_cxcywh_to_ltwh(box_ltwh_to_cxcywh(boxes)), boxes, atol=1e-9)


@given(boxes=xyxy())
@settings(max_examples=40, deadline=None)
def test_two_ways_from_ltwh_to_corners(boxes: Boxes) -> None:
    np.testing.assert_allclose(box_ltwh_to_xyxy(boxes), box_cxcywh_to_xyxy(box_ltwh_to_cxcywh(boxes)), atol=1e-9)


@given(a=xyxy(), b=xyxy())
@settings(max_examples=60, deadline=None)
def test_iou_and_giou_are_symmetric_and_within_range(a: Boxes, b: Boxes) -> None:
    iou, giou = pairwise_iou(a, b), pairwise_giou(a, b)
    assert iou.shape == giou.shape == (len(a), len(b))
    np.testing.assert_allclose(iou, pairwise_iou(b, a).T)
    np.testing.assert_allclose(giou, pairwise_giou(b, a).T, atol=1e-12)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou >= -1) & (giou <= iou + 1e-12)).all()


@given(a=xyxy(), shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_iou_is_invariant_to_shift_and_scale(a: Boxes, shift: float, scale: float) -> None:
    moved = a * scale + shift
    np.testing.assert_allclose(pairwise_iou(moved, moved), pairwise_iou(a, a), atol=1e-6)
    np.testing.assert_allclose(pairwise_giou(moved, moved), pairwise_giou(a, a), atol=1e-6)


@given(a=xyxy())
@settings(max_examples=40, deadline=None)
def test_a_box_overlaps_itself_wholly(a: Boxes) -> None:
    np.testing.assert_allclose(box_iou(a, a), np.ones(len(a)))
    np.testing.assert_allclose(box_giou(a, a), np.ones(len(a)))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        box_cxcywh_to_ltwh, box_cxcywh_to_xyxy, box_ltwh_to_cxcywh, box_ltwh_to_xyxy,
        box_iou, box_giou, pairwise_iou, pairwise_giou,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@given(boxes=xyxy())
@settings(max_examples=25, deadline=None)
def test_numpy_equals_torch(name: str, boxes: Boxes) -> None:
    function = FUNCTIONS[name]
    others = (boxes[::-1].copy(),) if "iou" in name else ()
    expected = function(boxes, *others)
    found = function(torch.from_numpy(boxes), *map(torch.from_numpy, others))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


PAIRS = {  # two boxes xyxy, IoU, GIoU; by hand
    "same": ((0, 0, 2, 2), (0, 0, 2, 2), 1, 1),
    "half": ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, 1 / 3),
    "corner": ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
    "touching": ((0, 0, 1, 1), (1, 0, 2, 1), 0, 0),
    "apart": ((0, 0, 1, 1), (3, 0, 4, 1), 0, -0.5),
    "inside": ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16, 1 / 16),
    "no size, same place": ((1, 1, 1, 1), (1, 1, 1, 1), 0, 0),
    "no size, apart": ((0, 0, 0, 0), (1, 1, 1, 1), 0, -1),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_by_hand(name: str) -> None:
    a, b, iou, giou = PAIRS[name]
    first, second = np.array(a, np.float64), np.array(b, np.float64)
    assert box_iou(first, second) == pytest.approx(iou, abs=1e-6)
    assert box_giou(first, second) == pytest.approx(giou, abs=1e-6)


def test_gradients_of_giou_pull_boxes_together() -> None:
    a = torch.tensor([0.0, 0.0, 1.0, 1.0], requires_grad=True)
    box_giou(a, torch.tensor([3.0, 0.0, 4.0, 1.0])).backward()
    assert a.grad is not None
    assert a.grad[2] > 0  # the right edge wants to go right


def test_leading_axes_are_kept() -> None:
    boxes = np.random.default_rng(0).uniform(0, 1, (2, 3, 5, 4))
    boxes[..., 2:] += boxes[..., :2]
    assert box_ltwh_to_cxcywh(boxes).shape == (2, 3, 5, 4)
    assert pairwise_iou(boxes, boxes[:, :, :2]).shape == (2, 3, 5, 2)
