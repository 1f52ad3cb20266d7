"""Building ONNX graphs: nodes, constants, and arithmetic that writes nodes instead of computing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab.run import atomic_path

OPSET = 21  # the first with int16 QuantizeLinear
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


@dataclass(frozen=True)
class Expr:
    """A value of a graph; `+ - * /` write nodes."""

    graph: GraphBuilder
    name: str

    def __add__(self, other: Expr) -> Expr:
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Expr) -> Expr:
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: Expr) -> Expr:
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: Expr) -> Expr:
        return self.graph.op("Div", self, other)


class GraphBuilder:
    """Nodes in order; equal constants and equal nodes exist once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._known: dict[Any, Any] = {}

    def input(self, name: str, shape: Sequence[int], kind: str = "float32") -> Expr:
        """An input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, _TYPES[kind], shape))
        return Expr(self, name)

    def constant(self, value: Any) -> Expr:
        """An initialiser. Python numbers are float32."""
        array = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = np.ascontiguousarray(array).reshape(array.shape)
            self._known[key] = Expr(self, name)
        known: Expr = self._known[key]
        return known

    def shape(self, *sizes: int) -> Expr:
        """A constant of int64."""
        return self.constant(np.array(sizes, np.int64))

    def ops(self, kind: str, *inputs: Expr | None, outputs: int, domain: str = "", **attributes: Any) -> list[Expr]:
        """A node of several outputs; None is an input left out."""
        names = [x.name if x is not None else "" for x in inputs]
        key = (kind, domain, tuple(names), outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            number = len(self.nodes)
            results = [f"{kind}_{number}" + (f"_{i}" if i else "") for i in range(outputs)]
            self.nodes.append(helper.make_node(kind, names, results, f"node_{number}", domain=domain, **attributes))
            self._known[key] = [Expr(self, name) for name in results]
        found: list[Expr] = self._known[key]
        return found

    def op(self, kind: str, *inputs: Expr | None, domain: str = "", **attributes: Any) -> Expr:
        """A node of one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def reshape(self, x: Expr, *sizes: int) -> Expr:
        return self.op("Reshape", x, self.shape(*sizes))

    def transpose(self, x: Expr, *order: int) -> Expr:
        return self.op("Transpose", x, perm=list(order))

    def cat(self, parts: Sequence[Expr], axis: int) -> Expr:
        return self.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def slice(self, x: Expr, first: int, end: int, axis: int) -> Expr:
        return self.op("Slice", x, self.shape(first), self.shape(end), self.shape(axis))

    def split(self, x: Expr, sizes: Sequence[int], axis: int) -> list[Expr]:
        return self.ops("Split", x, self.shape(*sizes), outputs=len(sizes), axis=axis)

    def model(self, outputs: Mapping[str, tuple[Expr, Sequence[int]]], names: Mapping[str, str]) -> onnx.ModelProto:
        """The graph with these outputs (name → value and shape), without what none of them needs.

        `names`: value → the name that it shall have.
        """
        renamed = dict(names) | {value.name: name for name, (value, _) in outputs.items()}
        nodes, used = [], {value.name for value, _ in outputs.values()}
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                nodes.append(node)
        kept = []
        for node in reversed(nodes):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for field in (copy.input, copy.output):
                field[:] = [renamed.get(name, name) for name in field]
            kept.append(copy)
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, (_, s) in outputs.items()]
        constants = [numpy_helper.from_array(v, name) for name, v in self.constants.items() if name in used]
        graph = helper.make_graph(kept, "motrlab", self.inputs, results, constants)
        domains = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in kept):
            domains.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=domains, ir_version=10, producer_name="motrlab")


class OnnxArithmetic:
    """The arithmetic of `quantization/functions.py` that is the same in every form of ONNX."""

    def __init__(self, graph: GraphBuilder) -> None:
        self.graph = graph

    def const(self, x: Any) -> Expr:
        return x if isinstance(x, Expr) else self.graph.constant(np.asarray(x, np.float32))

    def apart(self, x: Expr) -> Expr:
        return x

    def round(self, x: Expr) -> Expr:
        return self.graph.op("Round", x)

    def clip(self, x: Expr, low: float, high: float) -> Expr:
        return self.graph.op("Clip", x, self.const(low), self.const(high))

    def maximum(self, x: Expr, low: float) -> Expr:
        return self.graph.op("Max", x, self.const(low))

    def relu(self, x: Expr) -> Expr:
        return self.graph.op("Relu", x)

    def absolute(self, x: Expr) -> Expr:
        return self.graph.op("Abs", x)

    def exp(self, x: Expr) -> Expr:
        return self.graph.op("Exp", x)

    def sqrt(self, x: Expr) -> Expr:
        return self.graph.op("Sqrt", x)

    def sum(self, x: Expr) -> Expr:
        return self.graph.op("ReduceSum", x, self.graph.shape(-1), keepdims=1)

    def sum_squares(self, x: Expr) -> Expr:
        return self.graph.op("ReduceSumSquare", x, self.graph.shape(-1), keepdims=1)

    def max(self, x: Expr) -> Expr:
        return self.graph.op("ReduceMax", x, self.graph.shape(-1), keepdims=1)

    def lookup(self, table: NDArray[Any], index: Expr) -> Expr:
        """Entries, or rows, of a table by a value that is an integer."""
        return self.graph.op("Gather", self.graph.constant(table), self.graph.op("Cast", index, to=TensorProto.INT32))


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Check a model as far as ONNX knows its operators, and write it."""
    if not any(node.domain for node in model.graph.node):
        onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
