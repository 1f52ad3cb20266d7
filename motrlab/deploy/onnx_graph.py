"""Building ONNX graphs: nodes, constants, and arithmetic that writes nodes instead of computing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab.files import atomic_path

OPSET = 21  # the first with int16 QuantizeLinear
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators


def _of_two(kind: str) -> Callable[[Expr, Expr | float], Expr]:
    return lambda x, y: x.graph.op(kind, x, y if isinstance(y, Expr) else x.graph.constant(float(y)))


@dataclass(frozen=True)
class Expr:
    """A value of a graph; `+ - * /` and methods write nodes."""

    graph: GraphBuilder
    name: str

    __add__ = _of_two("Add")
    __sub__ = _of_two("Sub")
    __mul__ = _of_two("Mul")
    __truediv__ = _of_two("Div")

    def reshape(self, *sizes: int) -> Expr:
        return self.graph.op("Reshape", self, self.graph.shape(*sizes))

    def transpose(self, *order: int) -> Expr:
        return self.graph.op("Transpose", self, perm=list(order))

    def slice(self, first: int, end: int, axis: int) -> Expr:
        return self.graph.op("Slice", self, *map(self.graph.shape, (first, end, axis)))

    def split(self, sizes: Sequence[int], axis: int) -> list[Expr]:
        if len(sizes) == 1:
            return [self]
        return self.graph.ops("Split", self, self.graph.shape(*sizes), outputs=len(sizes), axis=axis)


class GraphBuilder:
    """Nodes in order; equal constants and equal nodes exist once.

    `owner`: the module's path, or the operation, that nodes are made for: a node is called `OWNER/OPERATOR_NUMBER`.
    """

    def __init__(self) -> None:
        self.owner = ""
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._known_constants: dict[Any, Expr] = {}
        self._known_nodes: dict[Any, list[Expr]] = {}

    def input(self, name: str, shape: Sequence[int], kind: str = "float32") -> Expr:
        """An input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape))
        return Expr(self, name)

    def constant(self, value: Any) -> Expr:
        """An initialiser. Python numbers are float32."""
        array = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known_constants:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = np.ascontiguousarray(array).reshape(array.shape)
            self._known_constants[key] = Expr(self, name)
        return self._known_constants[key]

    def shape(self, *sizes: int) -> Expr:
        """A constant of int64."""
        return self.constant(np.array(sizes, np.int64))

    def ops(self, kind: str, *inputs: Expr | None, outputs: int, domain: str = "", **attributes: Any) -> list[Expr]:
        """A node of several outputs; None is an input left out."""
        names = [x.name if x is not None else "" for x in inputs]
        key = (kind, domain, tuple(names), outputs, repr(sorted(attributes.items())))
        if key not in self._known_nodes:
            label = f"{kind}_{len(self.nodes)}"
            results = [label + (f"_{i}" if i else "") for i in range(outputs)]
            self.nodes.append(
                helper.make_node(kind, names, results, f"{self.owner or 'result'}/{label}", domain=domain, **attributes)
            )
            self._known_nodes[key] = [Expr(self, name) for name in results]
        return self._known_nodes[key]

    def op(self, kind: str, *inputs: Expr | None, domain: str = "", **attributes: Any) -> Expr:
        """A node of one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def cat(self, parts: Sequence[Expr], axis: int) -> Expr:
        return self.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]

    def model(self, outputs: Mapping[str, tuple[Expr, Sequence[int]]], names: Mapping[str, str]) -> onnx.ModelProto:
        """The graph with these outputs (name → value and shape), without what none of them needs.

        `names`: value → the name that it shall have.
        """
        renamed = {**names, **{value.name: name for name, (value, _) in outputs.items()}}
        kept, used = [], {value.name for value, _ in outputs.values()}
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(copy.deepcopy(node))
                for field in (kept[-1].input, kept[-1].output):
                    field[:] = [renamed.get(name, name) for name in field]
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, (_, s) in outputs.items()]
        constants = [numpy_helper.from_array(v, name) for name, v in self.constants.items() if name in used]
        graph = helper.make_graph(kept[::-1], "motrlab", self.inputs, results, constants)
        domains = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in kept):
            domains.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=domains, ir_version=10, producer_name="motrlab")


def _elementwise(kind: str) -> Callable[[OnnxArithmetic, Expr], Expr]:
    return lambda xp, x: xp.graph.op(kind, x)


def _over_last_axis(kind: str) -> Callable[[OnnxArithmetic, Expr], Expr]:
    return lambda xp, x: xp.graph.op(kind, x, xp.graph.shape(-1), keepdims=1)


class OnnxArithmetic:
    """The arithmetic of `quantization/functions.py` that is the same in every form of ONNX."""

    def __init__(self, graph: GraphBuilder) -> None:
        self.graph = graph

    def const(self, x: Any) -> Expr:
        return x if isinstance(x, Expr) else self.graph.constant(np.asarray(x, np.float32))

    def apart(self, x: Expr) -> Expr:
        return x

    round = _elementwise("Round")
    relu = _elementwise("Relu")
    absolute = _elementwise("Abs")
    exp = _elementwise("Exp")
    sqrt = _elementwise("Sqrt")
    sum = _over_last_axis("ReduceSum")
    sum_squares = _over_last_axis("ReduceSumSquare")
    max = _over_last_axis("ReduceMax")

    def clip(self, x: Expr, low: float, high: float) -> Expr:
        return self.graph.op("Clip", x, self.const(low), self.const(high))

    def maximum(self, x: Expr, low: float) -> Expr:
        return self.graph.op("Max", x, self.const(low))

    def cat(self, parts: Sequence[Expr]) -> Expr:
        return self.graph.cat(parts, 1)

    def lookup(self, table: NDArray[Any], index: Expr) -> Expr:
        """Entries, or rows, of a table by a value that is an integer."""
        return self.graph.op("Gather", self.graph.constant(table), self.graph.op("Cast", index, to=TensorProto.INT32))


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Check a model as far as ONNX knows its operators, and write it."""
    if not any(node.domain for node in model.graph.node):
        onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
