"""Rows of the sensitivity analysis and of the calibration sweep, and their files; no torch, as reports read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

OUTPUTS = {"class_logits": "class logits", "boxes": "boxes", "embedding": "embedding", "qim": "QIM"}  # name → in words
AS_CONFIGURED = "as_configured"  # name of the run's own way to calibrate


@dataclass(frozen=True)
class GroupRow:
    """One group: what it costs turned on alone, and what is left of the noise when it alone is off.

    SQNRs are those of the group alone: infinite where it changes nothing, NaN where the output has no signal. So are
    `mota` and `idf1`, on the short clips; NaN where they were not measured.
    """

    group: str
    num_tensors: int
    macs_share: float  # of all multiply-accumulates (0 to 1)
    class_logits_db: float
    boxes_db: float
    embedding_db: float
    qim_db: float
    alone_noise_share: float
    rest_noise_share: float
    mota: float = math.nan
    idf1: float = math.nan


@dataclass(frozen=True)
class PathPoint:
    """A mixed-precision setting of the greedy search: that of the row before, with one more group in float.

    `raised` is that group, "" for the start, where every group is int8. `mota` and `idf1` are NaN where not measured.
    """

    round: int
    raised: str
    float_share: float  # of the multiply-accumulates (0 to 1)
    noise_share: float
    class_logits_db: float
    boxes_db: float
    embedding_db: float
    qim_db: float
    mota: float = math.nan
    idf1: float = math.nan


@dataclass(frozen=True)
class SweepRow:
    """One way to calibrate. SQNR of the outputs against float on the probe's frames, fake quantisation on.

    `saturated_share`: of the values of an activation outside its grid, mean over the activations (0 to 1). `mota` and
    `idf1` are of the short clips; NaN where they were not measured. `tracks_per_frame`: what calibration saw.
    """

    variant: str
    class_logits_db: float
    boxes_db: float
    embedding_db: float
    qim_db: float
    mean_db: float
    saturated_share: float
    mota: float = field(default=math.nan, kw_only=True)
    idf1: float = field(default=math.nan, kw_only=True)
    tracks_per_frame: float
    duration_s: float


def raised_until(path: Sequence[PathPoint], number: int) -> list[str]:
    """Groups in float at point `number` of a path."""
    return [point.raised for point in path[: number + 1] if point.raised]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, error) points that no other one beats in both, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front
