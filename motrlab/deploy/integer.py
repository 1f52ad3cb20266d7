"""Which products of a graph ONNX Runtime really runs on integer kernels.

Counted on the graph that ONNX Runtime has optimised, not on the file: only there is it decided. A multiply-accumulate
(MAC) is one multiplication of a convolution or matrix product with its addition.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from motrlab.deploy.kernels import onnxruntime_options

INTEGER_OPERATORS = {
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QGemm",
}  # fmt: skip
FLOAT_OPERATORS = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "NhwcFusedConv"}
_WEIGHT_INPUT = {"QLinearConv": 3, "ConvInteger": 1, "Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1}
_SECOND_INPUT = {"QLinearMatMul": 3, "QGemm": 3}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One convolution or matrix product of an optimised graph."""

    name: str
    operator: str
    macs: int
    integer: bool


@dataclass(frozen=True)
class IntegerShare:
    """Products of one graph. Shares are fractions from 0 to 1; a graph without products counts as all integer."""

    products: tuple[Product, ...]

    @property
    def macs(self) -> int:
        return sum(p.macs for p in self.products)

    @property
    def macs_share(self) -> float:
        """Of the multiply-accumulates, how many run on integer kernels."""
        return sum(p.macs for p in self.products if p.integer) / max(self.macs, 1) if self.products else 1.0

    @property
    def nodes_share(self) -> float:
        """Of the products, how many run on integer kernels."""
        return sum(p.integer for p in self.products) / len(self.products) if self.products else 1.0

    @property
    def float_names(self) -> list[str]:
        """The products that stay float."""
        return [f"{p.operator} {p.name}" for p in self.products if not p.integer]


def integer_share(path: Path) -> IntegerShare:
    """Load the file in ONNX Runtime and count the products of the graph as it is optimised there."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime_options(1)
        options.optimized_model_filepath = str(optimised)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(optimised)
        shapes = _shapes_by_running(session, model, Path(folder))
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer}
    products = []
    for node in model.graph.node:
        if node.op_type in INTEGER_OPERATORS | FLOAT_OPERATORS:
            macs = _macs(node, weights | shapes)
            products.append(Product(node.name, node.op_type, macs, node.op_type in INTEGER_OPERATORS))
    return IntegerShare(tuple(products))


def random_inputs(session: ort.InferenceSession, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal float32 inputs; masks are ones, boxes lie inside the image."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for item in session.get_inputs():
        value = generator.standard_normal(item.shape).astype(np.float32)
        if "mask" in item.name:
            value = np.ones_like(value)
        if "reference" in item.name:
            value = generator.uniform(0.2, 0.8, item.shape).astype(np.float32)
        inputs[item.name] = value
    return inputs


def _shapes_by_running(session: ort.InferenceSession, model: onnx.ModelProto, folder: Path) -> dict[str, Shape]:
    """Shapes of every value of the optimised graph: run it once with all of them as outputs.

    Shape inference does not know ONNX Runtime's own operators.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {o.name for o in exposed.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    path = folder / "exposed.onnx"
    onnx.save(exposed, path)
    options = onnxruntime_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimised already
    runner = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = random_inputs(session)
    values = runner.run(None, inputs)
    shapes: dict[str, Shape] = {o.name: v.shape for o, v in zip(runner.get_outputs(), values, strict=True)}
    return shapes | {name: value.shape for name, value in inputs.items()}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    output = shapes[node.output[0]]
    if node.op_type in _WEIGHT_INPUT:
        weight = shapes[node.input[_WEIGHT_INPUT[node.op_type]]]
        return math.prod(output) * math.prod(weight[1:])
    first = shapes[node.input[0]]
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * first[-2 if transposed else -1]
