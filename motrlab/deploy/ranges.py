"""How far the tensors of a float graph reach: interval arithmetic, and what of it the following nodes can tell apart.

Forward: the range of what a node makes, from those of its inputs. Backward: a value that ends in a saturating grid, a
ReLU or a Clip need not reach further than those let through; so a masked logit, or the distance of boxes that do not
overlap, does not spoil the grid of all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import onnx
from onnx import numpy_helper

from motrlab.deploy.layers import MOVES

Range = tuple[float, float]
_UNSEEN = 16.0  # exp(-16) is 0 in 8 bits, and in 16


def _corners(function: Callable[[float, float], float]) -> Callable[[Range, Range], Range]:
    def rule(x: Range, y: Range) -> Range:
        found = [function(a, b) for a, b in product(x, y)]
        return min(found), max(found)

    return rule


def _monotone(function: Callable[[float], float]) -> Callable[[Range], Range]:
    return lambda x: (function(x[0]), function(x[1]))


_RULES: dict[str, Callable[..., Range]] = {
    "Add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "Sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "Mul": _corners(lambda a, b: a * b),
    "Div": _corners(lambda a, b: a / b),
    "Max": lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    "Abs": lambda x: (max(0.0, x[0], -x[1]), max(map(abs, x))),
    "Relu": _monotone(lambda a: max(a, 0.0)),
    "Clip": lambda x, low, high: (min(max(x[0], low[0]), high[1]), max(min(x[1], high[1]), low[0])),
    "Exp": _monotone(math.exp),
    "Log": _monotone(math.log),
    "Sin": lambda x: (-1.0, 1.0),
    "Cos": lambda x: (-1.0, 1.0),
    "Softmax": lambda x: (0.0, 1.0),
    "Sigmoid": lambda x: (0.0, 1.0),
    "GridSample": lambda x, grid: (min(x[0], 0.0), max(x[1], 0.0)),  # zeros outside the map
}


def find_ranges(model: onnx.ModelProto, known: Mapping[str, Range]) -> dict[str, Range]:
    """The range of every float tensor that nodes make, and of inputs; `model` has its shapes inferred.

    `known`: ranges of tensors on grids, where they saturate. Inputs without one are masks, from 0 to 1.
    """
    ranges = _Ranges(model, known)
    ranges.forward()
    return ranges.backward()


class _Ranges:
    def __init__(self, model: onnx.ModelProto, known: Mapping[str, Range]) -> None:
        self.graph, self.known = model.graph, known
        self.arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        shaped = (*model.graph.input, *model.graph.output, *model.graph.value_info)
        self.sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in shaped}
        floats = {n: a for n, a in self.arrays.items() if a.dtype == np.float32 and a.size}
        self.found: dict[str, Range] = {n: (float(a.min()), float(a.max())) for n, a in floats.items()}
        self.found |= {item.name: known.get(item.name, (0.0, 1.0)) for item in model.graph.input}

    def forward(self) -> None:
        for node in self.graph.node:
            made = self._made(node)
            for name in node.output:
                low, high = self.known.get(name, made)
                self.found[name] = (max(low, made[0]), min(high, made[1])) if low < made[1] and made[0] < high else made

    def _made(self, node: onnx.NodeProto) -> Range:
        given = [self.found[name] for name in node.input if name in self.found]
        if node.op_type in _RULES:
            return _RULES[node.op_type](*given)
        if node.op_type in MOVES:
            return min(low for low, _ in given), max(high for _, high in given)
        if node.op_type == "ReduceSum":
            terms = math.prod(self.sizes[node.input[0]]) // math.prod(self.sizes[node.output[0]])
            return given[0][0] * terms, given[0][1] * terms
        return self._product(node, given)

    def _product(self, node: onnx.NodeProto, given: list[Range]) -> Range:
        """Of a product, or of LayerNormalization: the largest that the sums can be."""
        reach, weight = max(map(abs, given[0])), self.arrays.get(node.input[1])
        bias = float(np.abs(self.arrays[node.input[2]]).max()) if len(node.input) > 2 else 0.0
        if node.op_type == "LayerNormalization":
            assert weight is not None
            largest = math.sqrt(weight.size) * float(np.abs(weight).max()) + bias
        elif weight is None:
            largest = self.sizes[node.input[0]][-1] * reach * max(map(abs, given[1]))
        else:
            axes = 0 if node.op_type == "MatMul" else tuple(range(1, weight.ndim))
            largest = reach * float(np.abs(weight).sum(axes).max()) + bias
        return -largest, largest

    def backward(self) -> dict[str, Range]:
        """The ranges, each cut to what the readers of a tensor can tell apart."""
        needs: dict[str, list[Range]] = {}
        outputs = {item.name for item in self.graph.output}
        for node in reversed(self.graph.node):
            for name in node.output:
                if name in needs and name not in outputs:
                    self.found[name] = self._cut(name, needs[name])
            lows, highs = zip(*(self.found[name] for name in node.output), strict=True)
            needed = min(lows), max(highs)
            for index, name in enumerate(node.input):
                if name in self.found and name not in self.arrays:
                    needs.setdefault(name, []).append(self._need(node, index, needed))
        return {name: value for name, value in self.found.items() if name not in self.arrays}

    def _cut(self, name: str, needs: list[Range]) -> Range:
        low, high = self.found[name]
        least, largest = min(need[0] for need in needs), max(need[1] for need in needs)
        return (max(low, least), min(high, largest)) if least < high and low < largest else (low, high)

    def _need(self, node: onnx.NodeProto, index: int, out: Range) -> Range:
        """What of input `index` matters, where the output saturates at `out`."""
        others = [self.found[n] for i, n in enumerate(node.input) if i != index and n in self.found]
        if node.op_type == "Add":
            return out[0] - others[0][1], out[1] - others[0][0]
        if node.op_type == "Sub":
            return (out[0] + others[0][0], out[1] + others[0][1]) if index == 0 else (
                others[0][0] - out[1], others[0][1] - out[0])  # fmt: skip
        if node.op_type == "Mul" and others[0][0] == others[0][1] and others[0][0] > 0:
            return out[0] / others[0][0], out[1] / others[0][0]
        if node.op_type in MOVES | {"Relu", "Clip"}:
            return out
        if node.op_type == "Softmax":  # logits that are not masked lie as far below zero as above
            low, high = self.found[node.input[0]]
            return max(low, -abs(high) - _UNSEEN), high
        return self.found[node.input[index]]
