"""Attention on 4-D tensors, every projection a 1×1 convolution, as the chip wants it.

Shape legend: B batch, C channels, R × W token rows and columns, N = R·W tokens, M heads, D = C / M, P points.
Token tensors are `[B, C, R, W]`; reference boxes are `[B, 4, R, W]`, cxcywh as fractions of the image.

What must leave in high precision (sampling offsets, attention weights, classes, boxes) is a `TokenLinear`: a matrix
product over `[B, N, C]`, which integer runtimes keep as int8 × int8 → float.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4  # added to the logits of keys that must not be seen; exp(-1e4) is 0 in every precision


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channel axis of `[B, C, R, W]`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TokenLinear(nn.Linear):
    """`[B, C, R, W]` → `[B, N, out]`."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(2).transpose(1, 2))


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution, exported as one.

    In eager mode it is computed as a matrix product over channels-last tokens: the same numbers, and a multiple faster
    in training, where a convolution's backward pass on a handful of tokens is mostly overhead.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return super().forward(input)
        return self.of_tokens(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """The same for channels that come last, `[..., C]` → `[..., out]`; never exported."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)

    def of_map(self, x: Tensor) -> Tensor:
        """The same for a map: `[B, C, H, W]` → `[B, out, H·W]`, channel by channel in memory; never exported."""
        weight = self.weight.flatten(1).expand(len(x), -1, -1)
        assert self.bias is not None
        return torch.baddbmm(self.bias[:, None], weight, x.flatten(2))


class FeedForward(nn.Module):
    """Two 1×1 convolutions with ReLU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = PointwiseConv(channels, hidden)
        self.project = PointwiseConv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(F.relu(self.expand(x)))
        return out


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

    def _heads(self, x: Tensor) -> Tensor:
        """`[B, C, R, W]` → `[B, M, D, N]`."""
        return x.reshape(-1, self.num_heads, self.head_channels, x.shape[2] * x.shape[3])

    def _of_tokens(self, query_key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """What `forward` exports, in fewer steps: on a few dozen slots each step costs more than its arithmetic."""
        tokens, values = query_key.flatten(2).transpose(1, 2), value.flatten(2).transpose(1, 2)  # [B, N, C]
        layers = ((self.query, tokens), (self.key, tokens), (self.value, values))
        shape = (*tokens.shape[:2], self.num_heads, self.head_channels)
        q, k, v = (layer.of_tokens(x).reshape(shape).transpose(1, 2) for layer, x in layers)  # [B, M, N, D]
        if bias.requires_grad:  # the fused operator would take it apart again
            logits = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_channels)
            mixed = torch.matmul(torch.softmax(logits + bias, dim=-1), v)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        out = self.out.of_tokens(mixed.transpose(1, 2).reshape(tokens.shape))
        return out.transpose(1, 2).reshape(query_key.shape)

    def forward(self, query_key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Self-attention: `query_key`, `value` `[B, C, R, W]`, `bias` broadcastable to `[B, M, N, N]`."""
        if not torch.compiler.is_exporting():
            return self._of_tokens(query_key, value, bias)
        query, key = self._heads(self.query(query_key)), self._heads(self.key(query_key))
        logits = torch.matmul(query.transpose(2, 3), key) / math.sqrt(self.head_channels)
        weight = torch.softmax(logits + bias, dim=-1)
        mixed = torch.matmul(self._heads(self.value(value)), weight.transpose(2, 3))  # [B, M, D, N]
        out: Tensor = self.out(mixed.reshape(query_key.shape))
        return out


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
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None] * distance).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def project(self, memory: Tensor) -> Tensor:
        """What is sampled: `memory` `[B, C, H, W]` → values `[B, C, H, W]`."""
        if torch.compiler.is_exporting():
            value: Tensor = self.value(memory)
            return value
        # Channel by channel, as sampling wants it: eager convolutions leave channels last.
        return self.value.of_map(memory).reshape(memory.shape)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor) -> Tensor:
        """`query` `[B, C, R, W]`, `reference` `[B, 4, R, W]`, `value` `[B, C, H, W]` (`project`) → `[B, C, R, W]`."""
        tokens, heads, points = query.shape[2] * query.shape[3], self.num_heads, self.num_points
        value = value.reshape(-1, self.head_channels, value.shape[2], value.shape[3])
        grid = self._sampling_grid(self.offsets(query), reference)
        # Coordinates in half precision would miss by several pixels, so sampling is always done in float32.
        sampled = F.grid_sample(value.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = torch.sigmoid(self.weights(query).float()).reshape(-1, tokens, heads, points).transpose(1, 2)
        mixed = (sampled * weight.reshape(-1, 1, tokens, points)).sum(-1)  # [B·M, D, N]
        out: Tensor = self.out(mixed.reshape(query.shape))
        return out

    def _sampling_grid(self, offsets: Tensor, reference: Tensor) -> Tensor:
        """`offsets` `[B, N, M·P·2]`, `reference` `[B, 4, R, W]` → `[B·M, N, P, 2]`, from -1 to 1 over the image."""
        tokens, heads, points = offsets.shape[1], self.num_heads, self.num_points
        steps = offsets.float().reshape(-1, tokens, heads, points, 2).permute(0, 2, 1, 3, 4)  # [B, M, N, P, 2]
        box = reference.float().flatten(2).transpose(1, 2)[:, None, :, None]  # [B, 1, N, 1, 4]
        # Scaled on the boxes, of which there are fewer than sampling points: centre + steps · half size / points.
        grid = (box[..., :2] * 2 - 1) + steps * (box[..., 2:] * (1 / points))
        return grid.reshape(-1, tokens, points, 2)


class OverlapBias(nn.Module):
    """Attention bias from the overlap of two reference boxes: lets a detect slot see that somebody is tracked.

    The logits get, per head and per pair of slot kinds, a learned factor times
    relu(1 - |Δx| / ½(wᵢ+wⱼ)) · relu(1 - |Δy| / ½(hᵢ+hⱼ)). Without it detect slots stay silent on people who enter
    late. A departure from the reference, off in `mot17`.
    """

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
        assert isinstance(self.kind, Tensor)
        kind = self.kind
        if reference.shape[2] * reference.shape[3] > len(kind):  # training-only slots
            extra = kind[:1].expand(reference.shape[2] * reference.shape[3] - len(kind), -1)
            kind = torch.cat((kind, extra))
        factor = kind @ self.factor @ kind.T  # [M, N, N]
        return (overlap[:, :1] * overlap[:, 1:]) * factor
