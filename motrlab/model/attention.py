"""Attention on 4-D tensors, every projection a 1×1 convolution, as the chip needs it.

Shape legend: B batch, C channels, R × W token rows and columns, N = R·W tokens, M heads, D = C / M, P points.
Token tensors are `[B, C, R, W]`; reference boxes are `[B, 4, R, W]`, cxcywh as fractions of the image.

What leaves on no grid of int8 (sampling offsets, logits of sampling weights, classes, box deltas) is a `TokenLinear`:
a matrix product over `[B, N, C]`, of which integer kernels give the sums themselves.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.model.operations import FLOAT, Operations


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channel axis of `[B, C, R, W]`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TokenLinear(nn.Linear):
    """`[B, C, R, W]` → `[B, N, out]`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(2).transpose(1, 2))


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution, computed as a matrix product over channels-last tokens.

    The same numbers, and a multiple faster in training, where a convolution's backward pass on a handful of tokens is
    mostly overhead.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.of_tokens(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """The same for channels that come last, `[..., C]` → `[..., out]`."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class FeedForward(nn.Module):
    """Two 1×1 convolutions with ReLU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = PointwiseConv(channels, hidden)
        self.project = PointwiseConv(hidden, channels)

    def forward(self, x: Any, net: Operations = FLOAT) -> Any:
        return net.linear(self.project, net.linear(self.expand, x, relu=True))


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762, section 3.2) with an additive bias on the logits."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_channels = channels // num_heads
        self.query = PointwiseConv(channels, channels)
        self.key = PointwiseConv(channels, channels)
        self.value = PointwiseConv(channels, channels)
        self.out = PointwiseConv(channels, channels)

    def forward(self, query_key: Any, value: Any, bias: Any, net: Operations = FLOAT) -> Any:
        """Self-attention: `query_key`, `value` `[B, C, R, W]`, `bias` broadcastable to `[B, M, N, N]`."""
        return net.linear(self.out, net.attention(self, query_key, value, bias))


class DeformableAttention(nn.Module):
    """Single-level deformable attention (arXiv 2010.04159, section 4.1) with sigmoid weights.

    Sampling points are offsets from the reference's centre in units of half its size, divided by the number of
    points.
    """

    def __init__(self, channels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_points = num_points
        self.head_channels = channels // num_heads
        self.value = PointwiseConv(channels, channels)
        self.offsets = TokenLinear(channels, num_heads * num_points * 2)
        self.weights = TokenLinear(channels, num_heads * num_points)
        self.out = PointwiseConv(channels, channels)
        self._spread_points()

    def _spread_points(self) -> None:
        """Start with one direction per head and growing distance per point."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)[None, :, None]
        for parameter in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None] * distance).flatten())

    def forward(self, query: Any, reference: Any, value: Any, net: Operations = FLOAT) -> Any:
        """`query` `[B, C, R, W]`, `reference` `[B, 4, R, W]`, `value` `[B, C, H, W]` → `[B, C, R, W]`.

        `value` is one of `Operations.values`.
        """
        return net.linear(self.out, net.sample(self, query, reference, value))


class OverlapBias(nn.Module):
    """Attention bias from the overlap of two reference boxes: lets a detect slot see that somebody is tracked.

    The logits get, per head and per pair of slot kinds, a learned factor times
    relu(1 - |Δx| / ½(wᵢ+wⱼ)) · relu(1 - |Δy| / ½(hᵢ+hⱼ)). Without it detect slots stay silent on people who enter
    late. A departure from the reference, off in `mot17`.
    """

    kind: Tensor

    def __init__(self, num_heads: int, num_detect: int, num_track: int) -> None:
        super().__init__()
        start = torch.linspace(0, 5, num_heads)
        self.factor = nn.Parameter(start[:, None, None].repeat(1, 2, 2))  # head, kind of query, kind of key
        kind = torch.cat((torch.zeros(num_detect), torch.ones(num_track)))
        self.register_buffer("kind", torch.stack((1 - kind, kind), -1), persistent=False)  # [N, 2] one-hot

    def forward(self, reference: Tensor) -> Tensor:
        """`[B, 4, R, W]` → `[B, M, N, N]`; slots behind the track slots count as detect slots."""
        centre, size = reference.detach().float().flatten(2).split(2, dim=1)
        distance = (centre[..., :, None] - centre[..., None, :]).abs()  # [B, 2, N, N]
        reach = (size[..., :, None] + size[..., None, :]).clamp(min=1e-3) * 0.5
        overlap = F.relu(1 - distance * reach.reciprocal())
        return (overlap[:, :1] * overlap[:, 1:]) * self.factors(reference.shape[2] * reference.shape[3])

    def factors(self, num_slots: int) -> Tensor:
        """The factor of every pair of slots: `[M, N, N]`."""
        kind = self.kind
        if num_slots > len(kind):  # training-only slots
            kind = torch.cat((kind, kind[:1].expand(num_slots - len(kind), -1)))
        return kind @ self.factor @ kind.T
