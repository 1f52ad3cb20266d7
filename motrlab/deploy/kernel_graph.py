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
from motrlab.deploy.onnx_operations import Maps, Node, OnnxOperations, Shape, convolved, fixed_boxes, onnx_graphs
from motrlab.errors import UserError
from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph, DetectQueries
from motrlab.model.motr import Motr
from motrlab.model.operations import EPSILON, LEAST_SIZE, SIZE_LIMIT, sine_frequencies
from motrlab.quantization import functions
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.grids import CONSTANT_SCALE
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec
from motrlab.quantization.torch_arithmetic import IntegerLayer


class KernelArithmetic(OnnxArithmetic):
    """With the kernels that ONNX Runtime has."""

    def zero(self, unsigned: bool) -> Expr:
        return self.graph.constant(np.uint8(0 if unsigned else 128))

    def quantise(self, steps: Expr, *, unsigned: bool = False, scale: Any = 1.0) -> Expr:
        return self.graph.op("QuantizeLinear", steps, self.const(scale), self.zero(unsigned))

    def dequantise(self, x: Expr, *, unsigned: bool = False, scale: Any = 1.0) -> Expr:
        return self.graph.op("DequantizeLinear", x, self.const(scale), self.zero(unsigned))

    def unsigned_grid(self, x: Expr, levels: int) -> Expr:
        return self.quantise(x, unsigned=True, scale=functions.f32(1 / levels))

    def matmul(self, x: Expr, y: Expr, factor: Any) -> Expr:
        return self._product(x, y, factor, unsigned=False)

    def _product(self, x: Expr, y: Expr, factor: Any, *, unsigned: bool) -> Expr:
        scales = (self.const(factor), self.const(1.0))
        zeros = (self.zero(unsigned), self.zero(False))
        return self.graph.op("MatMulIntegerToFloat", x, y, *scales, *zeros, domain=MICROSOFT)

    def weighted(self, shares: Expr, value: Expr) -> tuple[Expr, Expr]:
        """`value` has a last column of 127."""
        both = self._product(shares, value, 1.0, unsigned=True)
        mixed, total = self.graph.split(both, (self.depth, 1), 2)
        return mixed, total

    depth = 0  # of a head, without that column


