"""Observers over a histogram against slow, obvious searches; and the ranges that follow from what was observed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config.scheme import MIN_SCALE, OBSERVERS, Rule
from motrlab.quantization.observers import (
    BINS,
    FROM_HISTOGRAM,
    Ranges,
    count_magnitudes,
    kl_clip,
    mse_clip,
    percentile_clip,
)
from motrlab.quantization.tensors import TensorSpec


def histogram(*parts: Tensor) -> tuple[Tensor, float]:
    counts, limit = torch.zeros(BINS), torch.zeros(1)
    for part in parts:
        count_magnitudes(part, counts, limit)
    return counts, float(limit)


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


def spec(name: str = "x", group: int = 0, *, observer: str = "moving_average", **facts: Any) -> TensorSpec:
    rule = Rule(observer=observer, percentile=facts.pop("percentile", 99.0))
    low, high = facts.pop("ends", (-128, 127))
    return TensorSpec("base", name, "linear", rule, group, low, high, **facts)


def frames(*largest: float, seed: int = 0) -> Tensor:
    """`[B, 3, 2, 5]`: in each frame smaller values around one of this magnitude, positive or negative."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((len(largest), 30), generator=generator) * 0.9 - 0.45
    x[:, 7] = torch.tensor([1.0, -1.0]).repeat(len(largest))[: len(largest)]
    return (x * torch.tensor(largest)[:, None]).reshape(-1, 3, 2, 5)


def reach(ranges: Ranges, group: int = 0, high: int = 127) -> float:
    """The largest magnitude on the grid of a group."""
    return float(ranges.scale[group]) * high


@pytest.mark.parametrize(("observer", "expected"), [("min_max", 8.0), ("moving_average", 4.0)])
def test_largest_and_mean_of_the_frames(observer: str, expected: float) -> None:
    tensor = spec(observer=observer)
    ranges = Ranges([tensor])
    for largest in (1.0, 8.0, 3.0):
        ranges.observe(tensor, frames(largest), None, calibrating=False)
        ranges.advance()
    assert reach(ranges) == pytest.approx(expected)


def test_the_moving_average_follows_slowly_once_it_has_seen_fifty_steps() -> None:
    tensor = spec()
    ranges = Ranges([tensor])
    for largest in [1.0] * 50 + [2.0, 2.0]:
        ranges.observe(tensor, frames(largest), None, calibrating=False)
        ranges.advance()
    assert reach(ranges) == pytest.approx(2 - 0.98**2, rel=1e-6)


def test_nothing_moves_before_advance() -> None:
    tensor = spec()
    ranges = Ranges([tensor])
    ranges.observe(tensor, frames(1.0), None, calibrating=True)
    ranges.advance()
    ranges.observe(tensor, frames(5.0), None, calibrating=True)
    assert reach(ranges) == pytest.approx(1)
    ranges.advance()
    ranges.advance()  # nothing new: nothing moves
    assert reach(ranges) == pytest.approx(3)


def test_a_batch_of_eight_frames_is_eight_frames() -> None:
    """In mean; all of a step are one update, so the moving average counts steps."""
    tensor = spec()
    largest = [3.0, 1.0, 8.0, 2.0, 2.0, 5.0, 1.0, 2.0]
    batch, one_by_one, steps = (Ranges([tensor]) for _ in range(3))
    batch.observe(tensor, frames(*largest), None, calibrating=False)
    for number in largest:
        one_by_one.observe(tensor, frames(number), None, calibrating=False)
        steps.observe(tensor, frames(number), None, calibrating=False)
        steps.advance()
    for ranges in (batch, one_by_one):
        ranges.advance()
        assert float(ranges.seen) == 1
    for ranges in (batch, one_by_one, steps):
        assert reach(ranges) == pytest.approx(3.0)


def test_values_come_in_steps_of_their_scale() -> None:
    tensor = spec()
    ranges = Ranges([tensor])
    ranges.observe(tensor, frames(96.0), None, 1 / 32, calibrating=False)
    ranges.advance()
    assert reach(ranges) == pytest.approx(3)


def test_empty_slots_are_not_observed() -> None:
    tensor = spec()
    ranges = Ranges([tensor])
    x = frames(2.0, 4.0, 3.0, 100.0)
    x[1, :, 1, 3] = 50.0
    live = torch.ones(4, 1, 2, 5)
    live[1, :, 1, 3] = 0
    live[3] = 0  # nobody is tracked in this frame: it says nothing, not even that values are small
    ranges.observe(tensor, x, live, calibrating=False)
    ranges.advance()
    assert reach(ranges) == pytest.approx(3)
    ranges.observe(tensor, x[3:], live[3:], calibrating=False)
    ranges.advance()
    assert reach(ranges) == pytest.approx(3)
    assert float(ranges.seen) == 1


@pytest.mark.parametrize("observer", sorted(FROM_HISTOGRAM))
def test_empty_slots_are_not_in_the_histogram(observer: str) -> None:
    """Neither what stands in them, nor as so many zeros."""
    tensor = spec(observer=observer)
    with_empty, without = Ranges([tensor]), Ranges([tensor])
    x = normal(2 * 16 * 10 * 100).reshape(2, 16, 10, 100)
    live = torch.zeros(2, 1, 10, 100)
    live[:, :, :, :10] = 1
    with_empty.observe(tensor, x * (1 + 50 * (1 - live)), live, calibrating=True)
    without.observe(tensor, x[..., :10], None, calibrating=True)
    with_empty.finish()
    without.finish()
    assert reach(with_empty) == pytest.approx(reach(without))


