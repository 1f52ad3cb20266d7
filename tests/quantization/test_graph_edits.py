"""What is edited into a prepared graph, and taken out of it before conversion."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from motrlab.quantization.graph_edits import aten, bias_roundings, pointwise_conv2d, undo_runtime_edits
from motrlab.quantization.quantized import QuantizedMotr


def test_pointwise_equals_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((2, 6, 3, 4), (5, 6, 1, 1), (5,)))
    torch.testing.assert_close(pointwise_conv2d(x, weight, bias), F.conv2d(x, weight, bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_biases_lie_on_the_accumulators_grid(quantised: QuantizedMotr) -> None:
    modules = bias_roundings(quantised.base)
    # Convolutions and linear layers all have a bias once BatchNorm is folded.
    weighted = [operator for graph, operator, _, _ in quantised.decisions if graph == "base"]
    assert len(modules) == weighted.count("conv") + weighted.count("linear")
    bias = torch.linspace(-1, 1, modules[0]._sources[1].scale.numel())
    grid = modules[0]._sources[0].scale * modules[0]._sources[1].scale
    steps = (modules[0](bias) / grid).double()
    assert float((steps - steps.round()).abs().max()) < 0.05
    assert float((modules[0](bias) - bias).abs().max()) <= 0.51 * float(grid.max())


@pytest.mark.parametrize("mode", ["calibrate", "train", "float"])
def test_biases_stay_as_they_are_elsewhere(quantised: QuantizedMotr, mode: str) -> None:
    quantised.mode(mode)
    module = bias_roundings(quantised.base)[0]
    bias = torch.rand(module._sources[1].scale.numel(), requires_grad=True)
    assert module(bias) is bias


@torch.no_grad()
def test_undo_leaves_plain_convolutions(quantised: QuantizedMotr) -> None:
    edited = copy.deepcopy(quantised.qim)
    undo_runtime_edits(edited)
    targets = [node.target for node in edited.graph.nodes]
    assert pointwise_conv2d not in targets
    assert aten.conv2d.default in targets
    assert not bias_roundings(edited)
    assert pointwise_conv2d in [node.target for node in quantised.qim.graph.nodes]  # the original is as it was
