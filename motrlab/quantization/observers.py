"""How a range is chosen from what an observer saw: functions of a histogram of magnitudes.

`min_max` and `moving_average` need no histogram (`ranges.py`); what is added to `FROM_HISTOGRAM` here can
be named in a rule once `config.scheme.OBSERVERS` lists it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BINS = 2048


class MagnitudeHistogram:
    """Counts of magnitudes over 0..`limit` in `BINS` bins; `limit` doubles, and bins merge in pairs, when it must.

    Works in place on a module's buffers, so that they are saved with it: `counts` `[BINS]`, `limit` `[1]`.
    """

    def __init__(self, counts: Tensor, limit: Tensor) -> None:
        self.counts, self.limit = counts, limit

    def add(self, x: Tensor) -> None:
        magnitude = x.abs()
        largest = float(magnitude.max())
        if largest == 0 and float(self.limit) == 0:
            return
        if float(self.limit) == 0:
            self.limit.fill_(largest)
        while largest > float(self.limit):
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts.zero_()[: BINS // 2] = merged
            self.limit *= 2
        self.counts += torch.histc(magnitude.float(), BINS, 0, float(self.limit))


def mse_clip(counts: Tensor, limit: float, levels: int, _: float) -> float:
    """The magnitude to clip at for the least squared error.

    Rounding to steps of s errs by s² / 12 on average, clipping at c by the distance to c.
    """
    centre = _centres(counts, limit)
    clip = torch.linspace(0.1, 1.0, 181, device=counts.device)[:, None] * limit
    step = clip / levels
    error = torch.where(centre <= clip, step**2 / 12, (centre - clip) ** 2)
    error = torch.where(centre < step / 2, centre**2, error)  # rounds to zero
    return float(clip[(error * counts).sum(1).argmin()])


def percentile_clip(counts: Tensor, limit: float, levels: int, percentile: float) -> float:
    """The magnitude below which `percentile` per cent of the values lie: the upper edge of its bin."""
    reached = counts.double().cumsum(0) >= counts.double().sum() * (percentile / 100)
    return float(reached.nonzero()[0] + 1) / len(counts) * limit


def kl_clip(counts: Tensor, limit: float, levels: int, _: float) -> float:
    """The magnitude to clip at for the least Kullback-Leibler divergence of the quantised from the clipped histogram.

    As in entropy calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): what is clipped counts in the last
    bin, and each level spreads its count evenly over its bins that are not empty. With more levels than bins nothing is
    lost by rounding that a histogram could show: then nothing is clipped. The lowest bin, which holds the zeros of
    every ReLU, is left out.
    """
    if levels >= len(counts):
        return limit
    mass = counts.double().clone()
    mass[0] = 0
    if not bool(mass.any()):
        return limit
    best, chosen = float("inf"), limit
    for edge in range(levels, len(counts) + 1, 16):
        reference = mass[:edge].clone()
        reference[-1] += mass[edge:].sum()
        level = (torch.arange(edge, device=counts.device) * levels // edge).long()
        filled = (mass[:edge] > 0).double()
        sums, sizes = (torch.zeros(levels, dtype=torch.float64, device=counts.device) for _ in range(2))
        sums.index_add_(0, level, mass[:edge])
        sizes.index_add_(0, level, filled)
        model = (sums / sizes.clamp(min=1))[level] * filled
        if not bool(model.any()):
            continue
        p, q = reference / reference.sum(), model / model.sum()
        seen = p > 0
        # What the clipped histogram has and the quantised one has not would be infinitely surprising.
        divergence = float((p[seen] * (p[seen] / q[seen].clamp(min=1e-12)).log()).sum())
        if divergence < best:
            best, chosen = divergence, edge / len(counts) * limit
    return chosen


Clip = Callable[[Tensor, float, int, float], float]
# (counts `[BINS]`, limit, levels on one side, percentile) → magnitude to clip at
FROM_HISTOGRAM: dict[str, Clip] = {"percentile": percentile_clip, "mse": mse_clip, "kl": kl_clip}


def _centres(counts: Tensor, limit: float) -> Tensor:
    return (torch.arange(len(counts), device=counts.device) + 0.5) * (limit / len(counts))
