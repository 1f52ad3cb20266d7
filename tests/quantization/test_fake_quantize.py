"""Fake quantisation gives torchao's numbers, and its observers the ranges they promise."""

from __future__ import annotations

import pytest
import torch

from motrlab.quantization.fake_quantize import FakeQuantize, PerChannelFakeQuantize


def quantiser(observer: str = "min_max", **arguments: float) -> FakeQuantize:
    module = FakeQuantize(observer=observer, **arguments)  # type: ignore[arg-type]
    module.set_mode(observing=True, quantising=False, calibrating=True)
    return module


def test_activation_matches_torch_forward_and_backward() -> None:
    x = torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(0)) * 2
    module = quantiser()
    module(x / 2)  # ranges half as wide as the data, so that something is clipped
    module.set_mode(observing=False, quantising=True)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = torch.fake_quantize_per_tensor_affine(theirs, float(module.scale), 0, -128, 127)
    found = module(ours)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
    assert (ours.grad == 0).any()
    with torch.no_grad():
        assert torch.equal(module(x), expected)


def test_weight_matches_torch_per_channel() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module = PerChannelFakeQuantize()
    module.set_mode(observing=True, quantising=True)
    found = module(weight)
    assert module.scale.shape == (4,)
    expected = torch.fake_quantize_per_channel_affine(
        weight, module.scale, torch.zeros(4, dtype=torch.int32), 0, -127, 127
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    module.set_mode(observing=False, quantising=True)
    with torch.no_grad():
        assert torch.equal(module(weight), expected)


@pytest.mark.parametrize(("observer", "expected"), [("min_max", 8.0), ("moving_average", 4.0)])
def test_observers(observer: str, expected: float) -> None:
    module = quantiser(observer)
    for largest in (1.0, 8.0, 3.0):
        module(torch.tensor([-largest, 0.5]))
    assert float(module.scale) * 127 == pytest.approx(expected)


def test_mse_clips_what_is_rare() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[0] = 20.0
    module = quantiser("mse")
    module(x[1:50_000])
    module(x)  # the outlier comes late: the range has to double several times
    assert float(module.histogram.sum()) == pytest.approx(149_999)
    module.finish()
    assert 8 < float(module.scale) * 127 < 15  # least squares: 20 / (1 + 149,999 / (12 · 127²)) = 11


def test_int16_has_steps_256_times_finer() -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = []
    for low, high, dtype in ((-128, 127, torch.int8), (-32768, 32767, torch.int16)):
        module = FakeQuantize(dtype, low, high, observer="min_max")
        module.set_mode(observing=True, quantising=True, calibrating=True)
        errors.append(float((module(x) - x).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(32767 / 127, rel=0.1)


def test_weight_scale_per_tensor_is_that_of_the_largest_channel() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    module = PerChannelFakeQuantize(per_channel=False)
    module.set_mode(observing=True, quantising=True)
    found = module(weight)
    assert module.scale.shape == (4,)
    assert torch.equal(module.scale, (weight.abs().max() / 127).expand(4))
    expected = torch.fake_quantize_per_tensor_affine(weight, float(module.scale[0]), 0, -127, 127)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_fixed_scale_never_moves() -> None:
    module = quantiser(fixed_scale=1 / 128)
    module(torch.tensor([50.0]))
    assert float(module.scale) == 1 / 128
    module.set_mode(observing=False, quantising=True)
    grid = torch.arange(-128, 128) / 128
    assert torch.equal(module(grid), grid)


def test_all_zero_input_keeps_a_positive_scale() -> None:
    module = quantiser()
    module(torch.zeros(3))
    module.set_mode(observing=False, quantising=True)
    assert torch.equal(module(torch.zeros(3)), torch.zeros(3))
