"""The arithmetic of `functions.py` in PyTorch, and products of integers in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.quantization.functions import EXACT, ONE


class TorchArithmetic:
    """Integers in float32 tensors. No gradients: those come from the float functions (`grids.py`)."""

    def const(self, x: Any) -> Tensor:
        """A tensor, so that a division by it or of it is one division."""
        return x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x, np.float32))

    def apart(self, x: Tensor) -> Tensor:
        """Nothing: operators of their own never contract."""
        return x

    def round(self, x: Tensor) -> Tensor:
        return x.round()

    def clip(self, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    def maximum(self, x: Tensor, low: float) -> Tensor:
        return x.clamp(min=float(low))

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def absolute(self, x: Tensor) -> Tensor:
        return x.abs()

    def exp(self, x: Tensor) -> Tensor:
        return x.exp()

    def sqrt(self, x: Tensor) -> Tensor:
        """torch's own float32 √ is not always the nearest number; double rounding of the double one is harmless."""
        return x.double().sqrt().float()

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True)

    def sum_squares(self, x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    def max(self, x: Tensor) -> Tensor:
        return x.amax(-1, keepdim=True)

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
        mixed = exact_sum(
            lambda part: torch.matmul(shares[..., part], value[..., part, :]), shares.shape[-1], 255 * 128
        )
        return mixed, exact_sum(lambda part: shares[..., part].sum(-1, keepdim=True) * ONE, shares.shape[-1], 255 * ONE)


def exact_sum(part: Callable[[slice], Tensor], num_terms: int, largest: float) -> Tensor:
    """A sum of `num_terms` integers of at most `largest`, of which `part(slice)` sums some, rounded once to float32.

    Below 2²⁴ that is one float32 sum. Beyond, parts below it are added in double.
    """
    size = max(1, int((EXACT - 1) // largest))
    if num_terms <= size:
        return part(slice(0, num_terms))
    parts = [part(slice(first, min(first + size, num_terms))).double() for first in range(0, num_terms, size)]
    return torch.stack(parts).sum(0).float()


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

    def linear(self, x: Tensor) -> Tensor:
        """Accumulators of `x` `[…, in]`."""
        return self._sum(lambda p, bias: F.linear(x[..., p], self.weight[:, p], bias))

    def convolution(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """Accumulators of `x` `[B, in, H, W]`, shapes as `conv` has them."""
        settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
        if len(self.parts) == 1:
            return F.conv2d(x, self.weight, self.bias, *settings)
        return self._sum(lambda p, bias: F.conv2d(x[:, p], self.weight[:, p], bias, *settings))

    def _sum(self, part: Callable[[slice, Tensor | None], Tensor]) -> Tensor:
        first, *others = self.parts
        total = part(first, self.bias)
        if others:
            total = torch.stack([total.double(), *(part(p, None).double() for p in others)]).sum(0).float()
        return total


def side_by_side(layers: Sequence[IntegerLayer]) -> IntegerLayer:
    """Products of one input as one product of all their outputs."""
    joined = [torch.cat([getattr(x, name) for x in layers]) for name in ("weight", "bias", "scale", "step")]
    return IntegerLayer(*joined, max((x.parts for x in layers), key=len))
