"""The layers of a kernel graph (`base.ort.onnx`, `qim.ort.onnx`) as ONNX Runtime runs them on this host.

The same table as `layers.py` has of a portable graph, of the graph that ONNX Runtime has optimised, for only there is
it decided: every node is a layer, none is fused. Their names are those of ONNX Runtime's own profile. From it, what
runs on integer kernels, and which nodes touch float32. A multiply-accumulate (MAC) is one multiplication of a
convolution or matrix product with its addition.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime import GraphOptimizationLevel

from motrlab.deploy.kernels import exact_form, onnxruntime_session
from motrlab.deploy.layers import Layer, TensorInfo

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


def integer_share(path: Path, weight_bits: int = 8) -> IntegerShare:
    """Of a file as it runs here; `weight_bits` are those of its artefact."""
    layers = layers_of_kernels(path, "", weight_bits=weight_bits)
    products = tuple((x.operator, x.macs) for x in layers if x.operator in INTEGER_OPERATORS | FLOAT_OPERATORS)
    touching = Counter(x.operator for x in layers if any(t.dtype == "float32" for t in (*x.inputs, *x.outputs)))
    inexact = sorted({x.operator for x in layers} - EXACT_OPERATORS)
    return IntegerShare(products, len(layers), dict(touching.most_common()), tuple(inexact))


def layers_of_kernels(path: Path, graph: str, *, weight_bits: int = 8) -> list[Layer]:
    """The layers of an artefact's `GRAPH.ort.onnx` in order of execution; `weight_bits` are those of the artefact."""
    return layers_of_optimised(optimised_model(exact_form(path, weight_bits)), graph)


def layers_of_optimised(model: onnx.ModelProto, graph: str) -> list[Layer]:
    """The layers of a graph that ONNX Runtime has optimised."""
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    values = values_by_running(model) | constants
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    ends = {item.name for item in (*model.graph.input, *model.graph.output)}
    return [_layer(node, graph, values, constants.keys(), ends, _module(node, readers)) for node in model.graph.node]


def _module(node: onnx.NodeProto, readers: dict[str, onnx.NodeProto]) -> str:
    """From the node's name; one that the optimiser has added is counted to whom reads it."""
    while "/" not in node.name:
        if node.output[0] not in readers:
            return "result"
        node = readers[node.output[0]]
    return node.name.partition("/")[0]


def _layer(
    node: onnx.NodeProto, graph: str, values: dict[str, np.ndarray], constants: Set[str], ends: Set[str], module: str
) -> Layer:
    def tensors(names: list[str]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(name, values[name].shape, str(values[name].dtype), end=name in ends) for name in names)

    given = [name for name in node.input if name]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return Layer(
        graph=graph,
        name=node.name,
        module=module,
        operator=node.op_type,
        inputs=tensors([name for name in given if name not in constants]),
        weights=tensors([name for name in given if name in constants]),
        outputs=tensors([name for name in node.output if name]),
        macs=node_macs(node, {name: value.shape for name, value in values.items()}),
        attributes={k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()},
    )


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
