"""The functions of the fixed-point network on `Value`s in PyTorch: sums, norms, attention, sampling, boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.model.attention import Attention, DeformableAttention, OverlapBias
from motrlab.model.base import BaseGraph
from motrlab.model.operations import EPSILON, FLOAT, LEAST_SIZE, SIZE_LIMIT, attend, sample_map, sine_frequencies
from motrlab.quantization import functions
from motrlab.quantization.grids import TORCH, Grids, named
from motrlab.quantization.tensors import TensorSpec, Value, number


@dataclass(frozen=True)
class Bias:
    """What is added to attention logits: the mask `[B, 1, 1, N]` (1: seen), and the overlap of reference boxes."""

    mask: Tensor
    overlap: OverlapBias | None = None
    reference: Tensor | None = None

    @property
    def real(self) -> Tensor:
        return FLOAT.bias(FLOAT.masks(self.mask, 0)[0], self.overlap, self.reference)

    def steps(self) -> tuple[Tensor, Tensor | None]:
        """Mask and overlap in steps of 1/16."""
        masked = (1 - self.mask) * functions.HIDDEN
        if self.overlap is None or self.reference is None:
            return masked, None
        centre, size = (self.reference.flatten(2) * 0.5).split(2, dim=1)
        pair = [x for box in (centre, size) for x in (box[..., :, None], box[..., None, :])]
        along = functions.overlap(TORCH, *pair)
        return masked, along[:, :1] * along[:, 1:] * (self.overlap.factors(centre.shape[2]) * functions.LOGIT)


class GridOperations(Grids):
    """All operations of the network."""

    def bias(self, masked: Tensor, overlap: OverlapBias | None = None, reference: Any = None) -> Bias:
        return Bias(masked, overlap, reference)

    def add(self, owner: nn.Module, x: Value, y: Value) -> Value:
        return self._sum(self.spec(owner, "sum", [x, y]), x, y, (1.0, 1.0))

    def blend(self, owner: nn.Module, x: Value, y: Value, share: float) -> Value:
        return self._sum(self.spec("memory", "sum", [x, y]), x, y, (1 - share, share))

    def _sum(self, spec: TensorSpec, x: Value, y: Value, shares: tuple[float, float]) -> Value:
        x, y = self.operands(spec, x, y)

        def exact() -> Tensor:
            first, second = (number(v.scale) * share for v, share in zip((x, y), shares, strict=True))
            return functions.add(TORCH, x.data, y.data, self.sum_factors(spec, first, second))

        fixed = self.ranges is None or not self.ranges.scale.requires_grad  # no gradient goes to scales
        return self.finish(spec, lambda: x.real * shares[0] + y.real * shares[1], exact, x.live, differentiable=fixed)

    def sum_factors(self, spec: TensorSpec, x_scale: float, y_scale: float) -> tuple[float, float]:
        """As `functions.add_factors`. Raises UserError where the sum's grid is too fine."""
        with named(spec, f"give its rule {spec.rule.label!r} a coarser scale, or calibrate again"):
            return functions.add_factors(x_scale, y_scale, number(self.scale(spec)), wide=spec.bits == 16)

    def norm(self, norm: Any, x: Value, branch: Value) -> Value:
        self.share(x.spec, branch.spec)
        spec = self.spec(norm, "norm", [x, branch])
        x, branch = self.operands(spec, x, branch)
        first, second = (v.data.permute(0, 2, 3, 1) for v in (x, branch))

        def exact() -> Tensor:
            constants = self.norm_constants(norm, x.scale, spec)
            return functions.norm(TORCH, first, second, *constants).permute(0, 3, 1, 2)

        def through() -> Tensor:
            scale, rows = self.scale(spec), first + second
            constants = norm.weight / scale, norm.bias / scale, norm.eps / number(x.scale) ** 2
            return F.layer_norm(rows, rows.shape[-1:], *constants).permute(0, 3, 1, 2)

        return self.finish(spec, lambda: norm(x.real + branch.real), exact, branch.live, through=through)

    def norm_constants(self, norm: nn.LayerNorm, x_scale: Any, spec: TensorSpec) -> tuple[Tensor, Tensor, Tensor]:
        """As `functions.norm_constants`."""

        def make() -> tuple[Tensor, ...]:
            weight, bias = (p.detach().cpu().double().numpy() for p in (norm.weight, norm.bias))
            found = functions.norm_constants(weight, bias, norm.eps, number(x_scale), number(self.scale(spec)))
            return tuple(TORCH.const(c).to(norm.weight.device) for c in found)

        constants: tuple[Tensor, Tensor, Tensor] = self.known((spec.key, number(x_scale)), make)
        return constants

    def attention(self, attention: Attention, query_key: Value, value: Value, bias: Bias) -> Value:
        layers = ((attention.query, query_key), (attention.key, query_key), (attention.value, value))
        parts = [self.linear(layer, x) for layer, x in layers]
        self.share(parts[0].spec, parts[1].spec)
        spec = self.spec(attention, "attention", parts, ".mixed")
        parts = self.operands(spec, *parts)

        def split(x: Tensor) -> Tensor:
            """`[B, C, R, W]` → `[B, M, N, D]`."""
            tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
            return tokens.unflatten(2, (attention.num_heads, attention.head_channels)).transpose(1, 2)

        def joined(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(len(x), *query_key.shape[2:], -1).permute(0, 3, 1, 2)

        def exact() -> Tensor:
            q, k, v = (split(p.data) for p in parts)
            factors = self.attention_factors(attention, [number(p.scale) for p in parts], spec)
            operands = (q, k.transpose(2, 3), v, *bias.steps())
            return joined(functions.attention(TORCH, *operands, *factors, self.scheme.levels))

        def floating() -> Tensor:
            q, k, v = (split(p.real) for p in parts)
            return joined(attend(q, k, v, bias.real))

        return self.finish(spec, floating, exact, query_key.live)

    def attention_factors(self, attention: Attention, scales: Sequence[float], spec: TensorSpec) -> tuple[Any, Any]:
        """From sums to logits, and from the ratio of sums to steps of the output; `scales` of query, key and value."""
        query, key, value = scales
        logit = query * key / attention.head_channels**0.5 * functions.LOGIT
        return functions.f32(logit), functions.f32(value * functions.ONE / number(self.scale(spec)))

    def sample(self, attention: DeformableAttention, query: Value, reference: Tensor, value: Value) -> Value:
        offsets, logits = self.tokens(attention.offsets, query), self.tokens(attention.weights, query)
        spec = self.spec(attention, "sampling", [query, value], ".mixed")
        (value,) = self.operands(spec, value)

        def exact() -> Tensor:
            levels, factor = self.sampling_factors(attention, number(value.scale), spec)
            mixed = _sampled(attention, offsets.detach(), logits.detach(), reference, value.data, levels)
            return mixed.reshape(query.shape) * float(factor)

        given = attention, offsets, logits, reference
        return self.finish(spec, lambda: sample_map(*given, value.real, query.shape), exact, query.live)

    def sampling_factors(self, attention: DeformableAttention, scale: float, spec: TensorSpec) -> tuple[int, Any]:
        """Levels of the weights, and the factor from their sum to steps of the output, for values of a scale."""
        levels = functions.sampling_levels(attention.num_points, self.scheme.levels)
        return levels, functions.f32(scale / (number(self.scale(spec)) * levels))

    def sine(self, reference: Tensor, channels: int) -> Value:
        spec = self.spec("position.sine", "input")

        def exact() -> Tensor:
            index = functions.sine_rows(TORCH, reference.detach())
            rows = TORCH.lookup(self.sine_table(channels), index)  # [B, 4, R, W, channels]
            return rows.permute(0, 1, 4, 2, 3).flatten(1, 2)

        return self.finish(spec, lambda: FLOAT.sine(reference, channels), exact)

    def sine_table(self, channels: int) -> functions.Float32:
        """As `functions.sine_table`, of the model's own frequencies."""
        return functions.sine_table(tuple(sine_frequencies(channels).double().tolist()))

    def refine(self, base: BaseGraph, delta: Tensor, reference: Tensor) -> Tensor:
        if not self.quantising:
            return FLOAT.refine(base, delta, reference)
        with torch.no_grad():
            boxes = self.refined(TORCH, base, delta, reference)
        if not torch.is_grad_enabled():
            return boxes
        floating = FLOAT.refine(base, delta, reference)
        return floating + (boxes - floating).detach()

    def refined(self, xp: Any, base: BaseGraph, delta: Any, reference: Any) -> Any:
        """As `functions.refined`, of a head's real values, by the model's own limits."""
        limits = {"limit": SIZE_LIMIT, "least": LEAST_SIZE, "epsilon": EPSILON}
        relative = base.config.relative_boxes
        return functions.refined(xp, functions.box_deltas(xp, delta), reference, relative=relative, **limits)

    def next_reference(self, base: BaseGraph, boxes: Tensor) -> Tensor:
        if base.config.relative_boxes or not self.quantising:
            return FLOAT.next_reference(base, boxes)
        return functions.box_of_logits(TORCH, boxes.detach())


def _sampled(
    attention: DeformableAttention, offsets: Tensor, logits: Tensor, reference: Tensor, value: Tensor, levels: int
) -> Tensor:
    """Σ weight · sample over the points, `[B·M, D, N]`; arguments as of `operations.sample_map`, `value` in steps."""
    heads, points, tokens = attention.num_heads, attention.num_points, offsets.shape[1]
    box = reference.flatten(2).transpose(1, 2)[:, :, None, None]  # [B, N, 1, 1, 4]
    steps = offsets.unflatten(2, (heads, points, 2))
    axes = torch.from_numpy(functions.POSITION).to(steps.device)
    grid = functions.positions(TORCH, steps, box[..., :2], box[..., 2:], axes, points)
    value = value.reshape(-1, attention.head_channels, *value.shape[2:])
    grid = grid.transpose(1, 2).reshape(len(value), tokens, points, 2)
    sampled = F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    index = functions.to_grid(TORCH, logits * functions.LOGIT, -128, 127) + 128
    weight = TORCH.lookup(functions.sigmoid_table(levels), index).unflatten(2, (heads, points)).transpose(1, 2)
    return functions.weigh(TORCH, sampled, weight.reshape(-1, 1, tokens, points), points).sum(-1)
