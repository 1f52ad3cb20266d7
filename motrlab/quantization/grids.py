"""The network in fixed point, in PyTorch: the interpreter of the model's operations that observes and quantises.

Evaluation computes the integers themselves (`functions.py`), carried in float32. Training computes the same integers,
and its gradients are those of the float function, straight through the grid. With quantisation off it is the float
model; observers then see the float values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config.scheme import Scheme
from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph, DetectQueries
from motrlab.model.operations import (
    EPSILON,
    FLOAT,
    LEAST_SIZE,
    SIZE_LIMIT,
    Operations,
    attend,
    sample_map,
    sine_frequencies,
)
from motrlab.quantization import functions
from motrlab.quantization.ranges import MIN_SCALE, Ranges
from motrlab.quantization.tensors import Key, StraightThrough, TensorSpec, Value
from motrlab.quantization.torch_arithmetic import IntegerLayer, TorchArithmetic, side_by_side

TORCH = TorchArithmetic()
IMAGE_SCALE = 1 / 128  # of the image's bytes
CONSTANT_SCALE = 1 / 127  # of sines and cosines
_LARGEST_BIAS = 2**22  # in steps of the accumulator: a channel of tiny weights gets coarser ones


@dataclass(frozen=True)
class Bias:
    """What is added to attention logits: the mask `[B, 1, 1, N]` (1: seen), and the overlap of reference boxes."""

    mask: Tensor
    overlap: OverlapBias | None = None
    reference: Tensor | None = None

    @property
    def real(self) -> Tensor:
        masked = FLOAT.masks(self.mask, 0)[0]
        return FLOAT.bias(masked, self.overlap, self.reference)

    def steps(self) -> tuple[Tensor, Tensor | None]:
        """Mask and overlap in steps of 1/16."""
        masked = (1 - self.mask) * functions.HIDDEN
        if self.overlap is None or self.reference is None:
            return masked, None
        centre, size = (self.reference.flatten(2) * 0.5).split(2, dim=1)
        pair = [x for box in (centre, size) for x in (box[..., :, None], box[..., None, :])]
        along = functions.overlap(TORCH, *pair, 1e-3)
        return masked, along[:, :1] * along[:, 1:] * (self.overlap.factors(centre.shape[2]) * functions.LOGIT)


def number(scale: Any) -> float:
    """A scale without its gradient."""
    return float(scale.detach()) if isinstance(scale, Tensor) else float(scale)


class GridOperations(Operations):
    """Operations on `Value`s.

    Args:
        paths: id of every module → its graph and path.
        specs: every tensor, by graph and name.
        ranges: theirs.
        scheme: by which they were declared.
    """

    def __init__(
        self, paths: Mapping[int, Key], specs: Mapping[Key, TensorSpec], ranges: Ranges | None, scheme: Scheme
    ) -> None:
        self.paths, self.specs, self.ranges, self.scheme = paths, specs, ranges, scheme
        self.observing = self.calibrating = self.quantising = False
        self.active: Collection[Key] | None = None  # tensors that are quantised; None: as their rules say
        self.watch: Callable[[TensorSpec, Tensor], None] | None = (
            None  # told the steps of every tensor, before rounding
        )
        self.record: dict[str, Tensor] | None = None  # real values of the running graph's tensors, by name
        self.compare: Callable[[Tensor, Tensor, Tensor], None] | None = None  # told bias, result, float result
        self.graph = ""
        self._mask: Tensor | None = None
        self._scales: list[float] = []
        self._layers: dict[tuple[int, int, bool], IntegerLayer] = {}
        self._constants: dict[Any, Any] = {}  # that follow from scales and weights

    def refresh(self) -> None:
        """Weights or scales have changed."""
        self._layers.clear()
        self._constants.clear()
        self._scales = self.ranges.scale.tolist() if self.ranges is not None else []

    # What all operations have in common.

    def spec(self, module: nn.Module | str, operator: str, sources: Sequence[Value] = (), **facts: Any) -> TensorSpec:
        """The tensor that a module makes, or that has a name."""
        key = (self.graph, module) if isinstance(module, str) else self.paths[id(module)]
        return self.specs[key]

    def share(self, *tensors: TensorSpec | None) -> None:
        """These tensors have one grid."""

    def _on(self, spec: TensorSpec) -> bool:
        return self.quantising and (spec.quantised if self.active is None else spec.key in self.active)

    def scale(self, spec: TensorSpec) -> Any:
        """Scale of a tensor: a number, or a tensor where it is learned."""
        assert self.ranges is not None
        learned = self.ranges.scale
        if learned.requires_grad and torch.is_grad_enabled() and spec.fixed is None:
            step = learned[spec.group]
            factor = (max(1, spec.numel) * spec.high) ** -0.5  # of its gradient: arXiv 1902.08153, section 2.2
            return step * factor + (step * (1 - factor)).detach()
        return self._scales[spec.group]

    def _enter(self, x: Value) -> Value:
        """An operand of an integer operation: on its grid, also where who made it is in float."""
        if x.scale is not None or x.spec is None:
            return x
        scale = self.scale(x.spec)
        steps = x.data / scale
        return replace(x, data=StraightThrough.apply(steps, steps, x.spec.low, x.spec.high), scale=scale)

    def _finish(
        self,
        spec: TensorSpec,
        floating: Callable[[], Tensor],
        exact: Callable[[], Tensor],
        live: Tensor | None = None,
        *,
        through: Callable[[], Tensor] | None = None,
        differentiable: bool = False,
    ) -> Value:
        """The result of an operation: `floating` gives real values, `exact` steps that are not rounded yet.

        Gradients go through `exact` where it is `differentiable`, else through `through` (the float function in steps),
        by default `floating`.
        """
        if not self._on(spec):
            value = Value(floating(), None, spec, live)
            self._look(spec, value.data, live)
            self._note(spec, value)
            return value
        scale = self.scale(spec)
        training = torch.is_grad_enabled()
        with torch.set_grad_enabled(training and differentiable):
            steps = exact()
        if self.watch is not None:
            self.watch(spec, steps)
        self._look(spec, steps, live, scale)
        if training:
            float_steps = steps if differentiable else through() if through is not None else floating() / scale
            data = StraightThrough.apply(float_steps, steps.detach(), spec.low, spec.high)
        else:
            data = steps.round().clamp_(spec.low, spec.high)
        value = Value(data, scale, spec, live)
        self._note(spec, value)
        return value

    def _look(self, spec: TensorSpec, x: Tensor, live: Tensor | None, scale: Any = 1.0) -> None:
        if self.observing and self.ranges is not None:
            self.ranges.observe(spec, x, live, number(scale), calibrating=self.calibrating)

    def _note(self, spec: TensorSpec, value: Value) -> None:
        if self.record is not None:
            name, number = spec.name, 1
            while name in self.record:
                name, number = f"{spec.name}@{number}", number + 1
            self.record[name] = value.real.detach()

    def layer(self, x_scale: Any, spec: TensorSpec, *modules: nn.Module) -> IntegerLayer:
        """The integers of a product, or of several of one input side by side; computed once until `refresh`."""
        key = (id(modules[0]), len(modules), torch.is_grad_enabled())
        found = self._layers.get(key)
        if found is None:
            each = [self._integer_layer(m.weight, m.bias, x_scale, spec) for m in modules]  # type: ignore[arg-type]
            found = self._layers[key] = each[0] if len(each) == 1 else side_by_side(each)
        return found

    def _integer_layer(self, weight: Tensor, bias: Tensor, x_scale: Any, spec: TensorSpec) -> IntegerLayer:
        flat = weight.detach().abs().flatten(1)
        largest = flat.amax(1) if spec.rule.per_channel else flat.amax().expand(len(flat))
        x_step = torch.as_tensor(x_scale, dtype=torch.float32, device=weight.device)
        scale = (largest / self.scheme.weight_limit).clamp(min=MIN_SCALE)
        scale = torch.maximum(scale, bias.detach().abs() / (x_step.detach() * _LARGEST_BIAS))
        steps = weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
        step = x_step * scale
        if not torch.is_grad_enabled():
            rounded, shift = steps.round(), (bias.double() / step.double()).round().float()
            magnitude = rounded.abs().reshape(*weight.shape[:2], -1).sum(2) * 255.0
            parts = functions.exact_parts(magnitude.double().cpu().numpy(), shift.cpu().numpy())
            return IntegerLayer(rounded, shift, scale, step, parts)
        rounded = StraightThrough.apply(steps, steps.detach(), -self.scheme.weight_limit, self.scheme.weight_limit)
        shift = bias / step
        shift = shift + ((bias.detach().double() / step.detach().double()).round().float() - shift).detach()
        return IntegerLayer(rounded, shift, scale, step, (slice(0, weight.shape[1]),))

    def _factor(self, layer: IntegerLayer, spec: TensorSpec) -> Tensor:
        """From accumulator to steps of the output, `[out]`."""
        scale = self.scale(spec)
        if isinstance(scale, Tensor):
            return layer.step / scale
        return self._known(
            (spec.key, id(layer.step)), lambda: layer.step / torch.tensor(scale, device=layer.step.device)
        )

    def _known(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, until `refresh`."""
        if key not in self._constants:
            self._constants[key] = make()
        return self._constants[key]

    # Inputs and outputs.

    def enter(self, graph: nn.Module, mask: Tensor | None = None) -> None:
        self.graph = self.paths[id(graph)][0]
        self._mask = mask
        if self.record is not None and (mask is None or self.graph == "qim"):
            self.record.clear()

    def image(self, image: Tensor) -> Value:
        image = FLOAT.image(image)
        spec = self.spec("image", "input")
        return self._finish(spec, lambda: image, lambda: image / self.scale(spec))

    def input(self, name: str, x: Tensor) -> Value:
        spec = self.spec(name, "input")
        assert self._mask is not None
        live = self._mask.reshape(len(x), 1, *x.shape[2:])
        return self._finish(spec, lambda: x, lambda: x / self.scale(spec), live, differentiable=True)

    def output(self, x: Value) -> Tensor:
        return x.real

    def constant(self, x: Tensor) -> Value:
        return Value((x * 127).round(), CONSTANT_SCALE) if self.quantising else Value(x)

    def slots(self, detect: DetectQueries, track_query: Value) -> Value:
        learned = self.detect_query(detect)
        self.share(learned.spec, track_query.spec)
        batch = len(track_query.data)
        spread = replace(learned, data=learned.data.expand(batch, -1, -1, -1), live=None)
        return self.cat([spread, track_query])

    def detect_query(self, detect: DetectQueries) -> Value:
        """The learned queries `[1, C, D / W, W]` on their grid."""
        spec, query = self.spec("detect.query", "input"), detect.query
        return self._finish(spec, lambda: query, lambda: query / self.scale(spec), differentiable=True)

    def references(self, detect: DetectQueries, track_reference: Tensor) -> Tensor:
        learned = detect.reference().expand(len(track_reference), -1, -1, -1)
        if self.quantising:
            exact = detect.reference_logits.detach().double().sigmoid().expand_as(learned)
            learned = learned + (functions.on_reference_grid(TORCH, exact).float() - learned).detach()
            track_reference = functions.on_reference_grid(TORCH, track_reference)
        return torch.cat((learned, track_reference.detach()), 2)

    def masks(self, mask: Tensor, num_detect: int) -> tuple[Tensor, Tensor]:
        return mask, F.pad(mask, (num_detect, 0), value=1.0)

    def bias(self, masked: Tensor, overlap: OverlapBias | None = None, reference: Any = None) -> Bias:
        return Bias(masked, overlap, reference)

    # Moving data about.

    def rows(self, x: Value, first: int, end: int | None) -> Value:
        live = None if x.live is None else x.live[:, :, first:end]
        return replace(x, data=x.data[:, :, first:end], live=live)

    def cat(self, parts: Sequence[Value]) -> Value:
        parts = [p for p in parts if p.data.shape[2]]
        self.share(*(p.spec for p in parts))
        if len({p.scale is None for p in parts}) > 1:  # some in float
            parts = [replace(p, data=p.real, scale=None) for p in parts]
        live = None
        if any(p.live is not None for p in parts):
            alive = [p.live if p.live is not None else torch.ones_like(p.data[:, :1]) for p in parts]
            live = torch.cat(alive, 2)
        return replace(parts[-1], data=torch.cat([p.data for p in parts], 2), live=live)

    def upsample(self, x: Value, like: Value) -> Value:
        return replace(x, data=FLOAT.upsample(x.data, like.data))

    # Products.

    def conv(self, layer: Any, x: Value) -> Value:
        conv, activation = layer[0], layer[2] if len(layer) > 2 else None
        ceiling = 6.0 if isinstance(activation, nn.ReLU6) else None
        spec = self.spec(layer, "conv", [x], relu=activation is not None, ceiling=ceiling)
        if not self._on(spec):
            return self._finish(spec, lambda: layer(x.real), lambda: x.data)
        x = self._enter(x)
        integers = self.layer(x.scale, spec, conv)

        def exact() -> Tensor:
            accumulator = integers.convolution(x.data, conv).permute(0, 2, 3, 1)
            self._compare(conv, integers, accumulator, lambda: conv(x.real).permute(0, 2, 3, 1))
            return functions.product(TORCH, accumulator, self._factor(integers, spec)).permute(0, 3, 1, 2)

        return self._finish(spec, lambda: x.data, exact, differentiable=True)

    def _compare(
        self, module: Any, integers: IntegerLayer, accumulator: Tensor, floating: Callable[[], Tensor]
    ) -> None:
        """Show `compare` a product `[…, out]` and what it would be in float."""
        if self.compare is not None:
            self.compare(module.bias, accumulator * integers.step, floating())

    def linear(self, layer: nn.Module, x: Value, *, relu: bool = False) -> Value:
        spec = self.spec(layer, "linear", [x], relu=relu)
        if not self._on(spec):
            return self._finish(spec, lambda: FLOAT.linear(layer, x.real, relu=relu), lambda: x.data, x.live)
        x = self._enter(x)
        integers = self._pointwise(x.scale, spec, layer)

        def exact() -> Tensor:
            accumulator = integers.linear(x.data.permute(0, 2, 3, 1))
            self._compare(layer, integers, accumulator, lambda: layer(x.real).permute(0, 2, 3, 1))
            return functions.product(TORCH, accumulator, self._factor(integers, spec)).permute(0, 3, 1, 2)

        return self._finish(spec, lambda: x.data, exact, x.live, differentiable=True)

    def _pointwise(self, x_scale: Any, spec: TensorSpec, *layers: nn.Module) -> IntegerLayer:
        """`layer` of 1×1 convolutions, as matrices."""
        integers = self.layer(x_scale, spec, *layers)
        return replace(integers, weight=integers.weight.flatten(1))

    def head(self, layer: nn.Module, x: Value) -> Tensor:
        return self._tokens(layer, x).transpose(1, 2).unflatten(2, x.shape[2:])

    def _tokens(self, layer: nn.Module, x: Value) -> Tensor:
        """A `TokenLinear`: accumulators in real units, `[B, N, out]`."""
        spec = self.spec(layer, "head", [x])
        if not self._on(spec):
            out: Tensor = layer(x.real)
            return out
        x = self._enter(x)
        integers = self.layer(x.scale, spec, layer)
        accumulator = integers.linear(x.data.flatten(2).transpose(1, 2))
        self._compare(layer, integers, accumulator, lambda: layer(x.real))
        return accumulator * integers.step

    def values(self, attentions: Sequence[DeformableAttention], memory: Value) -> Value:
        layers = [attention.value for attention in attentions]
        specs = [self.spec(layer, "linear", [memory]) for layer in layers]
        self.share(*specs)
        if self.compare is not None or not all(map(self._on, specs)):
            each = [self.linear(layer, memory) for layer in layers]
            return Value(torch.stack([x.real for x in each]), None, each[0].spec)
        memory = self._enter(memory)
        integers = self._pointwise(memory.scale, specs[0], *layers)

        def exact() -> Tensor:
            accumulator = integers.linear(memory.data.permute(0, 2, 3, 1)).unflatten(3, (len(layers), -1))
            factor = self._factor(integers, specs[0]).unflatten(0, (len(layers), -1))
            return functions.product(TORCH, accumulator, factor).permute(3, 0, 4, 1, 2).contiguous()

        merged = self._finish(specs[0], lambda: memory.data, exact, differentiable=True)
        for spec, own in zip(specs[1:], list(merged)[1:], strict=True):
            self._look(spec, own.data, None, own.scale)
            self._note(spec, own)
        return merged

    # Functions.

    def add(self, owner: nn.Module, x: Value, y: Value) -> Value:
        spec = self.spec(owner, "sum", [x, y])
        if self._on(spec):
            x, y = self._enter(x), self._enter(y)

        def exact() -> Tensor:
            return self._add(spec, x, y, number(x.scale), number(y.scale))

        return self._finish(spec, lambda: x.real + y.real, exact, x.live, differentiable=self._fixed_scales)

    def _add(self, spec: TensorSpec, x: Value, y: Value, x_scale: float, y_scale: float) -> Tensor:
        return functions.add(TORCH, x.data, y.data, functions.add_factors(x_scale, y_scale, number(self.scale(spec))))

    @property
    def _fixed_scales(self) -> bool:
        """No gradient goes to scales."""
        return self.ranges is None or not self.ranges.scale.requires_grad

    def norm(self, norm: Any, x: Value, branch: Value) -> Value:
        self.share(x.spec, branch.spec)
        spec = self.spec(norm, "norm", [x, branch])
        if self._on(spec):
            x, branch = self._enter(x), self._enter(branch)

        def exact() -> Tensor:
            key = (spec.key, number(x.scale))
            constants = self._known(
                key, lambda: [TORCH.const(c).to(x.device) for c in self.norm_constants(norm, x.scale, spec)]
            )
            rows = (v.data.permute(0, 2, 3, 1) for v in (x, branch))
            return functions.norm(TORCH, *rows, *constants, x.shape[1]).permute(0, 3, 1, 2)

        def through() -> Tensor:
            scale, rows = self.scale(spec), (x.data + branch.data).permute(0, 2, 3, 1)
            epsilon = norm.eps / number(x.scale) ** 2
            return F.layer_norm(rows, rows.shape[-1:], norm.weight / scale, norm.bias / scale, epsilon).permute(
                0, 3, 1, 2
            )

        return self._finish(spec, lambda: norm(x.real + branch.real), exact, branch.live, through=through)

    def norm_constants(self, norm: nn.LayerNorm, x_scale: Any, spec: TensorSpec) -> tuple[Any, ...]:
        """As `functions.norm_constants`."""
        weight, bias = (p.detach().cpu().double().numpy() for p in (norm.weight, norm.bias))
        return functions.norm_constants(weight, bias, norm.eps, number(x_scale), number(self.scale(spec)))

    def blend(self, owner: nn.Module, x: Value, y: Value, share: float) -> Value:
        spec = self.spec("memory", "sum", [x, y])
        if self._on(spec):
            x, y = self._enter(x), self._enter(y)

        def exact() -> Tensor:
            return self._add(spec, x, y, number(x.scale) * (1 - share), number(y.scale) * share)

        return self._finish(spec, lambda: FLOAT.blend(owner, x.real, y.real, share), exact, x.live)

    def attention(self, attention: Attention, query_key: Value, value: Value, bias: Bias) -> Value:
        parts = [self.linear(attention.query, query_key), self.linear(attention.key, query_key)]
        self.share(*(p.spec for p in parts))
        parts.append(self.linear(attention.value, value))
        spec = self.spec(f"{self.paths[id(attention)][1]}.mixed", "attention", parts)
        if self._on(spec):
            parts = [self._enter(p) for p in parts]
        heads, depth = attention.num_heads, attention.head_channels

        def split(x: Tensor) -> Tensor:
            """`[B, C, R, W]` → `[B, M, N, D]`."""
            return x.permute(0, 2, 3, 1).reshape(len(x), -1, heads, depth).transpose(1, 2)

        def joined(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(len(x), *query_key.shape[2:], -1).permute(0, 3, 1, 2)

        def exact() -> Tensor:
            q, k, v = (split(p.data) for p in parts)
            factors = self.attention_factors(attention, *(p.scale for p in parts), spec)
            return joined(
                functions.attention(TORCH, q, k.transpose(2, 3), v, *bias.steps(), *factors, self.scheme.levels)
            )

        def floating() -> Tensor:
            q, k, v = (split(p.real) for p in parts)
            return joined(attend(q, k, v, bias.real))

        return self._finish(spec, floating, exact, query_key.live)

    def attention_factors(self, attention: Attention, q: Any, k: Any, v: Any, spec: TensorSpec) -> tuple[Any, Any]:
        """From sums to logits, and from the ratio of sums to steps of the output, for scales of the operands."""
        logit = number(q) * number(k) / attention.head_channels**0.5 * functions.LOGIT
        return functions.f32(logit), functions.f32(number(v) * functions.ONE / number(self.scale(spec)))

    def sample(self, attention: DeformableAttention, query: Value, reference: Tensor, value: Value) -> Value:
        offsets, logits = self._tokens(attention.offsets, query), self._tokens(attention.weights, query)
        spec = self.spec(f"{self.paths[id(attention)][1]}.mixed", "sampling", [query, value])
        if self._on(spec):
            value = self._enter(value)
        shape = query.shape

        def floating() -> Tensor:
            return sample_map(attention, offsets, logits, reference, value.real, shape)

        def exact() -> Tensor:
            levels = functions.sampling_levels(attention.num_points, self.scheme.levels)
            factor = functions.f32(number(value.scale) / (number(self.scale(spec)) * levels))
            mixed = self._sampled(attention, offsets.detach(), logits.detach(), reference, value.data, levels)
            return mixed.reshape(shape) * float(factor)

        return self._finish(spec, floating, exact, query.live)

    def _sampled(
        self,
        attention: DeformableAttention,
        offsets: Tensor,
        logits: Tensor,
        reference: Tensor,
        value: Tensor,
        levels: int,
    ) -> Tensor:
        """Σ weight · sample over the points, `[B·M, D, N]`."""
        heads, points, tokens = attention.num_heads, attention.num_points, offsets.shape[1]
        box = reference.flatten(2).transpose(1, 2)[:, :, None, None]  # [B, N, 1, 1, 4]
        steps = offsets.unflatten(2, (heads, points, 2))
        grid = functions.positions(TORCH, steps, box[..., :2], box[..., 2:], functions.POSITION, points).transpose(1, 2)
        value = value.reshape(-1, attention.head_channels, *value.shape[2:])
        grid = grid.reshape(len(value), tokens, points, 2)
        sampled = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        index = functions.to_grid(TORCH, logits * functions.LOGIT, -128, 127) + 128
        weight = TORCH.lookup(functions.sigmoid_table(levels), index).unflatten(2, (heads, points)).transpose(1, 2)
        return functions.weigh(TORCH, sampled, weight.reshape(-1, 1, tokens, points), points).sum(-1)

    def sine(self, reference: Tensor, channels: int) -> Value:
        spec = self.spec("position.sine", "input")

        def exact() -> Tensor:
            table = functions.sine_table(tuple(sine_frequencies(channels).double().tolist()))
            rows = TORCH.lookup(table, functions.sine_rows(TORCH, reference.detach()))  # [B, 4, R, W, channels]
            return rows.permute(0, 1, 4, 2, 3).flatten(1, 2)

        return self._finish(spec, lambda: FLOAT.sine(reference, channels), exact)

    def refine(self, base: BaseGraph, delta: Tensor, reference: Tensor) -> Tensor:
        if not self.quantising:
            return FLOAT.refine(base, delta, reference)
        with torch.no_grad():
            boxes = self._refined(base, functions.box_deltas(TORCH, delta), reference)
        if not torch.is_grad_enabled():
            return boxes
        floating = FLOAT.refine(base, delta, reference)
        return floating + (boxes - floating).detach()

    def _refined(self, base: BaseGraph, delta: Tensor, reference: Tensor) -> Tensor:
        if not base.config.relative_boxes:
            return functions.moved_logits(TORCH, delta, reference, EPSILON)
        (dc, ds), (centre, size) = delta.split(2, 1), reference.split(2, 1)
        moved = functions.moved_centre(TORCH, dc, centre, size)
        return torch.cat((moved, functions.grown_size(TORCH, ds, size, SIZE_LIMIT, LEAST_SIZE)), 1)

    def next_reference(self, base: BaseGraph, boxes: Tensor) -> Tensor:
        if base.config.relative_boxes or not self.quantising:
            return FLOAT.next_reference(base, boxes)
        return functions.box_of_logits(TORCH, boxes.detach())
