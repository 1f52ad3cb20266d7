"""The exact integers as ONNX graphs for ONNX Runtime's kernels: `base.ort.onnx` and `qim.ort.onnx`.

Every tensor between two operations is uint8 (signed ones with zero point 128: what the fast kernels of every processor
take), channels last, `[1, R, W, C]`. Products are QLinearConv or QGemm; functions are those of
`quantization/functions.py`. The image enters as bytes, `uint8 [1, H, W, 3]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from motrlab.deploy.onnx_graph import MICROSOFT, Expr, OnnxArithmetic
from motrlab.deploy.onnx_operations import Node, OnnxOperations, Shape, convolved, fixed_boxes, onnx_graphs
from motrlab.errors import UserError
from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph, DetectQueries
from motrlab.quantization import functions
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.grids import CONSTANT_SCALE
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec, Value
from motrlab.quantization.torch_arithmetic import IntegerLayer


class KernelArithmetic(OnnxArithmetic):
    """With the kernels that ONNX Runtime has."""

    tokens = 0  # of the attention that is written

    def zero(self, unsigned: bool) -> Expr:
        return self.graph.constant(np.uint8(0 if unsigned else 128))

    def quantise(self, steps: Expr, *, unsigned: bool = False, scale: Any = 1.0) -> Expr:
        return self.graph.op("QuantizeLinear", steps, self.const(scale), self.zero(unsigned))

    def dequantise(self, x: Expr, *, unsigned: bool = False, scale: Any = 1.0) -> Expr:
        return self.graph.op("DequantizeLinear", x, self.const(scale), self.zero(unsigned))

    def unsigned_grid(self, x: Expr, levels: int) -> Expr:
        return self.quantise(x, unsigned=True, scale=1 / levels)

    def matmul(self, x: Expr, y: Expr, factor: Any, *, unsigned: bool = False) -> Expr:
        """`unsigned`: `x` is."""
        factors = (self.const(factor), self.const(1.0))
        zeros = (self.zero(unsigned), self.zero(False))
        return self.graph.op("MatMulIntegerToFloat", x, y, *factors, *zeros, domain=MICROSOFT)

    def weighted(self, shares: Expr, value: Expr) -> tuple[Expr, Expr]:
        ones = self.graph.constant(np.full((1, self.tokens, 1), 128 + functions.ONE, np.uint8))
        mixed, total = (self.matmul(shares, y, 1.0, unsigned=True) for y in (value, ones))
        return mixed, total


class KernelOperations(OnnxOperations):
    """Writes the integer form of a calibrated model."""

    arithmetic = KernelArithmetic
    xp: KernelArithmetic
    row_axis = 1
    image_input = ("uint8", True)
    grids: GridOperations

    def _node(self, spec: TensorSpec, value: Expr, shape: Shape) -> Node:
        """A tensor that stands on its grid."""
        unsigned = spec.low == 0
        if unsigned and spec.high < 255:
            value = self.graph.op("Clip", value, self.xp.zero(True), self.graph.constant(np.uint8(spec.high)))
        return Node(self.name(spec, value), shape, float(self.grids.scale(spec)), unsigned)

    def _constant(self, value: Value) -> Node:
        """Signed integers `[1, C, R, W]`."""
        steps = self.graph.constant((value.data.permute(0, 2, 3, 1) + 128).numpy().astype(np.uint8))
        return Node(steps, tuple(value.shape), value.scale)

    def image(self, image: Expr) -> Node:
        shape = (1, 3, self.config.height, self.config.width)
        return Node(image, shape, float(self.grids.scale(self.spec("image"))))

    def input(self, name: str, x: Expr) -> Node:
        spec = self.spec(name)
        value = self.xp.quantise(functions.entered(self.xp, x, self.grids.scale(spec))).transpose(0, 2, 3, 1)
        return self._node(spec, value, self.track_shape(self.config.d_model))

    def output(self, x: Node) -> Expr:
        return self.xp.dequantise(x.value.transpose(0, 3, 1, 2), unsigned=x.unsigned, scale=x.scale)

    def result(self, x: Expr, channels: int) -> tuple[Expr, Shape]:
        return super().result(x.transpose(1, 0), channels)

    def constant(self, x: Tensor) -> Node:
        return self._constant(Value((x.double() * 127).round(), CONSTANT_SCALE))

    def learned(self, detect: DetectQueries) -> Node:
        return self._constant(self.grids.learned(detect))

    def slots(self, detect: DetectQueries, track_query: Node) -> Node:
        return self.cat([self._constant(self.grids.detect_query(detect)), track_query])

    def references(self, detect: DetectQueries, track_reference: Expr) -> Expr:
        """All references `[N, 4]` as float fractions on their grid."""
        learned = self.grids.references(detect, torch.zeros(1, 4, 0, self.config.slot_columns))
        flat = track_reference.reshape(4, self.config.num_track).transpose(1, 0)
        tracked = functions.on_reference_grid(self.xp, flat)
        return self.graph.cat([self.graph.constant(fixed_boxes(learned)), tracked], 0)

    def masks(self, mask: Expr, num_detect: int) -> tuple[Expr, Expr]:
        flat = mask.reshape(1, 1, self.config.num_track)
        track = (self.xp.const(1.0) - flat) * functions.HIDDEN
        zeros = self.graph.constant(np.zeros((1, 1, num_detect), np.float32))
        return track, self.graph.cat([zeros, track], 2) if num_detect else track

    def bias(self, masked: Expr, overlap: OverlapBias | None = None, reference: Any = None) -> Any:
        if overlap is None:
            return masked, None
        return masked, self.overlap(overlap, reference.transpose(1, 0), functions.LOGIT)

    def upsample(self, x: Node, like: Node) -> Node:
        _, channels, height, width = x.shape
        blocks, doubled = x.value.reshape(height, 1, width, 1, channels), (2 * height, 2 * width)
        value = self.graph.op("Expand", blocks, self.graph.shape(height, 2, width, 2, channels))
        value = value.reshape(1, *doubled, channels)
        for axis in (1, 2):
            if like.shape[axis + 1] < doubled[axis - 1]:
                value = value.slice(0, like.shape[axis + 1], axis)
        return replace(x, value=value, shape=(1, channels, *like.shape[2:]))

    def conv(self, layer: Any, x: Node) -> Node:
        conv, spec = layer[0], self.spec(layer)
        integers, shape = self.grids.layer(x, spec, conv), convolved(conv, x.shape)
        if (x.shape[1], conv.kernel_size, conv.stride, x.shape[3] % 4) == (3, (3, 3), (2, 2), 0):
            return self._stem(x, integers, spec, shape)
        return self._product(x, integers, spec, shape, conv.stride, [*conv.padding] * 2, conv.groups)

    def _stem(self, x: Node, layer: IntegerLayer, spec: TensorSpec, shape: Shape) -> Node:
        """A 3×3 convolution of stride 2 on three channels: four pixels side by side are one of twelve channels, and two
        results side by side one of twice as many. That moves no data, and takes a third of the time.
        """
        _, out, height, width = shape
        view = replace(x, value=x.value.reshape(1, x.shape[2], x.shape[3] // 4, 12))
        pair = replace(layer.reordered(np.tile(np.arange(out), 2)), weight=_side_by_side(layer.weight))
        node = self._product(view, pair, spec, shape, (2, 1), [1, 1, 1, 0])
        return replace(node, value=node.value.reshape(1, height, width, out))

    def linear(self, layer: nn.Module, x: Node, *, relu: bool = False) -> Node:
        spec = self.spec(layer)
        return self._product(x, self.grids.layer(x, spec, layer), spec)

    def _product(
        self, x: Node, layer: IntegerLayer, spec: TensorSpec, shape: Shape | None = None,
        strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), group: int = 1,
    ) -> Node:  # fmt: skip
        """A convolution, by default 1×1."""
        weight = layer.weight.numpy()
        shape = shape or (1, len(weight), *x.shape[2:])
        grid = self.xp.const(self.grids.scale(spec)), self.xp.zero(spec.low == 0)
        *operands, bias = self._operands(x, layer, weight)
        how = {"kernel_shape": weight.shape[2:], "dilations": (1, 1), "strides": strides, "pads": pads, "group": group}
        value = self.graph.op("QLinearConv", *operands, *grid, bias, domain=MICROSOFT, channels_last=1, **how)
        return self._node(spec, value, shape)

    def _operands(self, x: Node, layer: IntegerLayer, weight: NDArray[Any]) -> list[Expr]:
        """Input and weight of a product, each with scale and zero point; and its bias."""
        const, constant = self.xp.const, self.graph.constant
        zeros = constant(np.zeros(len(layer.scale), np.int8))
        given = [constant(weight.astype(np.int8)), const(layer.scale.numpy()), zeros]
        bias = constant(layer.bias.double().numpy().astype(np.int32))
        return [x.value, const(x.scale), self.xp.zero(x.unsigned), *given, bias]

    def head(self, layer: nn.Module, x: Node, *, scale: float | None = None, order: Any = None) -> Expr:
        """A product of tokens: real values `[N, out]`, or with `scale` uint8 on that grid; `order` of its outputs."""
        integers = self.grids.layer(x, self.spec(layer), layer)
        if order is not None:
            integers = integers.reordered(order)
        flat = replace(x, value=x.value.reshape(-1, x.shape[1]))
        operands = self._operands(flat, integers, np.ascontiguousarray(integers.weight.numpy().T))
        grid = [self.xp.const(scale), self.xp.zero(False)] if scale is not None else []
        return self.graph.op("QGemm", *operands, *grid, domain=MICROSOFT)

    def values(self, attentions: Sequence[DeformableAttention], memory: Node) -> list[Node]:
        """Float `[1, C, H, W]` each, in steps."""
        nodes = super().values(attentions, memory)
        return [replace(node, value=self.xp.dequantise(node.value.transpose(0, 3, 1, 2))) for node in nodes]

    def add(self, owner: nn.Module | str, x: Node, y: Node) -> Node:
        spec = self.spec(owner)
        factors = self.grids.sum_factors(spec, x.scale, y.scale)
        first, second = (
            (v.value, self.xp.const(k), self.xp.zero(v.unsigned)) for v, k in zip((x, y), factors, strict=True)
        )
        grid = self.xp.const(1.0), self.xp.zero(False)
        value = self.graph.op("QLinearAdd", *first, *second, *grid, domain=MICROSOFT)
        return self._node(spec, value, x.shape)

    def blend(self, owner: nn.Module, x: Node, y: Node, share: float) -> Node:
        return self.add("memory", replace(x, scale=x.scale * (1 - share)), replace(y, scale=y.scale * share))

    def norm(self, norm: Any, x: Node, branch: Node) -> Node:
        spec = self.spec(norm)
        constants = (c.numpy() for c in self.grids.norm_constants(norm, x.scale, spec))
        operands = (self.xp.dequantise(v.value, unsigned=v.unsigned) for v in (x, branch))
        return self._node(spec, self.xp.quantise(functions.norm(self.xp, *operands, *constants)), x.shape)

    def attention(self, attention: Attention, query_key: Node, value: Node, bias: Any) -> Node:
        heads, depth = attention.num_heads, attention.head_channels
        spec, tokens = self.spec(attention, ".mixed"), query_key.shape[2] * query_key.shape[3]
        layers = ((attention.query, query_key), (attention.key, query_key), (attention.value, value))
        parts = [self.linear(layer, x) for layer, x in layers]
        query, key, value_of = (part.value.reshape(tokens, heads, depth) for part in parts)
        self.xp.tokens = tokens
        factors = self.grids.attention_factors(attention, [part.scale for part in parts], spec)
        moved = (query.transpose(1, 0, 2), key.transpose(1, 2, 0), value_of.transpose(1, 0, 2))
        operands: list[Any] = [*moved, *bias, *factors, self.grids.scheme.levels]
        mixed = functions.attention(self.xp, *operands)
        steps = self.xp.quantise(mixed).transpose(1, 0, 2)
        return self._node(spec, steps.reshape(1, *query_key.shape[2:], heads * depth), query_key.shape)

    def sample(self, attention: DeformableAttention, query: Node, reference: Any, value: Node) -> Node:
        heads, points, depth = attention.num_heads, attention.num_points, attention.head_channels
        graph, xp, spec = self.graph, self.xp, self.spec(attention, ".mixed")
        tokens, samples = query.shape[2] * query.shape[3], heads * points
        # x of all samples, then y: [N, 2, M·P], so that what is broadcast has long rows.
        order = np.arange(2 * samples).reshape(-1, 2).T.ravel()
        offsets = self.head(attention.offsets, query, order=order).reshape(tokens, 2, samples)
        if isinstance(reference, Tensor):
            fixed = np.repeat(fixed_boxes(reference).reshape(-1, 2, 2, 1), samples, 3)
            centre, size = graph.constant(fixed[:, 0]), graph.constant(fixed[:, 1])
        else:
            centre, size = reference.reshape(-1, 4, 1).split((2, 2), 1)
        grid = functions.positions(xp, offsets, centre, size, functions.POSITION[:, None], points)
        grid = grid.reshape(tokens, 2, heads, points).transpose(2, 0, 3, 1)
        maps = value.value.reshape(heads, depth, *value.shape[2:])
        sampled = graph.op("GridSample", maps, grid, align_corners=0, mode="linear", padding_mode="zeros")
        levels, factor = self.grids.sampling_factors(attention, value.scale, spec)
        logits = self.head(attention.weights, query, scale=1 / functions.LOGIT)
        shares = xp.lookup(functions.sigmoid_table(levels), logits)
        weight = shares.reshape(tokens, heads, 1, points).transpose(1, 2, 0, 3)
        if points > 1:
            mixed = functions.weigh(xp, sampled, weight, points)
            mixed = graph.op("ReduceSum", mixed, graph.shape(-1), keepdims=0)
        else:  # without the last axis: ONNX Runtime takes forty times as long for a scalar times rows of one value
            flat = sampled.reshape(heads, depth, tokens)
            mixed = functions.weigh(xp, flat, weight.reshape(heads, 1, tokens), points)
        steps = xp.quantise(mixed * factor).reshape(heads * depth, tokens).transpose(1, 0)
        return self._node(spec, steps.reshape(1, *query.shape[2:], heads * depth), query.shape)

    def sine(self, reference: Expr, channels: int) -> Node:
        shape = self.slot_shape(4 * channels)
        table = (self.grids.sine_table(channels) + 128).astype(np.uint8)
        value = self.xp.lookup(table, functions.sine_rows(self.xp, reference))  # [N, 4, C]
        return self._node(self.spec("position.sine"), value.reshape(1, *shape[2:], shape[1]), shape)

    def refine(self, base: BaseGraph, delta: Expr, reference: Expr) -> Expr:
        return self.grids.refined(self.xp, base, delta, reference)

    def next_reference(self, base: BaseGraph, boxes: Expr) -> Expr:
        return boxes if base.config.relative_boxes else functions.box_of_logits(self.xp, boxes)


def _side_by_side(weight: Tensor) -> Tensor:
    """Weights `[O, 3, 3, 3]` of `KernelOperations._stem`: `[2·O, 12, 3, 2]`, for cells −1 and 0 of four pixels each.

    Result r of a pair sees the pixels 2r − 1, 2r and 2r + 1, counted from the first of cell 0.
    """
    out = weight.new_zeros(2, len(weight), 4, 3, 3, 2)  # result, O, pixel, channel, row, cell
    for result in (0, 1):
        for column in (0, 1, 2):
            cell, pixel = divmod(2 * result - 1 + column, 4)
            out[result, :, pixel, :, :, cell + 1] = weight[:, :, :, column]
    return out.reshape(2 * len(weight), 12, 3, 2)


def kernel_graphs(quantised: QuantizedMotr) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` for ONNX Runtime; `quantised` must be in mode `evaluate`.

    Raises UserError where the scheme asks for what integer kernels lack.
    """
    assert quantised.current_mode == "evaluate", quantised.current_mode
    for spec in quantised.specs.values():
        if spec.rule.precision != "int8":
            raise UserError(
                f"{spec.graph} {spec.name}: rule {spec.rule.label!r} asks for {spec.rule.precision}, but integer "
                "kernels have int8 only; give it int8 (float and int16 are for analysis)"
            )
    return onnx_graphs(KernelOperations, quantised.model, quantised.net)
