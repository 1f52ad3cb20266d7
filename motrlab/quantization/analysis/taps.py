"""Taps: what stands at every quantised activation of the fake-quantised graphs, in one frame.

A tap is a `FakeQuantize` of a prepared graph, named after the fx node that it quantises (as in `listing.py`). In mode
`float` it shows what the float model computes, in mode `evaluate` what fake quantisation makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from motrlab.model.base import BaseOutput
from motrlab.quantization.analysis.layers import Arrays, TapPoint
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.prepare import module_path
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import to_numpy

GRAPHS = ("base", "qim")
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default


def tap_points(quantised: QuantizedMotr) -> list[TapPoint]:
    """The quantisers of both graphs in graph order, base graph first.

    Those that only auxiliary outputs depend on are left out: export drops them.
    """
    points = []
    for name in GRAPHS:
        graph: GraphModule = getattr(quantised, name)
        for node in tapped_nodes(graph):
            module, source = graph.get_submodule(str(node.target)), node.all_input_nodes[0]
            assert isinstance(module, FakeQuantize)
            grid = (float(module.scale), module.quant_min, module.quant_max)
            points.append(TapPoint(name, source.name, module_path(source), *grid))
    return points


def tapped_nodes(graph_module: GraphModule) -> list[Node]:
    """The quantisers that the deployed outputs depend on, in graph order.

    Calls of a `FakeQuantize` in a prepared graph, quantize operators in a converted one: the same number in the same
    order, while the nodes they quantise may have other names there.
    """
    needed = needed_nodes(graph_module)
    modules = dict(graph_module.named_modules())
    found = []
    for node in graph_module.graph.nodes:
        quantises = isinstance(modules.get(node.target), FakeQuantize) if node.op == "call_module" else False
        if node in needed and (quantises or node.target is _QUANTIZE):
            found.append(node)
    return found


def needed_nodes(graph_module: GraphModule) -> set[Node]:
    """The nodes that the deployed outputs depend on: the last class logits, the last boxes, and the embeddings."""
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    outputs: Any = output.args[0]
    layers = len(outputs) // 2  # class logits of every decoder layer, boxes of every one, embeddings; the QIM's: one
    waiting: list[Node] = [outputs[-1]] if layers == 0 else [outputs[layers - 1], outputs[2 * layers - 1], outputs[-1]]
    needed: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def run_with_taps(
    graph_module: GraphModule, inputs: Sequence[Tensor], names: Sequence[str]
) -> tuple[Any, dict[str, Tensor]]:
    """Run one graph, prepared or converted, node by node. Call under `torch.no_grad()`.

    Args:
        graph_module: the graph.
        inputs: its inputs.
        names: of all its taps, in graph order.

    Returns:
        Its outputs, and for each of `names` what comes out of the quantiser (in a converted graph: quantised and
        dequantised).
    """
    recorder = _Recorder(graph_module, names)
    outputs = recorder.run(*inputs)
    return outputs, recorder.values


class _Recorder(Interpreter):
    def __init__(self, graph_module: GraphModule, names: Sequence[str]) -> None:
        super().__init__(graph_module)
        self.values: dict[str, Tensor] = {}
        self._names = dict(zip(tapped_nodes(graph_module), names, strict=True))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._names:
            self.values[self._names[n]] = _DEQUANTIZE(value, *n.args[1:]) if n.target is _QUANTIZE else value
        return value


class TappedGraphs:
    """Both graphs in one mode, as the frame step wants them (`tracking.step.Graphs`), with taps.

    After each call of a graph `inputs[GRAPH]` holds what it was given and `values[GRAPH]` what stood at its taps, by
    tensor name, as float32 arrays. The mode is set before every call, so that one model can serve two of these.
    """

    def __init__(self, quantised: QuantizedMotr, mode: str) -> None:
        self._quantised = quantised
        self._mode = mode
        self._names = {graph: [p.tensor for p in tap_points(quantised) if p.graph == graph] for graph in GRAPHS}
        self.inputs: dict[str, tuple[Tensor, ...]] = {}
        self.values: dict[str, Arrays] = {}

    @property
    def detect_query(self) -> Tensor:
        return self._quantised.graphs.detect_query

    def run(self, graph: str, inputs: tuple[Tensor, ...]) -> Any:
        """One graph, `base` or `qim`, on the inputs that the frame step gives it."""
        if self._quantised.current_mode != self._mode:
            self._quantised.mode(self._mode)
        outputs, taps = run_with_taps(getattr(self._quantised, graph), inputs, self._names[graph])
        self.inputs[graph] = inputs
        self.values[graph] = {name: to_numpy(value) for name, value in taps.items()}
        return outputs

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> BaseOutput:
        output: BaseOutput = self.run("base", (frame, query, mask, reference))
        return output

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        updated: Tensor = self.run("qim", (embedding, query, mask))
        return updated

    def decode(self, boxes: Tensor) -> Tensor:
        return self._quantised.graphs.decode(boxes)
