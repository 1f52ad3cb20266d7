"""Adaptive rounding: less error of a product than to the nearest grid point, on a grid that stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.config.scheme import PRODUCTS
from motrlab.quantization.calibration import calibrate, closed_loop
from motrlab.quantization.equalisation import product
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.rounding import adapt_rounding, rounded_weights

LIMIT = 7  # a coarse grid, so that rounding matters


def problem(groups: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, biases and scales of a product, and inputs `[G, rows, I + 1]` that go together, as neighbours do."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows = random(groups, 500, 1) + 0.3 * random(groups, 500, inputs) + 2
    weight = random(groups, outputs, inputs)
    scale = weight.abs().amax(2, keepdim=True) / LIMIT
    return weight, random(groups, outputs, 1), scale, torch.cat((rows, torch.ones(groups, 500, 1)), 2)


def outputs_of(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return rows @ torch.cat((weight, bias), 2).transpose(1, 2)


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 8, 27), (8, 1, 9)])  # dense, depthwise
def test_error_is_a_third_of_that_of_the_nearest(groups: int, outputs: int, inputs: int) -> None:
    weight, bias, scale, rows = problem(groups, outputs, inputs)
    expected = outputs_of(rows, weight, bias)
    found = outputs_of(rows, *rounded_weights(weight, bias, scale, rows.transpose(1, 2) @ rows, LIMIT))
    nearest = outputs_of(rows, (weight / scale).round() * scale, bias)
    assert (found - expected).norm() < 0.33 * (nearest - expected).norm()
    assert (found - expected).mean(1).norm() < 0.03 * (nearest - expected).mean(1).norm()  # biases take it up


def test_weights_stand_on_their_grid_and_the_scale_stays() -> None:
    weight, bias, scale, rows = problem(2, 5, 12)
    found, _ = rounded_weights(weight, bias, scale, rows.transpose(1, 2) @ rows, LIMIT)
    steps = found / scale
    assert torch.allclose(steps, steps.round(), atol=1e-9)
    assert torch.allclose(steps.abs().amax(2), torch.full((2, 5), float(LIMIT), dtype=torch.float64))


def test_inputs_that_were_never_seen_are_rounded_to_nearest() -> None:
    weight, bias, scale, _ = problem(1, 4, 6)
    found, same = rounded_weights(weight, bias, scale, torch.zeros(1, 7, 7, dtype=torch.float64), LIMIT)
    assert torch.allclose(found, (weight / scale).round() * scale)
    assert torch.allclose(same, bias)


@torch.no_grad()
def test_every_product_of_both_graphs_is_rounded_once(quantised: QuantizedMotr, config: Config) -> None:
    images = torch.rand((4, 1, 3, config.model.height, config.model.width), generator=torch.Generator().manual_seed(1))
    nearest = replace(config, calibration=replace(config.calibration, adaptive_rounding=False))
    calibrate(quantised, [list(images * 1.9 - 1)], nearest)
    steps = list(closed_loop(quantised.graphs, images * 1.9 - 1, config))
    weights = [product(quantised.model, key).weight for key, s in quantised.specs.items() if s.operator in PRODUCTS]
    before = [p.clone() for p in weights]
    adapt_rounding(quantised, steps)
    rounded = [p.clone() for p in weights]
    assert all(not p.any() or not torch.equal(p, old) for p, old in zip(rounded, before, strict=True))
    adapt_rounding(quantised, steps)
    for p, old in zip(weights, rounded, strict=True):
        assert torch.allclose(p, old, atol=1e-5)  # it finds itself on the grid