@pytest.mark.parametrize("observer", sorted(FROM_HISTOGRAM))
def test_histograms_decide_when_calibration_is_finished(observer: str) -> None:
    tensor = spec(observer=observer)
    ranges = Ranges([tensor])
    x = torch.cat((normal(49_999), torch.tensor([30.0])))
    for part in x.reshape(5, 1, 100, 10, 10):
        ranges.observe(tensor, part, None, calibrating=True)
        ranges.advance()
    ranges.finish()
    counts, limit = histogram(*x.reshape(5, -1))
    assert reach(ranges) == pytest.approx(FROM_HISTOGRAM[observer](counts, limit, 127, 99.0), rel=1e-5)
    assert reach(ranges) < 27


@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_in_training_only_observers_without_a_histogram_move(observer: str) -> None:
    tensor = spec(observer=observer)
    ranges = Ranges([tensor])
    ranges.observe(tensor, frames(1.0), None, calibrating=True)
    ranges.finish()
    before = {name: value.clone() for name, value in ranges.state_dict().items()}
    ranges.observe(tensor, frames(20.0), None, calibrating=False)
    ranges.advance()
    same = all(torch.equal(value, before[name]) for name, value in ranges.state_dict().items())
    assert same == (observer in FROM_HISTOGRAM)
    assert (reach(ranges) > 2) == (observer not in FROM_HISTOGRAM)


def test_a_shared_grid_reaches_as_far_as_the_largest_of_its_tensors() -> None:
    specs = [spec("a", 0), spec("b", 1), spec("c", 0), spec("d", 0, ends=(0, 255))]
    ranges = Ranges(specs)
    for tensor, largest in zip(specs, (1.0, 10.0, 3.0, 5.0), strict=True):
        ranges.observe(tensor, frames(largest, largest).abs(), None, calibrating=False)
    ranges.advance()
    # The unsigned one reaches to 5 in 255 steps, finer than 3 in 127.
    assert ranges.scale.tolist() == pytest.approx([3 / 127, 10 / 127])
    ranges.observe(specs[3], frames(15.0, 15.0).abs(), None, calibrating=False)
    ranges.advance()
    assert ranges.scale.tolist() == pytest.approx([10 / 255, 10 / 127])


@pytest.mark.parametrize("observer", ["min_max", "moving_average"])
def test_a_relu6_lets_no_more_through_than_six(observer: str) -> None:
    tensor = spec(observer=observer, ends=(0, 255), ceiling=6.0)
    ranges = Ranges([tensor])
    ranges.observe(tensor, frames(9.0).abs(), None, calibrating=False)
    ranges.observe(tensor, frames(4.0).abs(), None, calibrating=False)
    ranges.advance()
    assert reach(ranges, high=255) == pytest.approx(6.0 if observer == "min_max" else 5.0)


def test_behind_a_relu_negative_values_do_not_count() -> None:
    """In training, values are seen before they are clipped."""
    tensor = spec(ends=(0, 255))
    ranges = Ranges([tensor])
    x = frames(2.0, 2.0)
    x[:, 0, 0, 0] = -50
    x[1] = -x[1].abs()  # nothing is positive: the frame's largest is 0
    ranges.observe(tensor, x, None, calibrating=False)
    ranges.advance()
    assert reach(ranges, high=255) == pytest.approx(1.0)


def test_a_fixed_scale_never_moves() -> None:
    tensor = spec(fixed=1 / 128)
    ranges = Ranges([tensor])
    ranges.observe(tensor, frames(50.0), None, calibrating=True)
    ranges.finish()
    assert float(ranges.scale) == 1 / 128


def test_zeros_leave_a_positive_scale() -> None:
    for observer in OBSERVERS:
        tensor = spec(observer=observer)
        ranges = Ranges([tensor])
        ranges.observe(tensor, torch.zeros(1, 3, 2, 5), None, calibrating=True)
        ranges.finish()
        assert float(ranges.scale) == pytest.approx(MIN_SCALE)
        assert ranges.unseen() == []


def test_int16_has_steps_258_times_finer() -> None:
    specs = [spec("a", 0), spec("b", 1, ends=(-(2**15), 2**15 - 1))]
    ranges = Ranges(specs)
    for tensor in specs:
        ranges.observe(tensor, frames(1.0), None, calibrating=False)
    ranges.advance()
    assert float(ranges.scale[0] / ranges.scale[1]) == pytest.approx(32767 / 127)


def test_who_was_never_observed() -> None:
    specs = [spec("a"), spec("b", 1), spec("c", 2, fixed=0.5)]
    ranges = Ranges(specs)
    ranges.observe(specs[0], frames(1.0), None, calibrating=True)
    ranges.observe(specs[1], frames(1.0), torch.zeros(1, 1, 2, 5), calibrating=True)
    ranges.finish()
    assert [s.name for s in ranges.unseen()] == ["b"]


def test_what_was_observed_is_saved_before_it_counts() -> None:
    """A training that is cut off between a step and `advance` goes on as if it had not been."""
    specs = [spec("a"), spec("b", 1, observer="min_max"), spec("c", 2, observer="mse")]
    ranges, resumed = Ranges(specs), Ranges(specs)
    for largest in (1.0, 4.0):
        ranges.advance()
        for tensor in specs:
            ranges.observe(tensor, frames(largest, 2 * largest), None, calibrating=True)
    assert float(ranges.pending.abs().sum()) > 0
    resumed.load_state_dict(ranges.state_dict())
    for each in (ranges, resumed):
        each.finish()
    assert torch.equal(resumed.scale, ranges.scale)
    assert reach(resumed, 0) == pytest.approx((1.5 + 6) / 2)
    assert reach(resumed, 1) == pytest.approx(8)
    assert all(torch.equal(value, ranges.state_dict()[name]) for name, value in resumed.state_dict().items())
