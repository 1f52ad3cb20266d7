"""The exact integers in plain operators, made of an artefact's `*.ort.onnx` while it is loaded: for a second runtime.

Integers stand in float32 without zero points; every kernel of ONNX Runtime becomes what `quantization/functions.py`
says it computes. OpenVINO then runs the graph on its own kernels. What it would compute otherwise is kept from it: a
Clip that clips nothing between a product and a sum (it would contract them), a Round between sums and factors (it would
fold the factor into the weights). It divides by multiplying with a reciprocal, so functions divide powers of two only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.onnx_graph import Expr, GraphBuilder, OnnxArithmetic
from motrlab.quantization import functions

# These keep the zero point of bytes.
_MOVING = {"Reshape", "Transpose", "Slice", "Split", "Concat", "Expand", "Clip", "Gather"}
_LARGE = 1e30
_SIGNED = 128  # zero point of signed bytes: the image, and every constant


class PlainArithmetic(OnnxArithmetic):
    """Operators that OpenVINO computes as they stand."""

    def apart(self, x: Expr) -> Expr:
        return self.clip(x, -_LARGE, _LARGE)


def plain_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` (as `kernel_graph.kernel_graphs` makes it) in plain operators, with the same inputs and outputs."""
    return _Rewriter(model).result()


class _Rewriter:
    """Methods called after an operator in lower case say what becomes of it; all others stay as they are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.source = model.graph
        self.builder = GraphBuilder()
        self.xp = PlainArithmetic(self.builder)
        self.arrays = {i.name: numpy_helper.to_array(i) for i in self.source.initializer}
        self.zeros: dict[str, int] = {}  # of the values that are bytes
        self.values: dict[str, Expr] = {}

    def result(self) -> onnx.ModelProto:
        sums = {name for node in self.source.node if node.op_type in ("Add", "Sub") for name in node.input}
        for item in self.source.input:
            self._input(item)
        for node in self.source.node:
            results = self._node(node)
            if node.op_type in _MOVING and node.input[0] in self.zeros:
                self.zeros.update(dict.fromkeys(node.output, self.zeros[node.input[0]]))
            if node.op_type == "Mul" and node.output[0] in sums:
                results = [self.xp.apart(results[0])]
            self.values.update(zip(node.output, results, strict=True))
        return self.builder.model({o.name: (self.values[o.name], _sizes(o)) for o in self.source.output}, {})

    def _input(self, item: onnx.ValueInfoProto) -> None:
        is_bytes = item.type.tensor_type.elem_type == TensorProto.UINT8
        value = self.builder.input(item.name, _sizes(item), "uint8" if is_bytes else "float32")
        if is_bytes:
            self.zeros[item.name] = _SIGNED
            value = self.builder.op("Cast", value, to=TensorProto.FLOAT) - _SIGNED
        self.values[item.name] = value

    def _value(self, name: str) -> Expr:
        """A value of the graph, integers without their zero point."""
        if name not in self.values:
            array = self.arrays[name]
            if array.dtype == np.uint8:
                self.zeros[name] = _SIGNED
                array = array.astype(np.float32) - _SIGNED
            self.values[name] = self.builder.constant(array.astype(np.float32) if array.dtype == np.int8 else array)
        return self.values[name]

    def _node(self, node: onnx.NodeProto) -> list[Expr]:
        self.builder.owner = node.name.rpartition("/")[0]
        own: Callable[[onnx.NodeProto], Expr] | None = getattr(self, f"_{node.op_type.lower()}", None)
        if own is not None:
            return [own(node)]
        inputs = [self._value(name) if name else None for name in node.input]
        return self.builder.ops(node.op_type, *inputs, outputs=len(node.output), **_attributes(node))

    def _grid(self, node: onnx.NodeProto, steps: Expr, zero: int) -> Expr:
        """The bytes that a node makes; `zero`: which of its inputs is their zero point."""
        point = self.zeros[node.output[0]] = int(self.arrays[node.input[zero]])
        return functions.to_grid(self.xp, steps, -point, 255 - point)

    def _quantizelinear(self, node: onnx.NodeProto) -> Expr:
        x, scale = self._value(node.input[0]), float(self.arrays[node.input[1]])
        if scale != 1:
            whole = round(1 / scale)
            x = x * self.xp.const(whole if abs(whole * scale - 1) < 1e-6 else 1 / np.float32(scale))
        return self._grid(node, x, 2)

    def _dequantizelinear(self, node: onnx.NodeProto) -> Expr:
        return self._times(self._value(node.input[0]), self.arrays[node.input[1]])

    def _times(self, x: Expr, factor: NDArray[Any]) -> Expr:
        return x if float(factor) == 1 else x * self.xp.const(factor)

    def _cast(self, node: onnx.NodeProto) -> Expr:
        x, zero = self._value(node.input[0]), self.zeros.get(node.input[0], 0)
        return self.builder.op("Cast", x + zero if zero else x, **_attributes(node))

    def _clip(self, node: onnx.NodeProto) -> Expr:
        x, zero = self._value(node.input[0]), self.zeros.get(node.input[0], 0)
        low, high = (float(self.arrays[name]) - zero for name in node.input[1:])
        return self.xp.clip(x, low, high)

    def _qlinearadd(self, node: onnx.NodeProto) -> Expr:
        x, y = (self._value(node.input[i]) for i in (0, 3))
        first, second = (float(self.arrays[node.input[i]]) for i in (1, 4))
        return self._grid(node, functions.add(self.xp, x, y, (first, second)), 7)

    def _qlinearconv(self, node: onnx.NodeProto) -> Expr:
        x, weight, bias = self._value(node.input[0]), *(self.arrays[node.input[i]] for i in (3, 8))
        attributes = _attributes(node)
        if weight.shape[2:] == (1, 1) and attributes["group"] == 1:
            return self._scaled(node, self._matrix_product(x, weight[:, :, 0, 0].T, bias), 6)
        attributes.pop("channels_last")
        parts = functions.exact_parts(np.abs(weight.astype(np.float64)).sum((2, 3)) * 255, bias)
        operands = x.transpose(0, 3, 1, 2), lambda p: self.xp.const(weight[:, p])
        steps = self._sum_of("Conv", *operands, 1, parts, bias[:, None, None], **attributes)
        return self._scaled(node, steps.transpose(0, 2, 3, 1), 6)

    def _qgemm(self, node: onnx.NodeProto) -> Expr:
        x, weight, bias = self._value(node.input[0]), *(self.arrays[node.input[i]] for i in (3, 6))
        return self._scaled(node, self._matrix_product(x, weight, bias), 7)

    def _matmulintegertofloat(self, node: onnx.NodeProto) -> Expr:
        x, y = (self._value(name) for name in node.input[:2])
        parts = functions.key_parts(self._terms(node))
        total = self._sum_of("MatMul", x, lambda p: _part(y, p, 1, parts), 2, parts)
        return self._times(total, self.arrays[node.input[2]])

    def _terms(self, node: onnx.NodeProto) -> int:
        """How many keys the weights of an attention are spread over; of logits, more than a head can have."""
        if self.zeros[node.input[0]] != 0:  # logits: int8 times int8 over the channels of a head
            return 1
        tracks = [_sizes(i)[3] for i in self.source.input if i.name.endswith("mask")]
        return max(tracks + [math.prod(_sizes(o)[2:]) for o in self.source.output if o.name == "class_logits"])

    def _matrix_product(self, x: Expr, weight: NDArray[Any], bias: NDArray[Any]) -> Expr:
        """`weight` `[in, out]`."""
        parts = functions.exact_parts(np.abs(weight.T.astype(np.float64)) * 255, bias)
        return self._sum_of("MatMul", x, lambda p: self.xp.const(weight[p]), -1, parts, bias)

    def _sum_of(
        self, kind: str, x: Expr, other: Callable[[slice], Expr], axis: int, parts: Sequence[slice],
        bias: NDArray[Any] | None = None, **attributes: Any,
    ) -> Expr:  # fmt: skip
        """Products of the parts of `x` along an axis, each with its own `other`: sums below 2²⁴, added as integers."""
        first, *others = (self.builder.op(kind, _part(x, p, axis, parts), other(p), **attributes) for p in parts)
        total = self.xp.round(first if bias is None else first + self.xp.const(bias))
        if not others:
            return total
        total = self.builder.op("Cast", total, to=TensorProto.INT32)
        for more in others:
            total = total + self.builder.op("Cast", self.xp.round(more), to=TensorProto.INT32)
        return self.builder.op("Cast", total, to=TensorProto.FLOAT)

    def _scaled(self, node: onnx.NodeProto, accumulator: Expr, grid: int) -> Expr:
        """What a product gives: bytes, if its inputs from `grid` on are scale and zero point, else real values."""
        factor: Any = np.multiply(*(self.arrays[node.input[i]] for i in (1, 4)))
        if grid >= len(node.input):
            return functions.product(self.xp, accumulator, self.xp.const(factor))
        factor = factor / self.arrays[node.input[grid]]
        return self._grid(node, functions.product(self.xp, accumulator, self.xp.const(factor)), grid + 1)


def _part(x: Expr, part: slice, axis: int, parts: Sequence[slice]) -> Expr:
    return x.slice(part.start, part.stop, axis) if len(parts) > 1 else x


def _sizes(item: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in item.type.tensor_type.shape.dim]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
