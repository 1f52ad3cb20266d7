"""Bias correction after calibration: biases take up the mean error that rounding and clipping leave in each product.

The expectation over real inputs of arXiv 1906.04721, section 4.2, with both sources of error: the weights' and the
input's. One pass: each product is compared with itself before quantisation on the inputs that it gets in the quantised
graph, so that errors from before it are not corrected twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from motrlab.quantization.fake_quantize import BiasRounding, FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.graph_edits import VIEWS, IntegerProduct
from motrlab.quantization.quantized import QuantizedMotr

aten = torch.ops.aten
_CHANNEL_AXIS = {aten.conv2d.default: 1, aten.linear.default: -1}


@torch.no_grad()
def correct_biases(
    quantised: QuantizedMotr, base_inputs: Sequence[tuple[Tensor, ...]], qim_inputs: Sequence[tuple[Tensor, ...]]
) -> int:
    """Correct the biases of both graphs in place; how many were.

    The inputs are those of each graph, frame by frame. `quantised` must be calibrated; it ends in mode `evaluate`.
    """
    quantised.mode("evaluate")
    corrected = 0
    for graph, frames in ((quantised.base, base_inputs), (quantised.qim, qim_inputs)):
        meter = _MeanErrors(graph)
        for inputs in frames:
            meter.run(*inputs)
        for name, error in meter.means().items():
            graph.get_parameter(name).sub_(error)
            corrected += 1
    quantised.mode("evaluate")  # rounded biases are of the old ones
    return corrected


class _MeanErrors(Interpreter):
    """Runs a prepared graph; per bias the mean of (quantised - unquantised) product over all positions, by channel."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module, garbage_collect_values=False)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def means(self) -> dict[str, Tensor]:
        """Parameter name of a bias → `[C]`."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        module = self._module(n)
        axis = _CHANNEL_AXIS.get(module.operator) if isinstance(module, IntegerProduct) else None
        if axis is not None and len(n.args) > 2 and isinstance(n.args[2], Node):
            self._compare(n, module.operator, result, axis)
        return result

    def _compare(self, node: Node, operator: Any, found: Tensor, axis: int) -> None:
        source, weight, bias = node.args[:3]
        assert isinstance(source, Node)
        assert isinstance(weight, Node)
        assert isinstance(bias, Node)
        if not isinstance(self._module(bias), BiasRounding):
            return
        parameter = bias.all_input_nodes[0]
        expected = operator(self._before(source), self._before(weight), self.env[parameter], *node.args[3:])
        error = (found - expected).movedim(axis, 0).flatten(1)
        name = str(parameter.target)
        self._sums[name] = self._sums.get(name, torch.zeros(len(error))) + error.sum(1)
        self._counts[name] = self._counts.get(name, 0) + error.shape[1]

    def _module(self, node: Node) -> Any:
        return self.submodules.get(str(node.target)) if node.op == "call_module" else None

    def _before(self, node: Node) -> Tensor:
        """The value of `node` had its quantiser not been there, looking through what only rearranges."""
        if isinstance(self._module(node), FakeQuantize | PerChannelFakeQuantize):
            value: Tensor = self.env[node.all_input_nodes[0]]
            return value
        if node.target in VIEWS:
            source = node.args[0]
            assert isinstance(source, Node)
            assert callable(node.target)
            arguments, options = self.fetch_args_kwargs_from_env(node)
            out: Tensor = node.target(self._before(source), *arguments[1:], **options)
            return out
        value = self.env[node]
        return value
