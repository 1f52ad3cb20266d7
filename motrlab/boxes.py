"""Box geometry on NumPy arrays or torch tensors alike; torch is never imported here.

Boxes are `[..., 4]`. `cxcywh`: centre, width, height; `xyxy`: corners; `ltwh`: left, top, width, height. Any unit,
as long as both arguments share it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor, in and out alike


def _stack(parts: tuple[Array, ...]) -> Array:
    if isinstance(parts[0], np.ndarray):
        return np.stack(parts, -1)
    import torch

    return torch.stack(parts, -1)


def box_cxcywh_to_xyxy(boxes: Array) -> Array:
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    return _stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))


def box_ltwh_to_xyxy(boxes: Array) -> Array:
    x, y, w, h = (boxes[..., i] for i in range(4))
    return _stack((x, y, x + w, y + h))


def box_ltwh_to_cxcywh(boxes: Array) -> Array:
    x, y, w, h = (boxes[..., i] for i in range(4))
    return _stack((x + w / 2, y + h / 2, w, h))


def box_cxcywh_to_ltwh(boxes: Array) -> Array:
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    return _stack((cx - w / 2, cy - h / 2, w, h))


def _intersection_union(a: Array, b: Array) -> tuple[Array, Array]:
    """Areas of xyxy boxes `a` and `b`, broadcast against each other."""
    width = (_minimum(a[..., 2], b[..., 2]) - _maximum(a[..., 0], b[..., 0])).clip(min=0)
    height = (_minimum(a[..., 3], b[..., 3]) - _maximum(a[..., 1], b[..., 1])).clip(min=0)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    intersection = width * height
    return intersection, area_a + area_b - intersection


def _minimum(a: Array, b: Array) -> Array:
    return np.minimum(a, b) if isinstance(a, np.ndarray) else a.minimum(b)


def _maximum(a: Array, b: Array) -> Array:
    return np.maximum(a, b) if isinstance(a, np.ndarray) else a.maximum(b)


def box_iou(a: Array, b: Array) -> Array:
    """IoU of xyxy boxes, broadcast elementwise; 0 where both areas are 0. Range 0 to 1."""
    intersection, union = _intersection_union(a, b)
    return intersection / union.clip(min=1e-9)


def pairwise_iou(a: Array, b: Array) -> Array:
    """`[..., n, 4]` and `[..., m, 4]` xyxy → `[..., n, m]`."""
    return box_iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_covered(a: Array, b: Array) -> Array:
    """How much of each `a` lies in each `b`: `[..., n, 4]` and `[..., m, 4]` xyxy → `[..., n, m]`, 0 to 1."""
    a = a[..., :, None, :]
    area = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    return _intersection_union(a, b[..., None, :, :])[0] / area.clip(min=1e-9)


def box_giou(a: Array, b: Array) -> Array:
    """Generalised IoU (arXiv 1902.09630) of xyxy boxes, broadcast elementwise. Range -1 to 1."""
    intersection, union = _intersection_union(a, b)
    union = union.clip(min=1e-9)
    width = _maximum(a[..., 2], b[..., 2]) - _minimum(a[..., 0], b[..., 0])
    height = _maximum(a[..., 3], b[..., 3]) - _minimum(a[..., 1], b[..., 1])
    hull = (width * height).clip(min=1e-9)
    return intersection / union - (hull - union) / hull


def pairwise_giou(a: Array, b: Array) -> Array:
    """`[..., n, 4]` and `[..., m, 4]` xyxy → `[..., n, m]`."""
    return box_giou(a[..., :, None, :], b[..., None, :, :])
