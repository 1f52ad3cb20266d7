"""Graphs of single kernels, on shapes drawn at random: what `describe_host.py` measures.

Every node reads values that another node has just written, as within a network. No shape is of any preset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from motrlab.deploy.onnx_graph import MICROSOFT, Expr, GraphBuilder

WARMERS = {"float32": "Neg", "uint8": "BitwiseNot"}  # what has just written the values
_LIMITS = 3e3, 1.5e6  # at most in a tensor of a graph; it has one limit for all, as neighbours in networks are alike
_MACS = 100  # of one product, for each of these
Case = Callable[["Bench"], Any]


@dataclass(frozen=True)
class Bench:
    """A graph that is filled with nodes, and where their shapes come from; `most`: values of one tensor."""

    graph: GraphBuilder
    random: np.random.Generator
    most: float

    def size(self, low: float, high: float) -> int:
        """From `low` to `high`, log-uniform."""
        return int(np.exp(self.random.uniform(np.log(low), np.log(max(low, high) + 1))))

    def channels(self) -> int:
        """Of a map: as networks have them, most often a multiple of eight."""
        number = self.size(6, 800)
        return number if self.random.random() < 0.3 else -(-number // 8) * 8

    def shape(self, rank: int = 3) -> tuple[int, ...]:
        """Of a tensor of about 32 values or more, its rows long or short."""
        total, sizes = self.size(32, self.most), list[int]()
        for left in range(rank, 1, -1):
            sizes.append(self.size(2, max(2.0, total ** (1.7 / left))))
            total = max(2, total // sizes[-1])
        return tuple(map(int, self.random.permutation([*sizes, total])))

    def given(self, shape: Sequence[int], kind: str) -> Expr:
        x = self.graph.input(f"input_{len(self.graph.inputs)}", shape, kind)
        return self.graph.op(WARMERS[kind], x)

    def integers(self, *shape: int, kind: Any = np.int8) -> Expr:
        half = np.iinfo(kind).max // 2
        return self.graph.constant(self.random.integers(-half, half, shape, kind))

    def steps(self) -> tuple[Expr, Expr]:
        """Scale and zero point of signed values in bytes."""
        return self.graph.constant(float(self.random.uniform(0.01, 0.02))), self.graph.constant(np.uint8(128))

    def weights(self, channels: int, *shape: int) -> tuple[Expr, Expr, Expr]:
        """Weights, and scale and zero point of each output channel."""
        scales = self.random.uniform(1e-3, 2e-3, channels).astype(np.float32)
        return self.integers(*shape), self.graph.constant(scales), self.graph.constant(np.zeros(channels, np.int8))


def _convolution(bench: Bench, *, spatial: bool = True, depthwise: bool = False) -> None:
    kernel = int(bench.random.choice((3, 5) if depthwise else (3, 3, 5) if spatial else (1,)))
    macs = values = np.inf
    while macs > _MACS * bench.most or values > bench.most:
        height, width, inputs, outputs = bench.size(1, 130), bench.size(4, 260), bench.channels(), bench.channels()
        depth, outputs = (1, inputs) if depthwise else (inputs, outputs)
        macs, values = height * width * outputs * depth * kernel**2, height * width * max(inputs, outputs)
    stride, pad = (int(bench.random.choice((1, 1, 2))), kernel // 2) if kernel > 1 else (1, 0)
    how = {"strides": [stride] * 2, "pads": [pad] * 4, "group": inputs // depth, "kernel_shape": [kernel] * 2}
    given = (bench.given((1, height, width, inputs), "uint8"), *bench.steps())
    weights = bench.weights(outputs, outputs, depth, kernel, kernel)
    bias = bench.integers(outputs, kind=np.int32)
    bench.graph.op("QLinearConv", *given, *weights, *bench.steps(), bias, domain=MICROSOFT, channels_last=1, **how)


def _gemm(bench: Bench) -> None:
    depth, outputs = bench.size(12, 600), bench.size(1, 80)
    rows = bench.size(8, bench.most / depth)
    given = (bench.given((rows, depth), "uint8"), *bench.steps())
    bias, ends = bench.integers(outputs, kind=np.int32), bench.steps() if bench.random.random() < 0.5 else ()
    bench.graph.op("QGemm", *given, *bench.weights(outputs, depth, outputs), bias, *ends, domain=MICROSOFT)


def _batched(bench: Bench) -> None:
    """As attention has both: rows times columns, and rows times few."""
    batches, depth, most = bench.size(2, 12), bench.size(6, 90), bench.most**0.5
    rows, columns = bench.size(8, most), bench.size(6, most)
    depth, columns = (columns, depth) if bench.random.random() < 0.5 else (depth, columns)
    x, y = bench.given((batches, rows, depth), "uint8"), bench.given((batches, depth, columns), "uint8")
    (first, zero), (second, _) = bench.steps(), bench.steps()
    bench.graph.op("MatMulIntegerToFloat", x, y, first, second, zero, zero, domain=MICROSOFT)


def _binary(kind: str, form: str) -> Case:
    def case(bench: Bench) -> None:
        shape = bench.shape()
        if form == "scalar" and bench.random.random() < 0.5:
            shape = *shape[:2], 1  # as sums over the last axis are
        others = {"same": shape, "scalar": (), "rows": shape[2:], "value and row": (*shape[:2], 1)}
        x, other = bench.given(shape, "float32"), others[form]
        y = bench.graph.constant(np.full(other, 0.7, np.float32)) if other == () else bench.given(other, "float32")
        bench.graph.op(kind, *((y, x) if kind == "Div" else (x, y)))

    return case


def _sum_of_bytes(bench: Bench) -> None:
    x, y = (bench.given(shape, "uint8") for shape in [bench.shape()] * 2)
    bench.graph.op("QLinearAdd", x, *bench.steps(), y, *bench.steps(), *bench.steps(), domain=MICROSOFT)


def _unary(kind: str, dtype: str = "float32", **attributes: Any) -> Case:
    return lambda bench: bench.graph.op(kind, bench.given(bench.shape(), dtype), **attributes)


def _with(kind: str, dtype: str, *values: Any, **attributes: Any) -> Case:
    """A node of a tensor and constants."""
    return lambda bench: bench.graph.op(
        kind, bench.given(bench.shape(), dtype), *map(bench.graph.constant, values), **attributes
    )


def _reshape(dtype: str) -> Case:
    return lambda bench: bench.graph.op("Reshape", bench.given(bench.shape(), dtype), bench.graph.shape(-1))


def _transpose(dtype: str, *orders: Sequence[int], last: Sequence[int] = ()) -> Case:
    """`last`: sizes of the last axis."""

    def case(bench: Bench) -> None:
        order = list(orders[bench.random.integers(len(orders))])
        shape = bench.shape(len(order))
        shape = (*shape[:-1], int(bench.random.choice(last))) if last else shape
        bench.graph.op("Transpose", bench.given(shape, dtype), perm=order)

    return case


def _cut(kind: str, dtype: str) -> Case:
    """Split or slice in two, or put two together, at any axis."""

    def case(bench: Bench) -> None:
        shape, axis = bench.shape(), int(bench.random.integers(3))
        first = int(bench.random.integers(1, shape[axis]))
        x, at = bench.given(shape, dtype), bench.graph.shape(axis)
        if kind == "Split":
            bench.graph.ops(kind, x, bench.graph.shape(first, shape[axis] - first), outputs=2, axis=axis)
        elif kind == "Slice":
            bench.graph.op(kind, x, bench.graph.shape(0), bench.graph.shape(first), at)
        else:
            bench.graph.op(kind, x, bench.given(shape, dtype), axis=axis)

    return case


def _gather(bench: Bench) -> None:
    """Of a table of functions, or of rows, by bytes."""
    rows = bench.integers(bench.size(256, 3000), bench.size(2, 100)), bench.integers(256)
    index = bench.given(bench.shape(2), "uint8")
    bench.graph.op("Gather", rows[bench.random.integers(2)], bench.graph.op("Cast", index, to=TensorProto.INT32))


def _sample(bench: Bench) -> None:
    batches, depth, height, width = bench.size(4, 12), bench.size(8, 40), bench.size(6, 50), bench.size(6, 80)
    x = bench.given((batches, depth, height, width), "float32")
    grid = bench.given((batches, bench.size(8, bench.most / depth / batches), bench.size(1, 3), 2), "float32")
    bench.graph.op("GridSample", x, grid, align_corners=0, mode="linear", padding_mode="zeros")


def _expand(bench: Bench) -> None:
    rows, columns, channels = (bench.size(4, bench.most ** (1 / 3)) for _ in range(3))
    x = bench.given((rows, 1, columns, 1, channels), "uint8")
    bench.graph.op("Expand", x, bench.graph.shape(rows, 2, columns, 2, channels))


_SCALE, _ZERO = np.float32(0.02), np.uint8(128)
_BLOCKS, _VALUES = ((1, 0, 2), (0, 2, 1, 3)), ((0, 2, 1), (1, 2, 0), (2, 0, 1))
_SCATTERED = ((2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2), (3, 1, 2, 0))
KINDS: dict[str, tuple[Case, int]] = {  # what → how, and on how many shapes
    "convolution": (_convolution, 80),
    "convolution 1×1": (lambda bench: _convolution(bench, spatial=False), 80),
    "depthwise convolution": (lambda bench: _convolution(bench, depthwise=True), 64),
    "matrix product": (_gemm, 40),
    "products in batches": (_batched, 60),
    "sum of bytes": (_sum_of_bytes, 16),
    "gather": (_gather, 24),
    "sample": (_sample, 16),
    "expand": (_expand, 12),
    "quantise": (_with("QuantizeLinear", "float32", _SCALE, _ZERO), 20),
    "dequantise": (_with("DequantizeLinear", "uint8", _SCALE, _ZERO), 20),
    "clip": (_with("Clip", "float32", np.float32(-0.5), np.float32(0.5)), 16),
    "clip bytes": (_with("Clip", "uint8", np.uint8(3), np.uint8(200)), 12),
    **{f"reshape {dtype}": (_reshape(dtype), 8) for dtype in WARMERS},
    **{f"{kind} {form}": (_binary(kind, form), 32 if form == "scalar" else 16)
       for kind in ("Add", "Mul", "Sub", "Div") for form in ("same", "scalar", "rows", "value and row")},
    "Max scalar": (_binary("Max", "scalar"), 12),
    **{kind: (_unary(kind), 16) for kind in ("Abs", "Exp", "Relu", "Round", "Sqrt")},
    "Cast float32": (_unary("Cast", to=TensorProto.INT32), 12),
    "Cast uint8": (_unary("Cast", "uint8", to=TensorProto.INT32), 12),
    **{kind: (_with(kind, "float32", np.array([-1]), keepdims=1), 16)
       for kind in ("ReduceMax", "ReduceSum", "ReduceSumSquare")},
    **{f"{kind} {dtype}": (_cut(kind, dtype), 16)
       for kind in ("Concat", "Slice", "Split") for dtype in ("uint8", "float32")},
    **{f"Transpose {dtype} {orders}": (_transpose(dtype, *orders), 6 * len(orders) + 20)
       for dtype in ("uint8", "float32") for orders in (_BLOCKS, _VALUES, _SCATTERED)},
    "Transpose uint8 words": (_transpose("uint8", *_BLOCKS, last=(2, 4, 8)), 16),
    "Transpose float32 words": (_transpose("float32", *_BLOCKS, last=(1, 2)), 16),
}  # fmt: skip


def bench_model(cases: Sequence[Case], random: np.random.Generator) -> onnx.ModelProto:
    """A graph of a node of each case; every value that nobody reads is an output."""
    bench = Bench(GraphBuilder(), random, float(np.exp(random.uniform(*np.log(_LIMITS)))))
    for case in cases:
        case(bench)
    read = {name for node in bench.graph.nodes for name in node.input}
    ends = [name for node in bench.graph.nodes for name in node.output if name not in read]
    model = bench.graph.model({name: (Expr(bench.graph, name), ()) for name in ends}, {})
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
    return model


def random_inputs(model: onnx.ModelProto, random: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for item in model.graph.input:
        shape = [d.dim_value for d in item.type.tensor_type.shape.dim]
        if item.type.tensor_type.elem_type == TensorProto.UINT8:
            found[item.name] = random.integers(0, 256, shape, np.uint8)
        else:
            found[item.name] = random.uniform(-1, 1, shape).astype(np.float32)
    return found
