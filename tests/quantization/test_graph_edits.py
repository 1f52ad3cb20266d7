"""What is edited into a prepared graph, and taken out of it before conversion."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.fx import GraphModule

from motrlab.quantization.fake_quantize import BiasRounding
from motrlab.quantization.graph_edits import IntegerProduct, aten, pointwise_conv2d, runtime_edits, undo_runtime_edits
from motrlab.quantization.quantized import QuantizedMotr


def test_pointwise_equals_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((2, 6, 3, 4), (5, 6, 1, 1), (5,)))
    torch.testing.assert_close(pointwise_conv2d(x, weight, bias), F.conv2d(x, weight, bias), rtol=1e-5, atol=1e-5)


def bias_roundings(graph: GraphModule) -> list[BiasRounding]:
    return [m for m in runtime_edits(graph) if isinstance(m, BiasRounding)]


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
    assert {aten.layer_norm.default, aten.softmax.int, aten.matmul.default} <= set(targets)
    assert not runtime_edits(edited)
    assert runtime_edits(quantised.qim)  # the original is as it was


@torch.no_grad()
def test_products_are_those_of_integers(quantised: QuantizedMotr, base_inputs: tuple[torch.Tensor, ...]) -> None:
    """Against int64 arithmetic, for every convolution and linear layer of the base graph with its real operands."""
    checked = 0

    def compare(module: IntegerProduct, inputs: tuple[torch.Tensor, ...], found: torch.Tensor) -> None:
        nonlocal checked
        first, second, bias = (*inputs[:2], inputs[2] if len(inputs) > 2 else None)
        x, w = (m.scale.double() for m in module._operands)
        if module.operator is aten.matmul.default or found.ndim != 4 or second.shape[2:] != (1, 1):
            return
        integers = (second.double() / w.reshape(-1, 1, 1, 1)).round()[:, :, 0, 0].long()
        accumulator = torch.einsum("oc,bcrw->borw", integers.float(), (first.double() / x).round().float()).long()
        accumulator += (bias.double() / (x * w)).round().long()[:, None, None]
        exact = accumulator.double() * (x * w)[:, None, None]
        step = float(module._output[0].scale) if module._output[0] is not None else 0.0
        assert float((found.double() - exact).abs().max()) <= 0.5001 * step + 1e-5 * float(exact.abs().max())
        checked += 1

    modules = [m for m in runtime_edits(quantised.base) if isinstance(m, IntegerProduct)]
    hooks = [m.register_forward_hook(compare) for m in modules]  # type: ignore[arg-type]
    quantised.base(*base_inputs)
    for hook in hooks:
        hook.remove()
    assert checked > 20
