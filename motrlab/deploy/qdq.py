"""A float graph and its encodings as one graph with quantiser pairs, in the form that chips' compilers take.

A pair stands at every tensor, also behind what only moves values, so that every node stands between pairs;
DequantizeLinear is directly behind its QuantizeLinear, zero points are written out, no two nodes share a constant.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from motrlab.deploy.encodings import Encoding, FloatForm
from motrlab.deploy.layers import ACTIVATIONS


def qdq_form(form: FloatForm, *, inner: bool = False) -> onnx.ModelProto:
    """`inner`: also tensors inside functions are quantised, to int16. Else those stay float, as in `base.onnx`, and so
    do products whose result has more than 8 bits.
    """
    return _Writer(form, inner).result()


class _Writer:
    def __init__(self, form: FloatForm, inner: bool) -> None:
        self.form, self.inner = form, inner
        graph = form.model.graph
        self.arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {}
        self.real: dict[str, str] = {}  # tensor → its value behind the pair

    def result(self) -> onnx.ModelProto:
        graph = self.form.model.graph
        outputs = {item.name for item in graph.output}
        for item in graph.input:
            self._pair(item.name, item.name, "")
        for node in graph.node:
            written = copy.deepcopy(node)
            fused = self._fused(node)
            as_float = not self._is_8_bit(fused or node.output[0])
            written.input[:] = [self._input(name, as_float) for name in node.input]
            self.nodes.append(written)
            for index, name in enumerate(node.output):
                if name in outputs and not self._is_float(name):
                    written.output[index] = f"{name}/raw"
                    self._pair(name, f"{name}/raw", name)
                elif not fused:
                    self._pair(name, name, "")
        constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        body = helper.make_graph(self.nodes, graph.name, graph.input, graph.output, constants)
        found = helper.make_model(
            body, opset_imports=self.form.model.opset_import, ir_version=10, producer_name="motrlab"
        )
        onnx.checker.check_model(found, full_check=True)
        return found

    def _is_float(self, name: str) -> bool:
        encoding = self.form.encodings[name]
        return not self.inner and (encoding.inner or (encoding.dtype == "int16" and encoding.origin == "moved"))

    def _is_8_bit(self, name: str) -> bool:
        return self.inner or self.form.encodings[name].dtype in ("int8", "uint8")

    def _fused(self, node: onnx.NodeProto) -> str:
        """The output of what a compiler makes one with this product, bias or activation; "" where nothing follows."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or node.op_type not in ("Conv", "MatMul", "Add"):
            return ""
        bias = node.op_type == "MatMul" and readers[0].op_type == "Add" and readers[0].input[1] in self.arrays
        return readers[0].output[0] if bias or readers[0].op_type in ACTIVATIONS else ""

    def _pair(self, tensor: str, source: str, result: str) -> None:
        """Two nodes; activations in int8 stand as uint8 with zero point 128, as in `base.onnx`."""
        if self._is_float(tensor):
            return
        encoding = self.form.encodings[tensor]
        zero = np.uint8(128) if encoding.dtype == "int8" else np.dtype(encoding.dtype).type(0)
        grid = [f"{tensor}/scale", f"{tensor}/zero_point"]
        self.constants |= dict(zip(grid, (encoding.scale, zero), strict=True))
        steps, real = f"{tensor}/steps", result or f"{tensor}/real"
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *grid], [steps], f"{tensor}/QuantizeLinear"))
        self.nodes.append(helper.make_node("DequantizeLinear", [steps, *grid], [real], f"{tensor}/DequantizeLinear"))
        self.real[tensor] = real

    def _input(self, name: str, as_float: bool) -> str:
        if name not in self.arrays:
            return self.real.get(name, name)
        value, encoding = self.arrays[name], self.form.encodings.get(name)
        if encoding is None or as_float or self._is_float(name):
            self.constants[name] = value
            return name
        if f"{name}/real" not in self.real.values():
            self._constant(name, value, encoding)
        return f"{name}/real"

    def _constant(self, name: str, value: Any, encoding: Encoding) -> None:
        grid = [f"{name}/scale", f"{name}/zero_point"]
        zeros = np.zeros_like(encoding.scale, encoding.dtype)
        self.constants |= {name: encoding.integers(value), **dict(zip(grid, (encoding.scale, zeros), strict=True))}
        node = helper.make_node("DequantizeLinear", [name, *grid], [f"{name}/real"], f"{name}/DequantizeLinear")
        if encoding.axis is not None:
            node.attribute.append(helper.make_attribute("axis", encoding.axis))
        self.nodes.append(node)
        self.real[name] = f"{name}/real"
