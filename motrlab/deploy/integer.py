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
from onnxruntime import GraphOptimizationLevel

from motrlab.deploy.kernels import onnxruntime_session

INTEGER_OPERATORS = {
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QGemm",
}  # fmt: skip
FLOAT_OPERATORS = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "NhwcFusedConv"}
# Operators whose float32 results are exact by construction (`quantization/functions.py`): one rounding, sums of
# integers, tables, data moved; the grid that follows Exp is a table, and GridSample's coordinates are exact.
EXACT_OPERATORS = INTEGER_OPERATORS | {
    "Abs", "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Exp", "Expand", "Gather", "GridSample", "Max",
    "Mul", "QLinearAdd", "QuantizeLinear", "ReduceMax", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round",
    "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
_WEIGHT_INPUT = {"QLinearConv": 3, "ConvInteger": 1, "Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1}


@dataclass(frozen=True)
class IntegerShare:
    """Products and nodes of one graph. Shares are fractions from 0 to 1; without products all counts as integer.

    `products`: operator and MACs of every convolution and matrix product. `float_nodes`: operator → how many nodes of
    it read or write float32. `inexact`: those not in `EXACT_OPERATORS`.
    """

    products: tuple[tuple[str, int], ...]
    num_nodes: int
    float_nodes: Mapping[str, int]
    inexact: tuple[str, ...]

    @property
    def macs(self) -> int:
        return sum(macs for _, macs in self.products)

    @property
    def macs_share(self) -> float:
        """Of the multiply-accumulates, how many run on integer kernels."""
        return 1 - sum(macs for name, macs in self.products if name in FLOAT_OPERATORS) / max(1, self.macs)

    @property
    def num_float(self) -> int:
        return sum(name in FLOAT_OPERATORS for name, _ in self.products)

    @property
    def nodes_share(self) -> float:
        """Of the products, how many run on integer kernels."""
        return 1 - self.num_float / max(1, len(self.products))

    @property
    def float_share(self) -> float:
        """Of all nodes, how many touch float32."""
        return sum(self.float_nodes.values()) / max(1, self.num_nodes)


def integer_share(path: Path) -> IntegerShare:
    """Load the file in ONNX Runtime and count the nodes of the graph as it is optimised there."""
    model = optimised_model(str(path))
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    values = values_by_running(model) | constants
    shapes = {name: value.shape for name, value in values.items()}
    products, touching = [], Counter[str]()
    for node in model.graph.node:
        if node.op_type in INTEGER_OPERATORS | FLOAT_OPERATORS:
            products.append((node.op_type, node_macs(node, shapes)))
        passing = {*node.input, *node.output} - {""} - constants.keys()
        if any(values[name].dtype == np.float32 for name in passing):
            touching[node.op_type] += 1
    inexact = sorted({node.op_type for node in model.graph.node} - EXACT_OPERATORS)
    return IntegerShare(tuple(products), len(model.graph.node), dict(touching.most_common()), tuple(inexact))


def optimised_model(content: str | bytes) -> onnx.ModelProto:
    """The graph of a file or of a model's bytes as ONNX Runtime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = str(Path(folder) / "optimised.onnx")
        onnxruntime_session(content, 1, optimized_model_filepath=optimised)
        return onnx.load(optimised)


def values_by_running(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Every value of an optimised graph, run once on ones: shape inference does not know ONNX Runtime's operators."""
    known = {"", *(o.name for o in model.graph.output)}
    inner = [name for node in model.graph.node for name in node.output if name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    level = GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimised already
    session = onnxruntime_session(model.SerializeToString(), 1, graph_optimization_level=level)
    kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
    inputs = {i.name: np.ones(i.shape, kinds[i.type]) for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    return inputs | dict(zip(names, session.run(names, inputs), strict=True))


def node_macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of a convolution or a matrix product, four a value of a bilinear sample, 0 of others."""
    numel = math.prod(shapes.get(node.output[0], ()))
    if node.op_type in _WEIGHT_INPUT:
        return numel * math.prod(shapes[node.input[_WEIGHT_INPUT[node.op_type]]][1:])
    if node.op_type in INTEGER_OPERATORS | FLOAT_OPERATORS:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return numel * shapes[node.input[0]][-2 if transposed else -1]
    return 4 * numel if node.op_type == "GridSample" else 0
