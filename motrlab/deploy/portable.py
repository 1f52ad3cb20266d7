"""The network as ONNX graphs that other tools read: `base.onnx` and `qim.onnx`, float or with all tensors on grids.

Standard operators on `[1, C, R, W]`, every projection a 1×1 convolution, as the reference has them. With grids, a
QuantizeLinear / DequantizeLinear pair stands at every tensor, weights are int8 per output channel, biases int32. What
is between the pairs is float: rounding differs from the exact integers (`kernel_graph.py`) now and then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn

from motrlab.deploy.onnx_graph import Expr
from motrlab.deploy.onnx_operations import Node, OnnxOperations, Shape, convolved, fixed_boxes, onnx_graphs
from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph, DetectQueries
from motrlab.model.motr import Motr
from motrlab.model.operations import EPSILON, LARGEST_SIZE, LEAST_SIZE, MASKED, SIZE_LIMIT, sine_frequencies
from motrlab.quantization import functions
from motrlab.quantization.grids import CONSTANT_SCALE
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Value

GRID_SCALE = 1 / 256  # of sampling positions from -1 to 1, int16


class PortableOperations(OnnxOperations):
    """Writes standard operators, with a pair of quantisers at every tensor where there are `grids`."""

    def _pair(self, x: Expr, scale: float, kind: Any = None) -> Expr:
        """A QuantizeLinear / DequantizeLinear pair, by default of signed 8-bit integers; nothing in float.

        Those are uint8 with zero point 128, unless the scheme is for chips that know signed ones only: ONNX Runtime
        1.31 wants an option for int8 (`kernels.onnxruntime_session`), and OpenVINO 2026.4 computes nonsense of it.
        """
        if self.grids is None:
            return x
        zero = kind(0) if kind else np.int8(0) if self.grids.scheme.signed_only else np.uint8(128)
        constants = (self.xp.const(scale), self.graph.constant(zero))
        return self.graph.op("DequantizeLinear", self.graph.op("QuantizeLinear", x, *constants), *constants)

    def _fractions(self, x: Expr, *, below_one: bool = False) -> Expr:
        """The pair of values from 0 to 1, on the scheme's levels; with `below_one` 1 itself is left out."""
        levels = self.grids.scheme.levels if self.grids else 255
        return self._pair(x, 1 / (levels + below_one), np.uint8 if levels > 127 else np.int8)

    def _node(self, owner: nn.Module | str, x: Expr, shape: Shape, part: str = "") -> Node:
        """The tensor of `owner`, or a part of it, on its grid."""
        spec = self.spec(owner, part)
        if spec is None or self.grids is None:
            return Node(x, shape)
        kind = np.int16 if spec.bits == 16 else np.uint8 if spec.unsigned else None
        scale = float(self.grids.scale(spec))
        return Node(self.name(spec, self._pair(x, scale, kind) if spec.quantised else x), shape, scale)

    def _parameters(self, owner: nn.Module, layer: Any, x: Node) -> list[Expr]:
        """Weight and bias of the product that is called after `owner`."""
        graph = self.graph
        if self.grids is None or not self.spec(owner).quantised:
            return [graph.constant(p.detach().numpy()) for p in (layer.weight, layer.bias)]
        integers, found = self.grids.layer(x, self.spec(owner), layer), []
        stored = ((integers.weight, integers.scale, np.int8), (integers.bias, integers.step, np.int32))
        for values, scale, kind in stored:
            steps = graph.constant(values.double().numpy().astype(kind))
            zeros = graph.constant(np.zeros(len(scale), kind))
            found.append(graph.op("DequantizeLinear", steps, graph.constant(scale.numpy()), zeros, axis=0))
        return found

    def image(self, image: Expr) -> Node:
        return self._node("image", image, (1, 3, self.config.height, self.config.width))

    def input(self, name: str, x: Expr) -> Node:
        return self._node(name, x, self.track_shape(self.config.d_model))

    def output(self, x: Node) -> Expr:
        return x.value

    def constant(self, x: Tensor, scale: Any = CONSTANT_SCALE) -> Node:
        return Node(self._pair(self.graph.constant(x.detach().numpy()), scale), tuple(x.shape), scale)

    def learned(self, detect: DetectQueries) -> Node | None:
        """Values on their grid, without a pair: OpenVINO 2026.4 cannot add one of a constant to another."""
        if self.grids is None:
            return None
        learned = self.grids.learned(detect)
        return Node(self.graph.constant(learned.real.numpy()), tuple(learned.shape), learned.scale)

    def slots(self, detect: DetectQueries, track_query: Node) -> Node:
        learned = Value(detect.query) if self.grids is None else self.grids.detect_query(detect)
        return self.cat([self.constant(learned.real, learned.scale), track_query])

    def references(self, detect: DetectQueries, track_reference: Expr) -> Expr:
        """`[4, N]`."""
        flat = track_reference.reshape(4, self.config.num_track)
        learned = self.graph.constant(fixed_boxes(detect.reference()).T)
        return self._pair(self.graph.cat([learned, flat], 1), 1 / functions.REFERENCE, np.int16)

    def masks(self, mask: Expr, num_detect: int) -> tuple[Expr, Expr]:
        track = (mask - 1.0) * -MASKED
        zeros = self.graph.constant(np.zeros((1, 1, 1, num_detect), np.float32))
        return track, self.graph.cat([zeros, track], 3) if num_detect else track

    def bias(self, masked: Expr, overlap: OverlapBias | None = None, reference: Any = None) -> Expr:
        if overlap is None:
            return masked
        return masked + self.graph.op("Unsqueeze", self.overlap(overlap, reference), self.graph.shape(0))

    def upsample(self, x: Node, like: Node) -> Node:
        shape = (*x.shape[:2], *like.shape[2:])
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        value = self.graph.op("Resize", x.value, None, None, self.graph.shape(*shape), **how)
        return replace(x, value=value, shape=shape)

    def conv(self, layer: Any, x: Node) -> Node:
        conv = layer[0]
        how = {"strides": list(conv.stride), "pads": [*conv.padding] * 2, "group": conv.groups}
        operands = (x.value, *self._parameters(layer, conv, x))
        y = self.graph.op("Conv", *operands, kernel_shape=list(conv.kernel_size), **how)
        if len(layer) > 2:
            y = self.xp.clip(y, 0.0, 6.0) if isinstance(layer[2], nn.ReLU6) else self.xp.relu(y)
        return self._node(layer, y, convolved(conv, x.shape))

    def linear(self, layer: Any, x: Node, *, relu: bool = False) -> Node:
        y = self.graph.op("Conv", x.value, *self._parameters(layer, layer, x), kernel_shape=[1, 1])
        return self._node(layer, self.xp.relu(y) if relu else y, (1, layer.out_channels, *x.shape[2:]))

    def head(self, layer: Any, x: Node) -> Expr:
        """`[1, out, R, W]`."""
        return self._tokens(layer, x).transpose(0, 2, 1).reshape(1, layer.out_features, *x.shape[2:])

    def _tokens(self, layer: Any, x: Node) -> Expr:
        """A `TokenLinear`: `[1, N, out]`."""
        weight, bias = self._parameters(layer, layer, x)
        tokens = x.value.reshape(1, x.shape[1], -1).transpose(0, 2, 1)
        return self.graph.op("MatMul", tokens, weight.transpose(1, 0)) + bias

    def add(self, owner: nn.Module, x: Node, y: Node) -> Node:
        return self._node(owner, x.value + y.value, x.shape)

    def blend(self, owner: nn.Module, x: Node, y: Node, share: float) -> Node:
        return self._node("memory", x.value * (1 - share) + y.value * share, x.shape)

    def norm(self, norm: Any, x: Node, branch: Node) -> Node:
        rows = (x.value + branch.value).transpose(0, 2, 3, 1)
        parameters = (self.graph.constant(p.detach().numpy()) for p in (norm.weight, norm.bias))
        y = self.graph.op("LayerNormalization", rows, *parameters, axis=-1, epsilon=norm.eps)
        return self._node(norm, y.transpose(0, 3, 1, 2), x.shape)

    def attention(self, attention: Attention, query_key: Node, value: Node, bias: Expr) -> Node:
        heads, depth, graph = attention.num_heads, attention.head_channels, self.graph
        layers = ((attention.query, query_key), (attention.key, query_key), (attention.value, value))
        q, k, v = (self.linear(layer, x).value.reshape(1, heads, depth, -1) for layer, x in layers)
        logits = graph.op("MatMul", q.transpose(0, 1, 3, 2), k) * (1 / math.sqrt(depth))
        logits = self._pair(logits + bias, 1 / functions.LOGIT, np.int16)
        share = self._fractions(graph.op("Softmax", logits, axis=-1))
        mixed = graph.op("MatMul", share, v.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)  # [1, M, D, N]
        return self._node(attention, mixed.reshape(*query_key.shape), query_key.shape, ".mixed")

    def sample(self, attention: DeformableAttention, query: Node, reference: Any, value: Node) -> Node:
        heads, points, graph = attention.num_heads, attention.num_points, self.graph
        tokens = query.shape[2] * query.shape[3]
        if isinstance(reference, Tensor):
            reference = graph.constant(fixed_boxes(reference).T)
        centre, size = reference.transpose(1, 0).reshape(tokens, 1, 4).split((2, 2), 2)
        steps = self._tokens(attention.offsets, query).reshape(tokens, heads * points, 2)
        grid = self._pair((centre * 2.0 - 1.0) + steps * (size * (1 / points)), GRID_SCALE, np.int16)
        grid = grid.reshape(tokens, heads, points, 2).transpose(1, 0, 2, 3)
        maps = value.value.reshape(heads, attention.head_channels, *value.shape[2:])
        sampled = graph.op("GridSample", maps, grid, align_corners=0, mode="linear", padding_mode="zeros")
        weight = graph.op("Sigmoid", self._pair(self._tokens(attention.weights, query), 1 / functions.LOGIT))
        weight = self._fractions(weight, below_one=True).reshape(tokens, heads, 1, points)
        mixed = graph.op("ReduceSum", sampled * weight.transpose(1, 2, 0, 3), graph.shape(-1), keepdims=0)
        return self._node(attention, mixed.reshape(*query.shape), query.shape, ".mixed")

    def sine(self, reference: Expr, channels: int) -> Node:
        graph, shape = self.graph, self.slot_shape(4 * channels)
        frequencies = sine_frequencies(channels).numpy()[:, None]
        angle = reference.reshape(4, 1, self.config.num_slots) * graph.constant(frequencies)
        code = graph.cat([graph.op("Sin", angle), graph.op("Cos", angle)], 1)
        return self._node("position.sine", code.reshape(*shape), shape)

    def refine(self, base: BaseGraph, delta: Expr, reference: Expr) -> Expr:
        """Box output `[4, N]` of a delta `[1, 4, R, W]`."""
        graph, xp = self.graph, self.xp
        delta = self._pair(delta.reshape(4, self.config.num_slots), 1 / functions.DELTA, np.int16)
        if not base.config.relative_boxes:
            x = xp.clip(reference, EPSILON, 1 - EPSILON)
            return graph.op("Log", x / (xp.const(1.0) - x)) + delta
        (dc, ds), (centre, size) = (x.split((2, 2), 0) for x in (delta, reference))
        grown = xp.clip(size * xp.exp(xp.clip(ds, -SIZE_LIMIT, SIZE_LIMIT)), LEAST_SIZE, LARGEST_SIZE)
        return self._pair(graph.cat([centre + dc * size, grown], 0), 1 / functions.REFERENCE, np.int16)

    def next_reference(self, base: BaseGraph, boxes: Expr) -> Expr:
        if base.config.relative_boxes:
            return boxes
        return self._pair(self.graph.op("Sigmoid", boxes), 1 / functions.REFERENCE, np.int16)


def portable_graphs(model: Motr | QuantizedMotr) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` of a folded float model, or of a quantised one, in mode `evaluate`, with tensors on grids."""
    if isinstance(model, Motr):
        return onnx_graphs(PortableOperations, model, None)
    assert model.current_mode == "evaluate", model.current_mode
    return onnx_graphs(PortableOperations, model.model, model.net)
