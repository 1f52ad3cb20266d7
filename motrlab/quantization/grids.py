"""Tensors on grids, in PyTorch: what all operations of the fixed-point network have in common, its inputs and products.

Evaluation computes the integers themselves (`functions.py`), carried in float32. So does training for all tensors that
travel, with the gradients of the float functions; its weights are in float. With quantisation off it is the float
model; observers then see the float values. `grid_operations.py` has the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config.scheme import MIN_SCALE, Scheme
from motrlab.errors import UserError
from motrlab.model.attention import DeformableAttention
from motrlab.model.base import DetectQueries
from motrlab.model.operations import FLOAT, Operations
from motrlab.quantization import functions
from motrlab.quantization.observers import Ranges
from motrlab.quantization.tensors import Key, StraightThrough, TensorSpec, Value, number
from motrlab.quantization.torch_arithmetic import (
    IntegerLayer,
    TorchArithmetic,
    integer_layer,
    trained_layer,
)

TORCH = TorchArithmetic()
CONSTANT_SCALE = 1 / 127  # of sines and cosines


@contextmanager
def named(spec: TensorSpec, advice: str) -> Iterator[None]:
    """An overflow of an accumulator as a UserError that names the tensor and says what to do."""
    try:
        yield
    except OverflowError as error:
        raise UserError(f"{spec.graph} {spec.name}: {error}; {advice}") from error


class Grids(Operations):
    """Inputs, products, and moving `Value`s about.

    `paths`: id of every module → its graph and path. `specs`: every tensor, declared by `scheme`; `ranges`: theirs.
    """

    def __init__(
        self, paths: Mapping[int, Key], specs: Mapping[Key, TensorSpec], ranges: Ranges | None, scheme: Scheme
    ) -> None:
        self.paths, self.specs, self.ranges, self.scheme = paths, specs, ranges, scheme
        self.observing = self.calibrating = self.quantising = False
        self.active: Collection[Key] | None = None  # tensors that are quantised; None: as their rules say
        self.watch: Callable[[TensorSpec, Tensor], None] | None = None  # told steps of every tensor, before rounding
        self.record: dict[str, Tensor] | None = None  # real values of the running graph's tensors, by name
        self.watch_product: Callable[[Any, Value, IntegerLayer], None] | None = None  # told what it multiplies
        self.graph = ""
        self.part_name = ""  # behind the names of what is computed for a part of the slots
        self._mask: Tensor | None = None
        self._tracked: Tensor | None = None  # `[B, 1, 1, 1]`: 1 for frames in which a slot of the mask is taken
        self._scales: list[float] = []
        self._known: dict[Any, Any] = {}  # what follows from weights and scales

    def refresh(self) -> None:
        """Weights or scales have changed."""
        self._known.clear()
        self._scales = self.ranges.scale.tolist() if self.ranges is not None else []

    def spec(
        self, module: nn.Module | str, operator: str, sources: Sequence[Value] = (), part: str = "", **facts: Any
    ) -> TensorSpec:
        """The tensor that a module makes, or that has a name; or a `part` of it."""
        return self.specs[self.key(module, part)]

    def key(self, module: nn.Module | str, part: str = "") -> Key:
        """Graph and name of the tensor that a module makes, or of the `part` of it that a name is for."""
        graph, name = (self.graph, module) if isinstance(module, str) else self.paths[id(module)]
        return graph, name + part + self.part_name

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.part_name = f"/{name}"
        yield
        self.part_name = ""

    @contextmanager
    def hooked(self, **hooks: Any) -> Iterator[None]:
        """Inside, `active`, `watch`, `record` or `watch_product` are these."""
        vars(self).update(hooks)
        try:
            yield
        finally:
            vars(self).update(dict.fromkeys(hooks))

    def share(self, *tensors: TensorSpec | None) -> None:
        """These tensors have one grid."""

    def scale(self, spec: TensorSpec) -> Any:
        """Scale of a tensor: a number, or a tensor where it is learned."""
        assert self.ranges is not None
        learned = self.ranges.scale
        if learned.requires_grad and torch.is_grad_enabled() and spec.fixed is None:
            step = learned[spec.group]
            factor = (max(1, spec.numel) * spec.high) ** -0.5  # of its gradient: arXiv 1902.08153, section 2.2
            return step * factor + (step * (1 - factor)).detach()
        return self._scales[spec.group]

    def known(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, until `refresh`."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def on(self, spec: TensorSpec) -> bool:
        """Whether a tensor is quantised."""
        return self.quantising and (spec.quantised if self.active is None else spec.key in self.active)

    def operands(self, spec: TensorSpec, *values: Value) -> list[Value]:
        """What an operation takes: if its result is quantised, all on their grids, also where their makers are not."""
        found = list(values)
        for index, x in enumerate(values):
            if self.on(spec) and x.scale is None and x.spec is not None:
                scale = self.scale(x.spec)
                steps = x.data / scale
                data = StraightThrough.apply(steps, steps, x.spec.low, x.spec.high)
                found[index] = replace(x, data=data, scale=scale)
        return found

    def finish(
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
        if not self.on(spec):
            value = Value(floating(), None, spec, live)
            self.look(value)
            return value
        scale, training = self.scale(spec), torch.is_grad_enabled()
        with torch.set_grad_enabled(training and differentiable):
            steps = exact()
        if self.watch is not None:
            self.watch(spec, steps)
        if training:
            float_steps = steps if differentiable else through() if through is not None else floating() / scale
            data = StraightThrough.apply(float_steps, steps.detach(), spec.low, spec.high)
        else:
            data = steps.round().clamp_(spec.low, spec.high)
        value = Value(data, scale, spec, live)
        self.look(value, steps)
        return value

    def look(self, value: Value, steps: Tensor | None = None) -> None:
        """Let observers see a tensor, before it was rounded, and note it.

        Slots are looked at in frames that have a track. (One frame of three in a clip of three has none; on a track's
        way through attention its values are the largest.) Calibration, which may never see a track, takes all frames.
        """
        spec, scale = value.spec, 1.0 if steps is None else number(value.scale)
        assert spec is not None
        if self.observing and self.ranges is not None:
            seen, live = value.data if steps is None else steps, value.live
            if live is not None and self._mask is not None and not self.calibrating:
                if self._tracked is None:
                    self._tracked = self._mask.flatten(1).amax(1).reshape(-1, 1, 1, 1)
                live = live * self._tracked
            self.ranges.observe(spec, seen, live, scale, calibrating=self.calibrating)
        if self.record is not None:
            name, again = spec.name, 1
            while name in self.record:
                name, again = f"{spec.name}@{again}", again + 1
            self.record[name] = value.real.detach()

    # Inputs and outputs.

    def enter(self, graph: nn.Module, mask: Tensor | None = None) -> None:
        self.graph = self.paths[id(graph)][0]
        self._mask, self._tracked = mask, None
        if self.record is not None and (mask is None or self.graph == "qim"):
            self.record.clear()

    def image(self, image: Tensor) -> Value:
        return self._input(self.spec("image", "input"), FLOAT.image(image))

    def input(self, name: str, x: Tensor) -> Value:
        assert self._mask is not None
        return self._input(self.spec(name, "input"), x, self._mask.reshape(len(x), 1, *x.shape[2:]))

    def _input(self, spec: TensorSpec, x: Tensor, live: Tensor | None = None) -> Value:
        def exact() -> Tensor:
            return functions.entered(TORCH, x, self.scale(spec))

        return self.finish(spec, lambda: x, exact, live, differentiable=True)

    def output(self, x: Value) -> Tensor:
        return x.real

    def constant(self, x: Tensor) -> Value:
        return Value((x * 127).round(), CONSTANT_SCALE) if self.quantising else Value(x)

    def detect_query(self, detect: DetectQueries) -> Value:
        """The learned queries `[1, C, D / W, W]` on their grid."""
        return self._input(self.spec("detect.query", "input"), detect.query)

    def learned(self, detect: DetectQueries) -> Value:
        return self._input(self.spec("detect.residual", "input"), detect.query)

    def slots(self, detect: DetectQueries, track_query: Value) -> Value:
        learned = self.detect_query(detect)
        spread = replace(learned, data=learned.data.expand(len(track_query.data), -1, -1, -1))
        return self.cat([spread, track_query])

    def references(self, detect: DetectQueries, track_reference: Tensor) -> Tensor:
        learned = detect.reference().expand(len(track_reference), -1, -1, -1)
        if self.quantising:
            exact = detect.reference_logits.detach().double().sigmoid().expand_as(learned)
            learned = learned + (functions.on_reference_grid(TORCH, exact).float() - learned).detach()
            track_reference = functions.on_reference_grid(TORCH, track_reference)
        return torch.cat((learned, track_reference.detach()), 2)

    def masks(self, mask: Tensor, num_detect: int) -> tuple[Tensor, Tensor]:
        return mask, F.pad(mask, (num_detect, 0), value=1.0)

    # Moving data about.

    def rows(self, x: Value, first: int, end: int | None) -> Value:
        live = None if x.live is None else x.live[:, :, first:end]
        return replace(x, data=x.data[:, :, first:end], live=live)

    def cat(self, parts: Sequence[Value]) -> Value:
        parts = self._alike([p for p in parts if p.data.shape[2]])
        live = None
        if any(p.live is not None for p in parts):
            live = torch.cat([p.live if p.live is not None else torch.ones_like(p.data[:, :1]) for p in parts], 2)
        return replace(parts[-1], data=torch.cat([p.data for p in parts], 2), live=live)

    def _alike(self, values: Sequence[Value]) -> Sequence[Value]:
        """On one grid; in float if one of them is."""
        self.share(*(x.spec for x in values))
        on_grids = all(x.scale is not None for x in values)
        return values if on_grids else [replace(x, data=x.real, scale=None) for x in values]

    def upsample(self, x: Value, like: Value) -> Value:
        return replace(x, data=FLOAT.upsample(x.data, like.data))

    # Products.

    def layer(self, x: Any, spec: TensorSpec, module: Any) -> IntegerLayer:
        """The integers of a product of `x` (whose `scale` counts), which gives the tensor `spec`.

        Raises UserError where its sum can overflow, and where a rule has fixed a scale of `x` so small that, for the
        sake of a bias, weights are on a coarser grid than one scale for all of them would give.
        """

        def make() -> IntegerLayer:
            limit = self.scheme.weight_limit
            with named(spec, "it needs fewer inputs, or weights of 7 bits (Scheme.weight_bits)"):
                made = integer_layer(module.weight, module.bias, x.scale, limit, per_channel=spec.rule.per_channel)
            fixed = [s.rule for s in self.specs.values() if s.rule.scale is not None and spec.key in s.readers]
            if fixed and MIN_SCALE < module.weight.abs().amax() / limit < made.scale.amax():
                told = f"{spec.graph} {spec.name}: its bias leaves too few steps to its weights"
                raise UserError(f"{told}; give rule {fixed[0].label!r} a scale above {fixed[0].scale:g}")
            return made

        found: IntegerLayer = self.known(id(module), make)
        if self.watch_product is not None:
            self.watch_product(module, x, found)
        return found

    def _product(self, spec: TensorSpec, module: Any, x: Value, floating: Callable[[Tensor], Tensor]) -> Value:
        """A convolution or projection; `floating` also has what follows it."""
        (x,) = self.operands(spec, x)

        def exact() -> Tensor:
            step = self.scale(spec)
            if torch.is_grad_enabled():
                key = id(module), spec.key  # a module may make two tensors, of parts of the slots
                trained = self.known(key, lambda: trained_layer(module.weight, module.bias, x.scale, step))
                return trained.of_map(x.data, module).permute(0, 3, 1, 2)
            layer = self.layer(x, spec, module)
            step = torch.as_tensor(step, dtype=torch.float32, device=x.data.device)
            return functions.product(TORCH, layer.of_map(x.data, module), layer.step / step).permute(0, 3, 1, 2)

        return self.finish(spec, lambda: floating(x.real), exact, x.live, differentiable=True)

    def conv(self, layer: Any, x: Value) -> Value:
        activation = layer[2] if len(layer) > 2 else None
        ceiling = 6.0 if isinstance(activation, nn.ReLU6) else None
        spec = self.spec(layer, "conv", [x], relu=activation is not None, ceiling=ceiling)
        return self._product(spec, layer[0], x, layer)

    def linear(self, layer: nn.Module, x: Value, *, relu: bool = False) -> Value:
        spec = self.spec(layer, "linear", [x], relu=relu)
        return self._product(spec, layer, x, lambda real: FLOAT.linear(layer, real, relu=relu))

    def head(self, layer: nn.Module, x: Value) -> Tensor:
        return self.tokens(layer, x).transpose(1, 2).unflatten(2, x.shape[2:])

    def tokens(self, layer: nn.Module, x: Value) -> Tensor:
        """A `TokenLinear`: accumulators in real units, `[B, N, out]`."""
        spec = self.spec(layer, "head", [x])
        (x,) = self.operands(spec, x)
        if not self.on(spec) or torch.is_grad_enabled():  # in training no weight is rounded
            out: Tensor = layer(x.real)
            return out
        integers = self.layer(x, spec, layer)
        return integers.of_tokens(x.data.flatten(2).transpose(1, 2)) * integers.step

    def values(self, attentions: Sequence[DeformableAttention], memory: Value) -> Value:
        each = self._alike([self.linear(attention.value, memory) for attention in attentions])
        return replace(each[0], data=torch.stack([x.data for x in each]))
