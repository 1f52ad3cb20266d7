"""A portable graph without its quantisers, and the encoding of every tensor: for tools that take both apart.

The float graph has the weights of the grids, so quantising them again gives the same integers. A tensor that had a pair
of quantisers has the pair's encoding; what only moves values passes it on. Tensors inside a function of the integer
form have no pair: theirs is int16, its scale a power of two, over the range that the function can reach and what
follows can tell apart (`ranges.py`). So no tool has a tensor left to calibrate on its own.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from motrlab.deploy.layers import ACTIVATIONS, MOVES
from motrlab.deploy.ranges import Range, find_ranges

Array = NDArray[Any]
_PARTS = {"Conv": ("", "weight", "bias"), "LayerNormalization": ("", "weight", "bias"), "MatMul": ("", "weight")}
_BOUNDS = {"Clip", "Resize"}  # their constants say how, and are no tensors


@dataclass(frozen=True, eq=False)
class Encoding:
    """The grid of a tensor: (integer − `zero_point`) · `scale`.

    `dtype`: int8, uint8 (zero point 0: behind a ReLU), int16 or int32 (biases). `scale`: one number, or one for each
    channel of `axis`. `origin`: `pair` (it stands in the graph), `moved` (that of a pair before or behind, of which
    only moves or an activation are apart) or `range` (derived: a tensor inside a function).
    """

    dtype: str
    scale: Any
    axis: int | None = None
    origin: str = "pair"

    @property
    def inner(self) -> bool:
        return self.origin == "range"

    @property
    def range(self) -> Range:
        """The least and the largest real value."""
        info, scale = np.iinfo(self.dtype), float(self.scale.max())
        return info.min * scale, info.max * scale

    def same(self, other: Encoding) -> bool:
        """Whether both are one grid."""
        return self.dtype == other.dtype and self.axis == other.axis and np.array_equal(self.scale, other.scale)

    def integers(self, values: Array) -> Array:
        """Real values → the nearest integers of the grid."""
        scale = self.scale.astype(np.float64)
        if self.axis is not None:
            scale = np.expand_dims(scale, [i for i in range(values.ndim) if i != self.axis])
        info = np.iinfo(self.dtype)
        return np.clip(np.rint(values / scale), info.min, info.max).astype(self.dtype)


@dataclass(frozen=True)
class FloatForm:
    """`model`: float, opset 21, no two nodes share a constant. `encodings`: of every tensor, constants too."""

    model: onnx.ModelProto
    encodings: dict[str, Encoding]


def float_form(model: onnx.ModelProto) -> FloatForm:
    """Of `base.onnx` or `qim.onnx` of an artefact, or of `portable_graphs` of a quantised model."""
    return _Splitter(model).result()


@dataclass
class _Splitter:
    source: onnx.ModelProto
    constants: dict[str, Array] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)  # what quantisers make → the tensor that went in
    called: dict[str, str] = field(default_factory=dict)  # tensor → its name in the float graph, where it has another
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    kept: dict[str, Array] = field(default_factory=dict)

    def result(self) -> FloatForm:
        graph = self.source.graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        for node in graph.node:
            if all(name in self.constants for name in filter(None, node.input)):
                self._fold(node)
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._pair(node)
            else:
                self.nodes.append(copy.deepcopy(node))
        for node in self.nodes:
            node.input[:] = [self._input(node, index, name) for index, name in enumerate(node.input)]
            node.output[:] = [self.called.get(name, name) for name in node.output]
        self.encodings = {self.called.get(name, name): encoding for name, encoding in self.encodings.items()}
        constants = [numpy_helper.from_array(value, name) for name, value in self.kept.items()]
        body = helper.make_graph(self.nodes, graph.name, graph.input, graph.output, constants)
        domains = copy.deepcopy(self.source.opset_import)
        found = helper.make_model(body, opset_imports=domains, ir_version=10, producer_name="motrlab")
        found = onnx.shape_inference.infer_shapes(found, strict_mode=True)
        onnx.checker.check_model(found, full_check=True)
        self._complete(found)
        return FloatForm(found, {n: self.encodings[n] for n in float_tensors(found)})

    def _fold(self, node: onnx.NodeProto) -> None:
        """A node of constants alone. Weights keep the grid that they stand on, also transposed."""
        values = [self.constants[name] for name in node.input if name]
        axis: int | None = next((a.i for a in node.attribute if a.name == "axis"), None)
        if node.op_type == "DequantizeLinear":
            grid = self._grid(values[1], values[2], axis if values[1].ndim else None)
            steps = values[0].astype(np.int64) - (values[2].astype(np.int64) if values[1].ndim == 0 else 0)
            shape = [-1 if i == axis else 1 for i in range(values[0].ndim)] if values[1].ndim else []
            real = (steps.astype(np.float32) * values[1].reshape(shape)).astype(np.float32)
            self.constants[node.output[0]], self.encodings[node.output[0]] = real, grid
            return
        inner = helper.make_graph(
            [node], "constant", [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                                 for n, v in zip(filter(None, node.input), values, strict=True)],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )  # fmt: skip
        model = helper.make_model(inner, opset_imports=self.source.opset_import)
        fed = dict(zip(filter(None, node.input), values, strict=True))
        self.constants |= dict(zip(node.output, ReferenceEvaluator(model).run(None, fed), strict=True))
        known = self.encodings.get(node.input[0])
        if node.op_type in MOVES and known is not None:
            if known.axis is not None:
                assert node.op_type == "Transpose", node.name
                order = list(next(a.ints for a in node.attribute if a.name == "perm"))
                known = Encoding(known.dtype, known.scale, order.index(known.axis))
            self.encodings |= dict.fromkeys(node.output, known)

    @staticmethod
    def _grid(scale: Array, zero_point: Array, axis: int | None = None) -> Encoding:
        """Of a pair. Signed integers stand in the file as uint8 with zero point 128: they are int8."""
        if zero_point.dtype == np.uint8 and np.all(zero_point == 128):
            return Encoding("int8", scale, axis)
        assert not zero_point.any(), "a zero point that no grid of ours has"
        return Encoding(str(zero_point.dtype), scale, axis)

    def _pair(self, node: onnx.NodeProto) -> None:
        """A QuantizeLinear or DequantizeLinear; the tensor is called as the latter calls it, unless it is an input."""
        tensor, made = self.tensors.get(node.input[0], node.input[0]), node.output[0]
        grid = self._grid(self.constants[node.input[1]], self.constants[node.input[2]])
        assert self.encodings.setdefault(tensor, grid).same(grid), f"{tensor} is quantised to two grids"
        self.tensors[made] = tensor
        ends = [{item.name for item in items} for items in (self.source.graph.input, self.source.graph.output)]
        if node.op_type == "DequantizeLinear" and tensor not in ends[0] and ("/" in made or made in ends[1]):
            self.called[tensor] = made

    def _input(self, node: onnx.NodeProto, index: int, name: str) -> str:
        if name not in self.constants:
            tensor = self.tensors.get(name, name)
            return self.called.get(tensor, tensor)
        value = self.constants[name]
        if value.dtype != np.float32 or node.op_type in _BOUNDS:
            self.kept[name] = value
            return name
        parts = _PARTS.get(node.op_type, ())
        own = f"{node.name}.{parts[index] if index < len(parts) and parts[index] else f'constant{index}'}"
        self.kept[own] = value
        largest = float(np.abs(value).max()) or 1.0
        self.encodings[own] = self.encodings.get(name) or Encoding("int16", np.float32(largest / 32767), origin="range")
        return own

    def _complete(self, model: onnx.ModelProto) -> None:
        """Encodings of what had no pair: of the pair before or behind, or of the tensor's range."""
        graph, given = model.graph, self.encodings
        readers = Counter(name for node in graph.node for name in node.input)
        for node in reversed(graph.node):  # LayerNormalization → Transpose → pair
            known = given.get(node.output[0])
            if node.op_type in MOVES | ACTIVATIONS and known is not None and known.axis is None:
                for name in node.input[: len(node.input) if node.op_type == "Concat" else 1]:
                    if name not in given and readers[name] == 1 and len(node.output) == 1:
                        given[name] = replace(known, origin="moved")
        for node in graph.node:
            found = [given.get(name) for name in node.input if name and name not in self.constants]
            found = found if node.op_type == "Concat" else found[:1]
            if node.op_type in MOVES and found[0] is not None and all(f and f.same(found[0]) for f in found):
                for name in node.output:
                    given.setdefault(name, replace(found[0], origin="moved"))
        for name, (low, high) in find_ranges(model, {n: e.range for n, e in given.items()}).items():
            if name not in given:
                steps = max(abs(low), abs(high)) / 32767
                power = np.exp2(np.ceil(np.log2(max(steps, 2.0**-24))))
                given[name] = Encoding("int16", np.float32(power), origin="range")


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Every tensor of a float graph that a tool quantises: inputs, what nodes make, and constants but the bounds of
    Clip and the sizes of Resize.
    """
    bounds = {name for node in model.graph.node if node.op_type in _BOUNDS for name in node.input[1:]}
    floats = [i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    made = [name for node in model.graph.node for name in node.output]
    return [*(i.name for i in model.graph.input), *made, *(name for name in floats if name not in bounds)]


def opset_19(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float graph relabelled for tools that stop at opset 19: what we use of 21 is the same, but for one name."""
    found = copy.deepcopy(model)
    found.opset_import[0].version, found.ir_version = 19, 9
    for node in found.graph.node:
        for attribute in node.attribute:
            if node.op_type == "GridSample" and attribute.name == "mode":
                attribute.s = b"bilinear"
    onnx.checker.check_model(found, full_check=True)
    return found
