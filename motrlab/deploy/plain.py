"""The exact integers in plain operators, made of an artefact's `*.ort.onnx` while it is loaded: for a second runtime.

Integers stand in float32 without zero points; every kernel of ONNX Runtime becomes what `quantization/functions.py`
says it computes. OpenVINO then runs the graph on its own kernels. What it would compute otherwise is kept from it: a
Clip that clips nothing between a product and a sum (it would contract them), a Round between sums and factors (it would
fold the factor into the weights). It divides by multiplying with a reciprocal, so the functions divide powers of two only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.onnx_graph import Expr, GraphBuilder, OnnxArithmetic
from motrlab.quantization import functions

_MOVING = {
    "Reshape",
    "Transpose",
    "Slice",
    "Split",
    "Concat",
    "Expand",
    "Clip",
    "Gather",
}  # keep the zero point of bytes
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
    def __init__(self, model: onnx.ModelProto) -> None:
        self.source = model.graph
        self.builder = GraphBuilder()
        self.xp = PlainArithmetic(self.builder)
        self.arrays = {i.name: numpy_helper.to_array(i) for i in self.source.initializer}
        self.zeros: dict[str, int] = {}  # of the values that are bytes
        self.values: dict[str, Expr] = {}
        self.sums = {name for node in self.source.node if node.op_type in ("Add", "Sub") for name in node.input}

    def result(self) -> onnx.ModelProto:
        for item in self.source.input:
            self._input(item)
        for node in self.source.node:
            results = self._node(node)
            if node.op_type in _MOVING and node.input[0] in self.zeros:
                self.zeros.update(dict.fromkeys(node.output, self.zeros[node.input[0]]))
            if node.op_type == "Mul" and node.output[0] in self.sums:
                results = [self.xp.apart(results[0])]
            self.values.update(zip(node.output, results, strict=True))
        outputs = {
            o.name: (self.values[o.name], [d.dim_value for d in o.type.tensor_type.shape.dim])
            for o in self.source.output
        }
        return self.builder.model(outputs, {})

    def _input(self, item: onnx.ValueInfoProto) -> None:
        shape = [d.dim_value for d in item.type.tensor_type.shape.dim]
        is_bytes = item.type.tensor_type.elem_type == TensorProto.UINT8
        value = self.builder.input(item.name, shape, "uint8" if is_bytes else "float32")
        if is_bytes:
            self.zeros[item.name] = _SIGNED
            value = self.builder.op("Cast", value, to=TensorProto.FLOAT) - self.xp.const(float(_SIGNED))
        self.values[item.name] = value

    def _value(self, name: str) -> Expr | None:
        """A value of the graph, integers without their zero point."""
        if not name:
            return None
        if name not in self.values:
            array = self.arrays[name]
            if array.dtype == np.uint8:
                self.zeros[name] = _SIGNED
                array = array.astype(np.float32) - _SIGNED
            elif array.dtype == np.int8:
                array = array.astype(np.float32)
            self.values[name] = self.builder.constant(array)
        return self.values[name]

    def _number(self, name: str) -> Any:
        return self.arrays[name]

    def _node(self, node: onnx.NodeProto) -> list[Expr]:
        own: Callable[[onnx.NodeProto], Expr] | None = getattr(self, f"_{node.op_type.lower()}", None)
        if own is not None:
            return [own(node)]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        inputs = [self._value(name) for name in node.input]
        return self.builder.ops(node.op_type, *inputs, outputs=len(node.output), **attributes)

    def _grid(self, node: onnx.NodeProto, steps: Expr, zero: int) -> Expr:
        """The bytes that a node makes; `zero`: which of its inputs is their zero point."""
        point = self.zeros[node.output[0]] = int(self._number(node.input[zero]))
        return functions.to_grid(self.xp, steps, -point, 255 - point)

    def _quantizelinear(self, node: onnx.NodeProto) -> Expr:
        x, scale = self._value(node.input[0]), float(self._number(node.input[1]))
        assert x is not None
        if scale != 1:
            whole = round(1 / scale)
            levels = whole if abs(whole * scale - 1) < 1e-6 else 1 / np.float32(scale)
            x = x * self.xp.const(np.float32(levels))
        return self._grid(node, x, 2)

    def _dequantizelinear(self, node: onnx.NodeProto) -> Expr:
        x, scale = self._value(node.input[0]), self._number(node.input[1])
        assert x is not None
        return x if float(scale) == 1 else x * self.xp.const(scale)

    def _cast(self, node: onnx.NodeProto) -> Expr:
        x = self._value(node.input[0])
        assert x is not None
        zero = self.zeros.get(node.input[0])
        if zero is not None:
            x = x + self.xp.const(float(zero))
        return self.builder.op("Cast", x, to=helper.get_attribute_value(node.attribute[0]))

    def _clip(self, node: onnx.NodeProto) -> Expr:
        x = self._value(node.input[0])
        assert x is not None
        zero = self.zeros.get(node.input[0], 0)
        low, high = (float(self._number(name)) - zero for name in node.input[1:3])
        return self.xp.clip(x, low, high)

    def _sum_of(self, parts: Sequence[Expr], bias: NDArray[Any] | None) -> Expr:
        """Sums below 2²⁴, added as integers."""
        first, *others = parts
        if bias is not None:
            first = first + self.xp.const(bias.astype(np.float32))
        first = self.xp.round(first)
        if not others:
            return first
        builder = self.builder
        total = builder.op("Cast", first, to=TensorProto.INT32)
        for other in others:
            total = total + builder.op("Cast", self.xp.round(other), to=TensorProto.INT32)
        return builder.op("Cast", total, to=TensorProto.FLOAT)

    def _qlinearconv(self, node: onnx.NodeProto) -> Expr:
        x, weight = self._value(node.input[0]), self.arrays[node.input[3]].astype(np.float32)
        assert x is not None
        bias = self.arrays[node.input[8]]
        parts = functions.exact_parts(np.abs(weight).reshape(*weight.shape[:2], -1).sum(2) * 255.0, bias)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if weight.shape[2:] == (1, 1) and attributes["group"] == 1:
            steps = self._sum_of(self._matrix_parts(x, weight[:, :, 0, 0].T, parts), bias)
        else:
            attributes.pop("channels_last")
            planes = self.builder.transpose(x, 0, 3, 1, 2)
            sums = [
                self.builder.op("Conv", self._part(planes, p, len(parts), 1), self.xp.const(weight[:, p]), **attributes)
                for p in (parts if attributes["group"] == 1 else parts[:1])
            ]
            steps = self.builder.transpose(self._sum_of(sums, bias[:, None, None]), 0, 2, 3, 1)
        return self._grid(node, functions.product(self.xp, steps, self.xp.const(self._factor(node, 6))), 7)

    def _matrix_parts(self, x: Expr, weight: NDArray[Any], parts: Sequence[slice]) -> list[Expr]:
        return [
            self.builder.op("MatMul", self._part(x, p, len(parts), -1), self.xp.const(weight[p].astype(np.float32)))
            for p in parts
        ]

    def _part(self, x: Expr, part: slice, number: int, axis: int) -> Expr:
        return x if number == 1 else self.builder.slice(x, part.start, part.stop, axis)

    def _factor(self, node: onnx.NodeProto, scale: int | None) -> NDArray[np.float32]:
        """From accumulator to steps, or with no output scale to real values."""
        x_scale, weight_scale = (self.arrays[node.input[i]].astype(np.float32) for i in (1, 4))
        step: NDArray[np.float32] = x_scale * weight_scale
        return step / self.arrays[node.input[scale]].astype(np.float32) if scale is not None else step

    def _qgemm(self, node: onnx.NodeProto) -> Expr:
        x, weight, bias = self._value(node.input[0]), self.arrays[node.input[3]], self.arrays[node.input[6]]
        assert x is not None
        parts = functions.exact_parts(np.abs(weight.T.astype(np.float64)) * 255.0, bias)
        steps = self._sum_of(self._matrix_parts(x, weight, parts), bias)
        if len(node.input) < 9:
            return functions.product(self.xp, steps, self.xp.const(self._factor(node, None)))
        steps = functions.product(self.xp, steps, self.xp.const(self._factor(node, 7)))
        return self._grid(node, steps, 8)

    def _qlinearadd(self, node: onnx.NodeProto) -> Expr:
        x, y = self._value(node.input[0]), self._value(node.input[3])
        assert x is not None
        assert y is not None
        factors = [float(self._number(node.input[i])) for i in (1, 4)]
        return self._grid(node, functions.add(self.xp, x, y, (factors[0], factors[1])), 7)

    def _matmulintegertofloat(self, node: onnx.NodeProto) -> Expr:
        x, y = self._value(node.input[0]), self._value(node.input[1])
        assert x is not None
        assert y is not None
        terms = self._terms(node)
        size = terms if 255 * 128 * terms < functions.EXACT else terms // -(-255 * 128 * terms // functions.EXACT)
        parts = [slice(i, min(i + size, terms)) for i in range(0, terms, size)]
        sums = [
            self.builder.op("MatMul", self._part(x, p, len(parts), 2), self._part(y, p, len(parts), 1)) for p in parts
        ]
        factor = self._number(node.input[2])
        steps = self._sum_of(sums, None)
        return steps if float(factor) == 1 else steps * self.xp.const(factor)

    def _terms(self, node: onnx.NodeProto) -> int:
        """How many keys the weights of an attention are spread over; of logits, more than a head can have."""
        if self.zeros[node.input[0]] != 0:  # logits: int8 times int8 over the channels of a head
            return 1
        masks = [i for i in self.source.input if i.name.endswith("mask")]
        tracks = masks[0].type.tensor_type.shape.dim[3].dim_value
        slots = [o.type.tensor_type.shape.dim for o in self.source.output if o.name == "class_logits"]
        return max(tracks, slots[0][2].dim_value * slots[0][3].dim_value) if slots else tracks