class KernelOperations(OnnxOperations):
    """Writes the integer form of a calibrated model."""

    row_axis = 1
    image_input = ("uint8", True)
    grids: GridOperations

    def __init__(self, model: Motr, grids: GridOperations | None) -> None:
        super().__init__(model, grids)
        self.xp = KernelArithmetic(self.graph)

    def spec(self, module: nn.Module | str, operator: str) -> TensorSpec:
        spec = self.grids.spec(module, operator)
        if spec.rule.precision != "int8":
            raise UserError(
                f"{spec.graph} {spec.name}: rule {spec.rule.label!r} asks for {spec.rule.precision}, but integer kernels "
                "have int8 only; give it int8 (float and int16 are for analysis)"
            )
        return spec

    def _node(self, spec: TensorSpec, value: Expr, shape: Shape) -> Node:
        """A tensor that stands on its grid."""
        unsigned = spec.low == 0
        if unsigned and spec.high < 255:
            value = self.graph.op("Clip", value, self.xp.zero(True), self.graph.constant(np.uint8(spec.high)))
        return Node(self.name(spec, value), shape, float(self.grids.scale(spec)), unsigned)

    def _constant(self, steps: Tensor) -> Expr:
        """Signed integers `[1, C, R, W]`."""
        return self.graph.constant((steps.permute(0, 2, 3, 1) + 128).numpy().astype(np.uint8))

    def _steps(self, x: Node) -> Expr:
        return self.xp.dequantise(x.value, unsigned=x.unsigned)

    # Inputs and outputs.

    def image(self, image: Expr) -> Node:
        scale = float(self.grids.scale(self.spec("image", "input")))
        return Node(image, (1, 3, self.config.height, self.config.width), scale)

    def input(self, name: str, x: Expr) -> Node:
        spec = self.spec(name, "input")
        value = self.xp.quantise(x, scale=functions.f32(self.grids.scale(spec)))
        return self._node(spec, self.graph.transpose(value, 0, 2, 3, 1), self.track_shape(self.config.d_model))

    def output(self, x: Node) -> Expr:
        value = self.graph.transpose(x.value, 0, 3, 1, 2)
        return self.xp.dequantise(value, unsigned=x.unsigned, scale=functions.f32(x.scale))

    def result(self, x: Expr, shape: Shape) -> Expr:
        return self.graph.reshape(self.graph.transpose(x, 1, 0), *shape)

    def constant(self, x: Tensor) -> Node:
        return Node(self._constant((x.double() * 127).round()), tuple(x.shape), CONSTANT_SCALE)

    def slots(self, detect: DetectQueries, track_query: Node) -> Node:
        learned = self.grids.detect_query(detect)
        return self.cat([Node(self._constant(learned.data), tuple(learned.shape), learned.scale), track_query])

    def references(self, detect: DetectQueries, track_reference: Expr) -> Expr:
        """All references `[N, 4]` as float fractions on their grid."""
        learned = self.grids.references(detect, torch.zeros(1, 4, 0, self.config.slot_columns))
        flat = self.graph.transpose(self.graph.reshape(track_reference, 4, self.config.num_track), 1, 0)
        tracked = functions.on_reference_grid(self.xp, flat)
        return self.graph.cat([self.graph.constant(fixed_boxes(learned)), tracked], 0)

    def masks(self, mask: Expr, num_detect: int) -> tuple[Expr, Expr]:
        flat = self.graph.reshape(mask, 1, 1, self.config.num_track)
        track = (self.xp.const(1.0) - flat) * self.xp.const(functions.HIDDEN)
        zeros = self.graph.constant(np.zeros((1, 1, num_detect), np.float32))
        return track, self.graph.cat([zeros, track], 2) if num_detect else track

    def bias(self, masked: Expr, overlap: OverlapBias | None = None, reference: Any = None) -> Any:
        if overlap is None:
            return masked, None
        graph, number = self.graph, self.config.num_slots
        halved = graph.transpose(reference, 1, 0) * self.xp.const(0.5)
        centre, size = graph.split(halved, (2, 2), 0)
        pair = [graph.reshape(x, 2, *s) for x in (centre, size) for s in ((number, 1), (1, number))]
        along = functions.overlap(self.xp, *pair)
        across, down = graph.split(along, (1, 1), 0)
        factors = overlap.factors(number).detach().numpy() * np.float32(functions.LOGIT)
        return masked, across * down * self.xp.const(factors)

    def upsample(self, x: Node, like: Node) -> Node:
        (_, channels, height, width), graph = x.shape, self.graph
        blocks = graph.reshape(x.value, height, 1, width, 1, channels)
        value = graph.op("Expand", blocks, graph.shape(height, 2, width, 2, channels))
        value = graph.reshape(value, 1, 2 * height, 2 * width, channels)
        for axis, (size, have) in enumerate(zip(like.shape[2:], (2 * height, 2 * width), strict=True), 1):
            if size < have:
                value = graph.slice(value, 0, size, axis)
        return replace(x, value=value, shape=(1, channels, *like.shape[2:]))

    # Products.

    def conv(self, layer: Any, x: Node) -> Node:
        conv, spec = layer[0], self.spec(layer, "conv")
        integers, shape = self.grids.layer(x.scale, spec, conv), convolved(conv, x.shape)
        if (x.shape[1], conv.kernel_size, conv.stride, x.shape[3] % 4) == (3, (3, 3), (2, 2), 0):
            return self._stem(x, integers, spec, shape)
        how: dict[str, Any] = {"strides": list(conv.stride), "pads": [*conv.padding] * 2, "group": conv.groups}
        return self._qconv(x, integers, integers.weight.numpy(), spec, shape, **how)

    def _stem(self, x: Node, layer: IntegerLayer, spec: TensorSpec, shape: Shape) -> Node:
        """A 3×3 convolution of stride 2 on three channels: four pixels side by side are one of twelve channels, and two
        results side by side one of twice as many. That moves no data, and takes a third of the time.
        """
        _, out, height, width = shape
        view = replace(x, value=self.graph.reshape(x.value, 1, x.shape[2], x.shape[3] // 4, 12))
        pair = layer.reordered(np.tile(np.arange(out), 2))
        how: dict[str, Any] = {"strides": [2, 1], "pads": [1, 1, 1, 0], "group": 1}
        node = self._qconv(view, pair, _side_by_side(layer.weight.numpy()), spec, shape, **how)
        return replace(node, value=self.graph.reshape(node.value, 1, height, width, out))

    def linear(self, layer: nn.Module, x: Node, *, relu: bool = False) -> Node:
        spec = self.spec(layer, "linear")
        return self._pointwise(x, self.grids.layer(x.scale, spec, layer), spec)

    def _pointwise(self, x: Node, integers: IntegerLayer, spec: TensorSpec) -> Node:
        weight = integers.weight.flatten(1)[:, :, None, None].numpy()
        how: dict[str, Any] = {"strides": [1, 1], "pads": [0, 0, 0, 0], "group": 1}
        return self._qconv(x, integers, weight, spec, (1, len(weight), *x.shape[2:]), **how)

    def _qconv(
        self, x: Node, integers: IntegerLayer, weight: NDArray[Any], spec: TensorSpec, shape: Shape, **how: Any
    ) -> Node:
        output = self.xp.const(functions.f32(self.grids.scale(spec))), self.xp.zero(spec.low == 0)
        inputs, bias = self._operands(x, integers, weight)
        how |= {"kernel_shape": list(weight.shape[2:]), "dilations": [1, 1], "channels_last": 1}
        return self._node(spec, self.graph.op("QLinearConv", *inputs, *output, bias, domain=MICROSOFT, **how), shape)

    def _operands(self, x: Node, integers: IntegerLayer, weight: NDArray[Any]) -> tuple[list[Expr], Expr]:
        """Input and weight of a product, each with scale and zero point; and its bias."""
        const, graph = self.xp.const, self.graph
        zeros = graph.constant(np.zeros(len(integers.scale), np.int8))
        given = [graph.constant(weight.astype(np.int8)), const(integers.scale.numpy()), zeros]
        bias = graph.constant(integers.bias.double().numpy().astype(np.int32))
        return [x.value, const(functions.f32(x.scale)), self.xp.zero(x.unsigned), *given], bias

    def head(self, layer: nn.Module, x: Node) -> Expr:
        """Real values `[N, out]`."""
        return self._gemm(layer, x)

    def _gemm(self, layer: nn.Module, x: Node, *, scale: float | None = None, order: Any = None) -> Expr:
        """A product of tokens: float `[N, out]`, or with `scale` uint8 on that grid; `order` of its outputs."""
        integers = self.grids.layer(x.scale, self.spec(layer, "head"), layer)
        if order is not None:
            integers = integers.reordered(order)
        flat = replace(x, value=self.graph.reshape(x.value, -1, x.shape[1]))
        inputs, bias = self._operands(flat, integers, np.ascontiguousarray(integers.weight.numpy().T))
        grid = [self.xp.const(scale), self.xp.zero(False)] if scale is not None else []
        return self.graph.op("QGemm", *inputs, bias, *grid, domain=MICROSOFT)

    def values(self, attentions: Sequence[DeformableAttention], memory: Node) -> Maps:
        """Float `[1, C, H, W]` each, in steps."""
        layers = [attention.value for attention in attentions]
        specs = [self.spec(layer, "linear") for layer in layers]
        node = self._pointwise(memory, self.grids.layer(memory.scale, specs[0], *layers), specs[0])
        value = self.graph.transpose(node.value, 0, 3, 1, 2)
        parts = self.graph.split(value, [memory.shape[1]] * len(layers), 1) if len(layers) > 1 else [value]
        return Maps([replace(node, value=self.xp.dequantise(p), shape=memory.shape) for p in parts])

    # Functions.

    def add(self, owner: nn.Module, x: Node, y: Node) -> Node:
        return self._sum(owner, x, y, (x.scale, y.scale))

    def blend(self, owner: nn.Module, x: Node, y: Node, share: float) -> Node:
        return self._sum("memory", x, y, (x.scale * (1 - share), y.scale * share))

    def _sum(self, owner: nn.Module | str, x: Node, y: Node, scales: tuple[float, float]) -> Node:
        spec = self.spec(owner, "sum")
        factors = self.grids.sum_factors(spec, *scales)
        inputs = [
            part
            for node, factor in zip((x, y), factors, strict=True)
            for part in (node.value, self.xp.const(factor), self.xp.zero(node.unsigned))
        ]
        value = self.graph.op("QLinearAdd", *inputs, self.xp.const(1.0), self.xp.zero(False), domain=MICROSOFT)
        return self._node(spec, value, x.shape)

    def norm(self, norm: Any, x: Node, branch: Node) -> Node:
        spec = self.spec(norm, "norm")
        constants = (c.numpy() for c in self.grids.norm_constants(norm, x.scale, spec))
        steps = functions.norm(self.xp, self._steps(x), self._steps(branch), *constants)
        return self._node(spec, self.xp.quantise(steps), x.shape)

    def attention(self, attention: Attention, query_key: Node, value: Node, bias: Any) -> Node:
        heads, depth, graph = attention.num_heads, attention.head_channels, self.graph
        spec = self.mixed_spec(attention, "attention")
        qk_spec, v_spec = self.spec(attention.query, "linear"), self.spec(attention.value, "linear")
        self.spec(attention.key, "linear")
        assert spec is not None
        both = self.grids.layer(query_key.scale, qk_spec, attention.query, attention.key)
        merged = self._pointwise(query_key, both, qk_spec)
        tokens = query_key.shape[2] * query_key.shape[3]
        split = graph.transpose(graph.reshape(merged.value, tokens, 2 * heads, depth), 1, 0, 2)
        q, k = graph.split(split, (heads, heads), 0)
        own = self.grids.layer(value.scale, v_spec, attention.value)
        v = self._pointwise(value, _with_ones(own, heads, value.scale, self.grids.scale(v_spec)), v_spec)
        columns = graph.transpose(graph.reshape(v.value, tokens, heads, depth + 1), 1, 0, 2)
        factors = self.grids.attention_factors(attention, (merged.scale, merged.scale, v.scale), spec)
        self.xp.depth = depth
        masked, overlap = bias
        steps = functions.attention(
            self.xp, q, graph.transpose(k, 0, 2, 1), columns, masked, overlap, *factors, self.grids.scheme.levels
        )
        mixed = graph.transpose(self.xp.quantise(steps), 1, 0, 2)
        return self._node(spec, graph.reshape(mixed, 1, *query_key.shape[2:], heads * depth), query_key.shape)

    def sample(self, attention: DeformableAttention, query: Node, reference: Any, value: Node) -> Node:
        heads, points, depth = attention.num_heads, attention.num_points, attention.head_channels
        graph, xp, spec = self.graph, self.xp, self.mixed_spec(attention, "sampling")
        assert spec is not None
        tokens, samples = query.shape[2] * query.shape[3], heads * points
        # x of all samples, then y: [N, 2, M·P], so that what is broadcast has long rows.
        order = np.arange(2 * samples).reshape(-1, 2).T.ravel()
        offsets = graph.reshape(self._gemm(attention.offsets, query, order=order), tokens, 2, samples)
        centre, size = self._boxes(reference, samples)
        grid = functions.positions(xp, offsets, centre, size, functions.POSITION[:, None], points)
        grid = graph.transpose(graph.reshape(grid, tokens, 2, heads, points), 2, 0, 3, 1)
        maps = graph.reshape(value.value, heads, depth, *value.shape[2:])
        sampled = graph.op("GridSample", maps, grid, align_corners=0, mode="linear", padding_mode="zeros")
        levels, factor = self.grids.sampling_factors(attention, value.scale, spec)
        logits = self._gemm(attention.weights, query, scale=1 / functions.LOGIT)
        weight = xp.lookup(functions.sigmoid_table(levels), logits)
        weight = graph.transpose(graph.reshape(weight, tokens, heads, 1, points), 1, 2, 0, 3)
        if points > 1:
            mixed = functions.weigh(xp, sampled, weight, points)
            mixed = graph.op("ReduceSum", mixed, graph.shape(-1), keepdims=0)
        else:  # without the last axis: ONNX Runtime takes forty times as long for a scalar times rows of one value
            flat = graph.reshape(sampled, heads, depth, tokens), graph.reshape(weight, heads, 1, tokens)
            mixed = functions.weigh(xp, *flat, points)
        steps = xp.quantise(mixed * xp.const(factor))
        rows = graph.transpose(graph.reshape(steps, heads * depth, tokens), 1, 0)
        return self._node(spec, graph.reshape(rows, 1, *query.shape[2:], heads * depth), query.shape)

    def _boxes(self, reference: Any, samples: int) -> tuple[Expr, Expr]:
        """Centre and size of every token: `[N, 2, 1]`, or for fixed ones `[N, 2, samples]`."""
        if isinstance(reference, Tensor):
            fixed = np.repeat(fixed_boxes(reference).reshape(-1, 2, 2, 1), samples, 3)
            return self.graph.constant(fixed[:, 0]), self.graph.constant(fixed[:, 1])
        centre, size = self.graph.split(self.graph.reshape(reference, -1, 4, 1), (2, 2), 1)
        return centre, size

    def sine(self, reference: Expr, channels: int) -> Node:
        spec, config = self.spec("position.sine", "input"), self.config
        table = functions.sine_table(tuple(sine_frequencies(channels).double().tolist()))
        rows = functions.sine_rows(self.xp, reference)
        value = self.xp.lookup((table + 128).astype(np.uint8), rows)  # [N, 4, channels]
        shape = (1, 4 * channels, config.num_slots // config.slot_columns, config.slot_columns)
        return self._node(spec, self.graph.reshape(value, 1, *shape[2:], shape[1]), shape)

    def refine(self, base: BaseGraph, delta: Expr, reference: Expr) -> Expr:
        steps = functions.box_deltas(self.xp, delta)
        if not base.config.relative_boxes:
            return functions.moved_logits(self.xp, steps, reference, EPSILON)
        (dc, ds), (centre, size) = (self.graph.split(x, (2, 2), 1) for x in (steps, reference))
        moved = functions.moved_centre(self.xp, dc, centre, size)
        return self.graph.cat([moved, functions.grown_size(self.xp, ds, size, SIZE_LIMIT, LEAST_SIZE)], 1)

    def next_reference(self, base: BaseGraph, boxes: Expr) -> Expr:
        return boxes if base.config.relative_boxes else functions.box_of_logits(self.xp, boxes)


def _side_by_side(weight: NDArray[Any]) -> NDArray[Any]:
    """Weights `[O, 3, 3, 3]` of `KernelOperations._stem`: `[2·O, 12, 3, 2]`, for cells −1 and 0 of four pixels each.

    Result r of a pair sees the pixels 2r − 1, 2r and 2r + 1, counted from the first of cell 0.
    """
    out = np.zeros((2, len(weight), 4, 3, 3, 2), weight.dtype)  # result, O, pixel, channel, row, cell
    for result in (0, 1):
        for column in (0, 1, 2):
            cell, pixel = divmod(2 * result - 1 + column, 4)
            out[result, :, pixel, :, :, cell + 1] = weight[:, :, :, column]
    return out.reshape(2 * len(weight), 12, 3, 2)


def _with_ones(layer: IntegerLayer, heads: int, x_scale: float, scale: float) -> IntegerLayer:
    """One more output a head that is always 127: no weights, and a bias of 127 steps of the output."""
    parts = [p.detach().unflatten(0, (heads, -1)) for p in (layer.weight.flatten(1), layer.bias, layer.scale)]
    ratio = torch.tensor(scale, dtype=torch.float32) / torch.tensor(x_scale, dtype=torch.float32)
    last = (torch.zeros_like(parts[0][:, :1]), torch.full((heads, 1), float(functions.ONE)), ratio.expand(heads, 1))
    weight, bias, weight_scale = (torch.cat(pair, 1).flatten(0, 1) for pair in zip(parts, last, strict=True))
    return IntegerLayer(weight, bias, weight_scale, layer.step, layer.parts)


def kernel_graphs(quantised: QuantizedMotr) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` for ONNX Runtime; `quantised` must be in mode `evaluate`.

    Raises UserError where the scheme asks for what integer kernels lack.
    """
    assert quantised.current_mode == "evaluate", quantised.current_mode
    return onnx_graphs(KernelOperations, quantised.model, quantised.net)
