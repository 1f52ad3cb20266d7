"""Observers over a histogram against slow, obvious searches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config.scheme import OBSERVERS
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.observers import (
    BINS,
    FROM_HISTOGRAM,
    MagnitudeHistogram,
    kl_clip,
    mse_clip,
    percentile_clip,
)


def histogram(*parts: Tensor) -> tuple[Tensor, float]:
    found = MagnitudeHistogram(torch.zeros(BINS), torch.zeros(1))
    for part in parts:
        found.add(part)
    return found.counts, float(found.limit)


def normal(number: int, seed: int = 0) -> Tensor:
    return torch.randn(number, generator=torch.Generator().manual_seed(seed))


def test_every_observer_of_the_config_exists() -> None:
    assert set(OBSERVERS) == {"min_max", "moving_average", *FROM_HISTOGRAM}


def test_histogram_counts_everything_however_the_range_grows() -> None:
    x = normal(10_000)
    counts, limit = histogram(x[:10] * 1e-3, x[10:100], x[100:])
    assert float(counts.sum()) == 10_000
    assert float(x.abs().max()) <= limit
    expected = np.histogram(x[100:].abs().numpy(), BINS, (0, limit))[0]
    assert float((counts - torch.from_numpy(expected)).abs().sum()) <= 200


def test_zeros_alone_leave_the_histogram_empty() -> None:
    counts, limit = histogram(torch.zeros(5))
    assert limit == 0
    assert float(counts.sum()) == 0


def test_percentile_against_numpy() -> None:
    x = normal(50_000)
    counts, limit = histogram(x)
    for per_cent in (50.0, 99.0, 99.99, 100.0):
        expected = np.percentile(x.abs().numpy(), per_cent)
        assert percentile_clip(counts, limit, 127, per_cent) == pytest.approx(expected, abs=2 * limit / BINS, rel=0.01)


def test_mse_against_real_rounding() -> None:
    """The chosen range errs hardly more than the best of a search that really rounds every value."""
    x = torch.cat((normal(20_000), normal(20, 1) * 12))
    counts, limit = histogram(x)

    def error(clip: float) -> float:
        step = clip / 127
        return float(((x / step).round().clamp(-128, 127) * step - x).square().sum())

    best = min(error(float(clip)) for clip in torch.linspace(0.05, 1, 300) * limit)
    assert error(mse_clip(counts, limit, 127, 0)) <= 1.05 * best
    assert error(limit) > 1.05 * best  # the widest range is not it


def test_mse_keeps_a_uniform_range() -> None:
    assert mse_clip(torch.ones(BINS), 2.0, 127, 0) == pytest.approx(2.0, rel=0.02)


def slow_kl(counts: Tensor, limit: float, levels: int) -> float:
    mass = [0.0, *counts.tolist()[1:]]
    best, chosen = float("inf"), limit
    for edge in range(levels, BINS + 1, 16):
        reference = list(mass[:edge])
        reference[-1] += sum(mass[edge:])
        groups: dict[int, list[int]] = {}
        for i in range(edge):
            groups.setdefault(i * levels // edge, []).append(i)
        model = [0.0] * edge
        for members in groups.values():
            filled = [i for i in members if mass[i] > 0]
            for i in filled:
                model[i] = sum(mass[j] for j in members) / len(filled)
        total_p, total_q = sum(reference), sum(model)
        if total_q == 0:
            continue
        terms = [
            (p / total_p) * np.log((p / total_p) / max(q / total_q, 1e-12))
            for p, q in zip(reference, model, strict=True)
            if p > 0
        ]
        if sum(terms) < best:
            best, chosen = sum(terms), edge / BINS * limit
    return chosen


@pytest.mark.parametrize("seed", [0, 1])
def test_kl_against_the_slow_form(seed: int) -> None:
    x = torch.cat((normal(5_000, seed), torch.tensor([15.0])))
    counts, limit = histogram(x)
    assert kl_clip(counts, limit, 127, 0) == pytest.approx(slow_kl(counts, limit, 127))


def test_kl_clips_an_outlier_and_keeps_a_uniform_range() -> None:
    counts, limit = histogram(torch.cat((normal(100_000), torch.tensor([40.0]))))
    assert 2 < kl_clip(counts, limit, 127, 0) < 10
    assert kl_clip(torch.ones(BINS), 1.0, 127, 0) > 0.9
    assert kl_clip(counts, limit, 32767, 0) == limit  # int16 has more levels than the histogram bins


@pytest.mark.parametrize("observer", sorted(FROM_HISTOGRAM))
def test_module_takes_the_range_at_the_end(observer: str) -> None:
    module = FakeQuantize(observer=observer, percentile=99.0)
    module.set_mode(observing=True, quantising=False, calibrating=True)
    x = torch.cat((normal(50_000), torch.tensor([30.0])))
    module(x)
    module.finish()
    counts, limit = histogram(x)
    assert float(module.scale) * 127 == pytest.approx(FROM_HISTOGRAM[observer](counts, limit, 127, 99.0), rel=1e-5)
    assert float(module.scale) * 127 < 27
