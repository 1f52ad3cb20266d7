"""Taps of the fake-quantised graphs, and the converted graphs against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from motrlab.deploy.export import converted
from motrlab.quantization.analysis.taps import GRAPHS, TappedGraphs, needed_nodes, run_with_taps, tap_points
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.quantized import QuantizedMotr


@pytest.fixture(scope="module")
def inputs(config: Any, base_inputs: Any) -> dict[str, tuple[torch.Tensor, ...]]:
    """Those of both graphs, batch 1."""
    image, query, mask, reference = (x[:1] for x in base_inputs)
    tokens = query.reshape(1, config.model.d_model, 1, -1)
    return {"base": (image, query, mask, reference), "qim": (tokens.flip(3), tokens, mask)}


def names_of(quantised: QuantizedMotr, graph: str) -> list[str]:
    return [point.tensor for point in tap_points(quantised) if point.graph == graph]


def run(quantised: QuantizedMotr, graph: str, inputs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    with torch.no_grad():
        return run_with_taps(getattr(quantised, graph), inputs[graph], names_of(quantised, graph))


def test_every_activation_quantiser_is_a_tap_once(quantised: QuantizedMotr) -> None:
    points = tap_points(quantised)
    assert len({(point.graph, point.tensor) for point in points}) == len(points)
    modules = [m for m in quantised.fake_quantizers() if isinstance(m, FakeQuantize)]
    assert sorted(p.scale for p in points) == sorted(float(m.scale) for m in modules)
    assert {(p.quant_min, p.quant_max) for p in points} == {(m.quant_min, m.quant_max) for m in modules}
    assert [p.graph for p in points] == sorted(p.graph for p in points), "base graph first"
    assert "input_projection" in {p.path for p in points}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("mode", ["float", "evaluate"])
def test_taps_change_nothing_and_are_all_there(quantised: QuantizedMotr, inputs: Any, graph: str, mode: str) -> None:
    quantised.mode(mode)
    outputs, taps = run(quantised, graph, inputs)
    assert set(taps) == set(names_of(quantised, graph))
    with torch.no_grad():
        expected = getattr(quantised, graph)(*inputs[graph])
    for one, other in zip(tree_leaves(outputs), tree_leaves(expected), strict=True):
        assert torch.equal(one, other)


def test_fake_values_stand_on_the_grid_and_float_values_do_not(quantised: QuantizedMotr, inputs: Any) -> None:
    fake = {graph: run(quantised, graph, inputs)[1] for graph in GRAPHS}
    quantised.mode("float")
    floating = {graph: run(quantised, graph, inputs)[1] for graph in GRAPHS}
    off_grid = []
    for point in tap_points(quantised):
        levels = fake[point.graph][point.tensor].double() / point.scale
        torch.testing.assert_close(levels, levels.round(), rtol=1e-6, atol=1e-4)
        assert float(levels.round().min()) >= point.quant_min
        assert float(levels.round().max()) <= point.quant_max
        levels = floating[point.graph][point.tensor].double() / point.scale
        off_grid.append(bool((levels - levels.round()).abs().max() > 0.1))
    assert np.mean(off_grid) > 0.9


def test_the_image_tap_is_the_image(quantised: QuantizedMotr, inputs: Any) -> None:
    """It comes on the 8-bit grid already."""
    taps = run(quantised, "base", inputs)[1]
    assert torch.equal(taps["image"], inputs["base"][0])


def differing(quantised: QuantizedMotr, graph: str, inputs: Any, module: fx.GraphModule) -> dict[str, float]:
    """Of each tap, the share of values that differ between the model and a converted graph."""
    expected = run(quantised, graph, inputs)[1]
    with torch.no_grad():
        _, found = run_with_taps(module, inputs[graph], names_of(quantised, graph))
    assert list(found) == list(expected)
    scales = {point.tensor: point.scale for point in tap_points(quantised) if point.graph == graph}
    steps = {name: ((found[name] - expected[name]) / scales[name]).abs() for name in expected}
    return {name: float((value > 0.5).double().mean()) for name, value in steps.items()}


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_converted_graph_agrees_exactly_where_it_sums_the_same(
    quantised: QuantizedMotr, inputs: Any, graph: str
) -> None:
    """Both have the same scales, and their biases on the grid of the accumulator.

    The fake-quantised graph computes what the runtimes do (integer sums, division by a scale, functions in double), the
    converted one runs on torch's float kernels and reciprocals: that tips a tie now and then, and what follows from it.
    """
    shares = differing(quantised, graph, inputs, dict(zip(GRAPHS, converted(quantised), strict=True))[graph])
    paths = {p.tensor: p.path for p in tap_points(quantised) if p.graph == graph}
    early = ("backbone", "input_projection", "encoder")
    before = {t: share for t, share in shares.items() if graph == "qim" or paths[t].startswith(early) or t == "image"}
    assert len(before) > 10
    assert np.mean([share == 0 for share in before.values()]) > 0.8
    assert max(before.values()) < 0.02
    # Behind the first tipped tie all rounding is drawn anew; the deployed graph is held to the bit in tests/deploy.
    assert np.mean([share == 0 for share in shares.values()]) > 0.3


def test_a_scale_broken_after_conversion_is_seen(quantised: QuantizedMotr, inputs: Any) -> None:
    """Negative control of the agreement."""
    module = converted(quantised)[0]
    broken = next(m for m in quantised.base.modules() if isinstance(m, FakeQuantize) and m.fixed_scale is None)
    broken.scale.mul_(1.05)
    quantised.mode("evaluate")
    shares = differing(quantised, "base", inputs, module)
    assert np.mean([share == 0 for share in shares.values()]) < 0.5
    assert max(shares.values()) > 0.2


class _Layered(nn.Module):
    """Outputs in the order of the base graph's, two layers; each is its input times another number."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shared = x * 2
        return shared * 3, shared * 4, shared * 5, shared * 6, shared * 7


def test_what_only_auxiliary_outputs_need_is_left_out() -> None:
    graph = fx.symbolic_trace(_Layered())
    factors = [node.args[1] for node in graph.graph.nodes if node in needed_nodes(graph) and node.op == "call_function"]
    assert factors == [2, 4, 6, 7]


def test_tapped_graphs_take_turns_on_one_model(quantised: QuantizedMotr, inputs: Any) -> None:
    floating, fake = TappedGraphs(quantised, "float"), TappedGraphs(quantised, "evaluate")
    with torch.no_grad():
        for _ in range(2):
            for tapped in (floating, fake):
                tapped.base(*inputs["base"])
                tapped.qim(*inputs["qim"])
        quantised.mode("evaluate")
        expected = run(quantised, "qim", inputs)[1]
    assert fake.inputs["qim"] == inputs["qim"]
    for name, value in expected.items():
        np.testing.assert_array_equal(fake.values["qim"][name], value.numpy())
        exact = name == "mask"  # ones and zeros are on every grid
        assert np.array_equal(floating.values["qim"][name], value.numpy()) == exact
