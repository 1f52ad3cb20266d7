"""What ONNX Runtime really runs: products on integer kernels, and which nodes touch float32.

Counted on the graph that ONNX Runtime has optimised, not on the file: only there is it decided. A multiply-accumulate
(MAC) is one multiplication of a convolution or matrix product with its addition.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
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
# Operators whose float32 results are exact by construction (`quantization/functions.py`): one rounding, sums of integers,
# tables, data moved; the grid that follows Exp is a table, and GridSample's coordinates are exact.
EXACT_OPERATORS = INTEGER_OPERATORS | {
    "Abs", "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Exp", "Expand", "Gather", "GridSample", "Max",
    "Mul", "QLinearAdd", "QuantizeLinear", "ReduceMax", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
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
    """Products and nodes of one graph. Shares are fractions from 0 to 1; without products all counts as integer.

    `float_nodes`: operator → how many nodes of it read or write float32. `inexact`: operators that are not among
    `EXACT_OPERATORS`.
    """

    products: tuple[Product, ...]
    num_nodes: int
    float_nodes: Mapping[str, int]
    inexact: tuple[str, ...]

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
    def float_share(self) -> float:
        """Of all nodes, how many touch float32."""
        return sum(self.float_nodes.values()) / max(1, self.num_nodes)

    @property
    def float_names(self) -> list[str]:
        """The products that stay float."""
        return [f"{p.operator} {p.name}" for p in self.products if not p.integer]


def integer_share(path: Path) -> IntegerShare:
    """Load the file in ONNX Runtime and count the nodes of the graph as it is optimised there."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = onnxruntime_options(1)
        options.optimized_model_filepath = str(optimised)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        model = onnx.load(optimised)
        values = _values_by_running(session, model, Path(folder))
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    shapes: dict[str, Shape] = {name: x.shape for name, x in (arrays | values).items()}
    kinds = {name: x.dtype for name, x in (arrays | values).items()}
    products = []
    touching: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in INTEGER_OPERATORS | FLOAT_OPERATORS:
            macs = _macs(node, shapes)
            products.append(Product(node.name, node.op_type, macs, node.op_type in INTEGER_OPERATORS))
        passing = [name for name in (*node.input, *node.output) if name and name not in arrays]
        if any(kinds[name] == np.float32 for name in passing):
            touching[node.op_type] += 1
    inexact = sorted({node.op_type for node in model.graph.node} - EXACT_OPERATORS)
    return IntegerShare(tuple(products), len(model.graph.node), dict(touching.most_common()), tuple(inexact))


def random_inputs(session: ort.InferenceSession, seed: int = 0) -> dict[str, np.ndarray]:
    """Standard normal float32 inputs, or random bytes; masks are ones, boxes lie inside the image."""
    generator = np.random.default_rng(seed)
    inputs = {}
    for item in session.get_inputs():
        if item.type == "tensor(uint8)":
            inputs[item.name] = generator.integers(0, 256, item.shape).astype(np.uint8)
            continue
        value = generator.standard_normal(item.shape).astype(np.float32)
        if "mask" in item.name:
            value = np.ones_like(value)
        if "reference" in item.name:
            value = generator.uniform(0.2, 0.8, item.shape).astype(np.float32)
        inputs[item.name] = value
    return inputs


def _values_by_running(session: ort.InferenceSession, model: onnx.ModelProto, folder: Path) -> dict[str, np.ndarray]:
    """Every value of the optimised graph: run it once with all of them as outputs.

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
    return {o.name: v for o, v in zip(runner.get_outputs(), values, strict=True)} | inputs


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    output = shapes[node.output[0]]
    if node.op_type in _WEIGHT_INPUT:
        weight = shapes[node.input[_WEIGHT_INPUT[node.op_type]]]
        return math.prod(output) * math.prod(weight[1:])
    first = shapes[node.input[0]]
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * first[-2 if transposed else -1]
