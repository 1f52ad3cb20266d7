"""The arithmetic of `functions.py` in PyTorch, and products of integers in float32."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config.scheme import MIN_SCALE
from motrlab.quantization.functions import ONE, exact_parts, key_parts

LARGEST_BIAS = 2**22  # in steps of the accumulator


class TorchArithmetic:
    """Integers in float32 tensors. How gradients pass is a matter of `grids.py`."""

    def const(self, x: Any) -> Tensor:
        """A tensor, so that a division by it or of it is one division."""
        return x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x, np.float32))

    def apart(self, x: Tensor) -> Tensor:
        """Nothing: operators of their own never contract."""
        return x

    cat = staticmethod(functools.partial(torch.cat, dim=1))
    max = staticmethod(functools.partial(torch.amax, dim=-1, keepdim=True))
    sum = staticmethod(functools.partial(torch.sum, dim=-1, keepdim=True))
    round = staticmethod(torch.round)
    clip = staticmethod(torch.clamp)
    relu = staticmethod(torch.relu)
    absolute = staticmethod(torch.abs)
    exp = staticmethod(torch.exp)

    def maximum(self, x: Tensor, low: float) -> Tensor:
        return x.clamp(min=float(low))

    def sqrt(self, x: Tensor) -> Tensor:
        """torch's own float32 √ is not always the nearest number; double rounding of the double one is harmless."""
        return x.double().sqrt().float()

    def sum_squares(self, x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    def unsigned_grid(self, x: Tensor, levels: int) -> Tensor:
        return (x * levels).round()

    def lookup(self, table: Any, index: Tensor) -> Tensor:
        """`table` `[n]` or `[n, …]`: entries, or rows, by `index`."""
        return torch.from_numpy(table).to(index.device)[index.long()]

    def matmul(self, x: Tensor, y: Tensor, factor: Any) -> Tensor:
        """Of int8 operands with no more than 1,024 terms, times a factor."""
        return torch.matmul(x, y) * self.const(factor)

    def weighted(self, shares: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Σ E·v and 127 · ΣE; `shares` are of 8 bits."""
        parts = [(shares[..., p], value[..., p, :]) for p in key_parts(shares.shape[-1])]
        return exact_sum([e @ v for e, v in parts]), exact_sum([self.sum(e) * ONE for e, _ in parts])


def exact_sum(parts: Sequence[Tensor]) -> Tensor:
    """The sum of integers, rounded once to float32 as integer kernels do it."""
    return parts[0] if len(parts) == 1 else torch.stack([p.double() for p in parts]).sum(0).float()


def exact_conv(x: Tensor, weight: Tensor, bias: Tensor | None, *shape: Any) -> Tensor:
    """`F.conv2d` of integers.

    GPUs have ways to convolve float32 that round (TF32, Winograd): there it is done in double. What is trained is not
    whole numbers, and stays as it is.
    """
    if x.device.type == "cpu" or torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, *shape)
    wide = None if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), wide, *shape).round().float()


@dataclass(frozen=True)
class IntegerLayer:
    """A product's integers: `weight` `[out, in, …]`, `bias` `[out]`; scales of the weights, steps of the accumulator.

    `parts`: slices of its inputs, each of which sums to less than 2²⁴ with these weights.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    step: Tensor
    parts: tuple[slice, ...]

    def reordered(self, order: Any) -> IntegerLayer:
        """With its outputs in another order."""
        return IntegerLayer(self.weight[order], self.bias[order], self.scale[order], self.step[order], self.parts)

    def of_tokens(self, x: Tensor) -> Tensor:
        """Accumulators `[…, out]` of `x` `[…, in]`, for a matrix or a 1×1 convolution."""
        weight, first = self.weight.flatten(1), self.parts[0]
        return exact_sum([F.linear(x[..., p], weight[:, p], self.bias if p is first else None) for p in self.parts])

    def of_map(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """Accumulators `[B, H, W, out]` of `x` `[B, in, H, W]`, by the shapes of `conv`."""
        if conv.kernel_size == (1, 1) and conv.groups == 1 and conv.stride == (1, 1):
            return self.of_tokens(x.permute(0, 2, 3, 1))
        shape = (conv.stride, tuple(map(int, conv.padding)), conv.dilation, conv.groups)
        if len(self.parts) == 1:  # as depthwise kernels always are
            return exact_conv(x, self.weight, self.bias, *shape).permute(0, 2, 3, 1)
        first, weight = self.parts[0], self.weight
        sums = [exact_conv(x[:, p], weight[:, p], self.bias if p is first else None, *shape) for p in self.parts]
        return exact_sum(sums).permute(0, 2, 3, 1)


def _parts(weight: Tensor, bias: Tensor) -> tuple[slice, ...]:
    """Slices of the inputs of a product of integers that float32 sums exactly."""
    magnitude = weight.abs().reshape(*weight.shape[:2], -1).sum(2).double() * 255
    return exact_parts(magnitude.cpu().numpy(), bias.detach().cpu().numpy())


def trained_layer(weight: Tensor, bias: Tensor, x_scale: Any, y_scale: Any) -> IntegerLayer:
    """The same in training, where nothing is rounded (that is QAT's last step): it gives steps of the output's grid."""
    one = torch.ones((), device=weight.device)
    return IntegerLayer(weight * (x_scale / y_scale), bias / y_scale, one, one, (slice(0, weight.shape[1]),))


def integer_layer(weight: Tensor, bias: Tensor, x_scale: Any, limit: int, *, per_channel: bool) -> IntegerLayer:
    """The integers of a layer whose input is in steps of `x_scale`; `limit`: largest magnitude of a weight.

    The scales follow the weights; a bias that would pass 2²² widens them.
    """
    largest = weight.detach().abs().flatten(1).amax(1)
    x_step = torch.as_tensor(x_scale, dtype=torch.float32, device=weight.device)
    scale = (largest / limit).clamp(min=MIN_SCALE)
    scale = torch.maximum(scale, bias.detach().abs() / (x_step.detach() * LARGEST_BIAS))
    scale = scale if per_channel else scale.amax().expand_as(scale)
    steps, step = weight / scale.reshape(-1, *[1] * (weight.ndim - 1)), x_step * scale
    rounded, shift = steps.round(), (bias.double() / step.double()).round().float()
    return IntegerLayer(rounded, shift, scale, step, _parts(rounded, shift))
