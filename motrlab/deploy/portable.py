"""The network as ONNX graphs that other tools read: `base.onnx` and `qim.onnx`, in float or with every tensor on its grid.

Standard operators on `[1, C, R, W]`, every projection a 1×1 convolution, as the reference has them. With grids, a
QuantizeLinear / DequantizeLinear pair stands at every tensor, weights are int8 per output channel, biases int32. What is
between the pairs is float: rounding differs from the exact integers (`kernel_graph.py`) now and then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from motrlab.deploy.onnx_graph import Expr, OnnxArithmetic
from motrlab.deploy.onnx_operations import Node, OnnxOperations, Shape, convolved, fixed_boxes, onnx_graphs
from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph, DetectQueries
from motrlab.model.motr import Motr
from motrlab.model.operations import EPSILON, LARGEST_SIZE, LEAST_SIZE, MASKED, SIZE_LIMIT, sine_frequencies
from motrlab.quantization import functions
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.grids import CONSTANT_SCALE
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec

GRID_SCALE = 1 / 256  # of sampling positions from -1 to 1, int16


class PortableOperations(OnnxOperations):
    """Writes standard operators, with a pair of quantisers at every tensor where there are `grids`."""

    def __init__(self, model: Motr, grids: GridOperations | None) -> None:
        super().__init__(model, grids)
        self.xp = OnnxArithmetic(self.graph)

    def _pair(self, x: Expr, scale: Any, kind: Any = None) -> Expr:
        """A QuantizeLinear / DequantizeLinear pair; by default of signed 8-bit integers.

        Those are uint8 with zero point 128, unless the scheme is for chips that know signed ones only: ONNX Runtime
        1.31 refuses int8 of its own making above its basic level, and OpenVINO 2026.4 computes nonsense of it.
        """
        assert self.grids is not None
        zero = kind(0) if kind else np.int8(0) if self.grids.scheme.signed_only else np.uint8(128)
        constants = (self.xp.const(functions.f32(scale)), self.graph.constant(zero))
        return self.graph.op("DequantizeLinear", self.graph.op("QuantizeLinear", x, *constants), *constants)

    def _on_grid(self, spec: TensorSpec | None, x: Expr, shape: Shape) -> Node:
        if spec is None or self.grids is None:
            return Node(x, shape)
        kind = np.int16 if spec.bits == 16 else np.uint8 if spec.unsigned else None
        scale = float(self.grids.scale(spec))
        return Node(self.name(spec, self._pair(x, scale, kind)), shape, scale)

    def _fixed(self, x: Expr, scale: float, kind: Any = np.int16) -> Expr:
        """A tensor inside a function on the grid that this is defined on."""
        return self._pair(x, scale, kind) if self.grids is not None else x

    def _parameters(self, x: Node, spec: TensorSpec | None, layer: Any) -> tuple[Expr, Expr]:
        """Weight and bias of a product."""
        if spec is None or self.grids is None:
            return self.graph.constant(layer.weight.detach().numpy()), self.graph.constant(layer.bias.detach().numpy())
        integers = self.grids.layer(x.scale, spec, layer)
        parts = []
        for values, scale, kind in (
            (integers.weight, integers.scale, np.int8),
            (integers.bias, integers.step, np.int32),
        ):
            stored = self.graph.constant(values.double().numpy().astype(kind))
            zeros = self.graph.constant(np.zeros(len(scale), kind))
            parts.append(self.graph.op("DequantizeLinear", stored, self.graph.constant(scale.numpy()), zeros, axis=0))
        return parts[0], parts[1]

    # Inputs and outputs.

    def image(self, image: Expr) -> Node:
        return self._on_grid(self.spec("image", "input"), image, (1, 3, self.config.height, self.config.width))

    def input(self, name: str, x: Expr) -> Node:
        return self._on_grid(self.spec(name, "input"), x, self.track_shape(self.config.d_model))

    def output(self, x: Node) -> Expr:
        return x.value

    def constant(self, x: Tensor) -> Node:
        if self.grids is None:
            return Node(self.graph.constant(x.detach().numpy()), tuple(x.shape))
        return Node(self._pair(self.graph.constant(x.numpy()), CONSTANT_SCALE), tuple(x.shape), CONSTANT_SCALE)

    def slots(self, detect: DetectQueries, track_query: Node) -> Node:
        if self.grids is None:
            learned = Node(self.graph.constant(detect.query.detach().numpy()), tuple(detect.query.shape))
            return self.cat([learned, track_query])
        values = self.grids.detect_query(detect)
        query = self._pair(self.graph.constant(values.real.numpy()), values.scale)
        return self.cat([Node(query, tuple(values.shape), values.scale), track_query])

    def references(self, detect: DetectQueries, track_reference: Expr) -> Expr:
        """`[4, N]`."""
        flat = self.graph.reshape(track_reference, 4, self.config.num_track)
        learned = self.graph.constant(detect.reference().detach().flatten(2)[0].numpy())
        return self._fixed(self.graph.cat([learned, flat], 1), 1 / functions.REFERENCE)

    def masks(self, mask: Expr, num_detect: int) -> tuple[Expr, Expr]:
        track = (mask - self.xp.const(1.0)) * self.xp.const(-MASKED)
        zeros = self.graph.constant(np.zeros((1, 1, 1, num_detect), np.float32))
        return track, self.graph.cat([zeros, track], 3) if num_detect else track

    def bias(self, masked: Expr, overlap: OverlapBias | None = None, reference: Any = None) -> Expr:
        if overlap is None:
            return masked
        graph, number = self.graph, self.config.num_slots
        centre, size = graph.split(reference * self.xp.const(0.5), (2, 2), 0)
        pair = [graph.reshape(x, 2, *s) for x in (centre, size) for s in ((number, 1), (1, number))]
        across, down = graph.split(functions.overlap(self.xp, *pair), (1, 1), 0)
        factors = self.xp.const(overlap.factors(number).detach().numpy())
        return masked + graph.op("Unsqueeze", across * down * factors, graph.shape(0))

    def upsample(self, x: Node, like: Node) -> Node:
        sizes = self.graph.shape(*x.shape[:2], *like.shape[2:])
        value = self.graph.op(
            "Resize", x.value, None, None, sizes, mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )  # fmt: skip
        return replace(x, value=value, shape=(*x.shape[:2], *like.shape[2:]))

    # Products.

    def conv(self, layer: Any, x: Node) -> Node:
        conv, spec = layer[0], self.spec(layer, "conv")
        how = {"strides": list(conv.stride), "pads": [*conv.padding, *conv.padding], "group": conv.groups}
        y = self.graph.op("Conv", x.value, *self._parameters(x, spec, conv), kernel_shape=list(conv.kernel_size), **how)
        if len(layer) > 2:
            y = self.xp.clip(y, 0.0, 6.0) if isinstance(layer[2], nn.ReLU6) else self.xp.relu(y)
        return self._on_grid(spec, y, convolved(conv, x.shape))

    def linear(self, layer: Any, x: Node, *, relu: bool = False) -> Node:
        spec = self.spec(layer, "linear")
        y = self._pointwise(layer, x, spec)
        return self._on_grid(spec, self.xp.relu(y) if relu else y, (1, layer.out_channels, *x.shape[2:]))

    def _pointwise(self, layer: Any, x: Node, spec: TensorSpec | None) -> Expr:
        weight, bias = self._parameters(x, spec, layer)
        return self.graph.op("Conv", x.value, weight, bias, kernel_shape=[1, 1])

    def head(self, layer: Any, x: Node) -> Expr:
        """`[1, out, R, W]`."""
        return self.graph.reshape(
            self.graph.transpose(self._tokens(layer, x), 0, 2, 1), 1, layer.out_features, *x.shape[2:]
        )

    def _tokens(self, layer: Any, x: Node) -> Expr:
        """A `TokenLinear`: `[1, N, out]`."""
        weight, bias = self._parameters(x, self.spec(layer, "head"), layer)
        tokens = self.graph.transpose(self.graph.reshape(x.value, 1, x.shape[1], -1), 0, 2, 1)
        return self.graph.op("MatMul", tokens, self.graph.transpose(weight, 1, 0)) + bias

    # Functions.

    def add(self, owner: nn.Module, x: Node, y: Node) -> Node:
        return self._on_grid(self.spec(owner, "sum"), x.value + y.value, x.shape)

    def blend(self, owner: nn.Module, x: Node, y: Node, share: float) -> Node:
        mixed = x.value * self.xp.const(1 - share) + y.value * self.xp.const(share)
        return self._on_grid(self.spec("memory", "sum"), mixed, x.shape)

    def norm(self, norm: Any, x: Node, branch: Node) -> Node:
        rows = self.graph.transpose(x.value + branch.value, 0, 2, 3, 1)
        weight, bias = (self.graph.constant(p.detach().numpy()) for p in (norm.weight, norm.bias))
        y = self.graph.op("LayerNormalization", rows, weight, bias, axis=-1, epsilon=norm.eps)
        return self._on_grid(self.spec(norm, "norm"), self.graph.transpose(y, 0, 3, 1, 2), x.shape)

    def attention(self, attention: Attention, query_key: Node, value: Node, bias: Expr) -> Node:
        heads, depth, graph = attention.num_heads, attention.head_channels, self.graph
        layers = ((attention.query, query_key), (attention.key, query_key), (attention.value, value))
        q, k, v = (graph.reshape(self.linear(layer, x).value, 1, heads, depth, -1) for layer, x in layers)
        logits = graph.op("MatMul", graph.transpose(q, 0, 1, 3, 2), k) * self.xp.const(1 / math.sqrt(depth))
        logits = self._fixed(logits + bias, 1 / functions.LOGIT) if self.grids is not None else logits + bias
        share = self._fixed(graph.op("Softmax", logits, axis=-1), 1 / 255, np.uint8)
        mixed = graph.op("MatMul", share, graph.transpose(v, 0, 1, 3, 2))  # [1, M, N, D]
        joined = graph.reshape(graph.transpose(mixed, 0, 1, 3, 2), *query_key.shape)
        return self._on_grid(self.mixed_spec(attention, "attention"), joined, query_key.shape)

    def sample(self, attention: DeformableAttention, query: Node, reference: Any, value: Node) -> Node:
        heads, points, depth, graph = attention.num_heads, attention.num_points, attention.head_channels, self.graph
        tokens = query.shape[2] * query.shape[3]
        if isinstance(reference, Tensor):
            reference = graph.constant(fixed_boxes(reference).T)
        centre, size = graph.split(graph.reshape(graph.transpose(reference, 1, 0), tokens, 1, 4), (2, 2), 2)
        steps = graph.reshape(self._tokens(attention.offsets, query), tokens, heads * points, 2)
        grid = (centre * self.xp.const(2.0) - self.xp.const(1.0)) + steps * (size * self.xp.const(1 / points))
        grid = self._fixed(grid, GRID_SCALE)
        grid = graph.transpose(graph.reshape(grid, tokens, heads, points, 2), 1, 0, 2, 3)
        maps = graph.reshape(value.value, heads, depth, *value.shape[2:])
        sampled = graph.op("GridSample", maps, grid, align_corners=0, mode="linear", padding_mode="zeros")
        weight = graph.op("Sigmoid", self._fixed(self._tokens(attention.weights, query), 1 / functions.LOGIT, None))
        weight = graph.reshape(self._fixed(weight, 1 / 256, np.uint8), tokens, heads, 1, points)
        mixed = sampled * graph.transpose(weight, 1, 2, 0, 3)
        mixed = graph.op("ReduceSum", mixed, graph.shape(-1), keepdims=0)
        return self._on_grid(self.mixed_spec(attention, "sampling"), graph.reshape(mixed, *query.shape), query.shape)

    def sine(self, reference: Expr, channels: int) -> Node:
        config, graph = self.config, self.graph
        frequencies = sine_frequencies(channels).numpy()[:, None]
        angle = graph.reshape(reference, 4, 1, config.num_slots) * graph.constant(frequencies)
        code = graph.cat([graph.op("Sin", angle), graph.op("Cos", angle)], 1)
        shape = (1, 4 * channels, config.num_slots // config.slot_columns, config.slot_columns)
        return self._on_grid(self.spec("position.sine", "input"), graph.reshape(code, *shape), shape)

    def refine(self, base: BaseGraph, delta: Expr, reference: Expr) -> Expr:
        """Box output `[4, N]` of a delta `[1, 4, R, W]`."""
        graph, const = self.graph, self.xp.const
        delta = self._fixed(graph.reshape(delta, 4, self.config.num_slots), 1 / functions.DELTA)
        if not base.config.relative_boxes:
            x = self.xp.clip(reference, EPSILON, 1 - EPSILON)
            return graph.op("Log", x / (const(1.0) - x)) + delta
        (dc, ds), (centre, size) = (graph.split(x, (2, 2), 0) for x in (delta, reference))
        growth = self.xp.exp(self.xp.clip(ds, -SIZE_LIMIT, SIZE_LIMIT))
        grown = self.xp.clip(size * growth, LEAST_SIZE, LARGEST_SIZE)
        return self._fixed(graph.cat([centre + dc * size, grown], 0), 1 / functions.REFERENCE)

    def next_reference(self, base: BaseGraph, boxes: Expr) -> Expr:
        if base.config.relative_boxes:
            return boxes
        return self._fixed(self.graph.op("Sigmoid", boxes), 1 / functions.REFERENCE)


def float_graphs(model: Motr) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` of a folded float model."""
    return onnx_graphs(PortableOperations, model, None)


def portable_graphs(quantised: QuantizedMotr) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` with every tensor on its grid; `quantised` must be in mode `evaluate`."""
    assert quantised.current_mode == "evaluate", quantised.current_mode
    return onnx_graphs(PortableOperations, quantised.model, quantised.net)
