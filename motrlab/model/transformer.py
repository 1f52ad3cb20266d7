"""Deformable encoder and decoder layers, post-norm, and the sine codes of positions.

Shape legend: B batch, C channels, H × W cells of the feature map, R × W token rows and columns (detect rows first),
N = R·W slots. Reference boxes `[B, 4, R, W]`, cxcywh as fractions of the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from motrlab.model.attention import Attention, ChannelNorm, DeformableAttention, FeedForward

TEMPERATURE = 20.0  # of the sine codes (DAB-DETR, arXiv 2201.12329, section 4.4)


def sine_code(positions: Tensor, channels: int) -> Tensor:
    """Sine code of values: `[B, K, R, W]` in 0..1 → `[B, K·channels, R, W]`, half sines and half cosines."""
    half = channels // 2
    frequency = 2 * math.pi * TEMPERATURE ** (-torch.arange(half, device=positions.device) / half)
    angle = positions[:, :, None] * frequency[:, None, None]  # [B, K, half, R, W]
    return torch.cat((angle.sin(), angle.cos()), 2).flatten(1, 2)


def cell_centres(height: int, width: int) -> Tensor:
    """Reference boxes of the cells of a map: `[1, 4, H, W]`, each of the size of two cells.

    An encoder offset of one is then one cell (offsets count in half sizes).
    """
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    cy, cx = torch.meshgrid(y, x, indexing="ij")
    size = (torch.full_like(cx, 2 / width), torch.full_like(cy, 2 / height))
    return torch.stack((cx, cy, *size))[None]


class EncoderLayer(nn.Module):
    """Deformable self-attention over the feature map, then a feed-forward block."""

    def __init__(self, channels: int, num_heads: int, num_points: int, ffn_channels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(channels, num_heads, num_points)
        self.norm1 = ChannelNorm(channels)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norm2 = ChannelNorm(channels)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor) -> Tensor:
        """`x`, `position` `[B, C, H, W]`, `reference` `[B, 4, H, W]`."""
        x = self.norm1(x + self.attention(x + position, reference, self.attention.project(x)))
        out: Tensor = self.norm2(x + self.ffn(x))
        return out


class DecoderLayer(nn.Module):
    """Self-attention among track slots, then among all slots, deformable cross-attention, feed-forward."""

    def __init__(self, channels: int, num_heads: int, num_points: int, ffn_channels: int) -> None:
        super().__init__()
        self.track_attention = Attention(channels, num_heads)
        self.norm1 = ChannelNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.norm2 = ChannelNorm(channels)
        self.cross_attention = DeformableAttention(channels, num_heads, num_points)
        self.norm3 = ChannelNorm(channels)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norm4 = ChannelNorm(channels)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        value: Tensor,
        track_bias: Tensor,
        bias: Tensor,
        rows: tuple[int, int],
    ) -> Tensor:
        """`x`, `position` `[B, C, R, W]`; `track_bias` `[B, 1, 1, T]`; `bias` `[B, M, N, N]` or broadcastable.

        `value` `[B, C, H, W]`: the memory as `cross_attention.project` gives it. `rows`: the first row of the track
        slots, and the one behind their last.
        """
        first, end = rows
        detect, track, extra = x[:, :, :first], x[:, :, first:end], x[:, :, end:]
        track = self.norm1(track + self.track_attention(track + position[:, :, first:end], track, track_bias))
        x = torch.cat((detect, track, extra) if extra.shape[2] else (detect, track), 2)
        x = self.norm2(x + self.self_attention(x + position, x, bias))
        x = self.norm3(x + self.cross_attention(x + position, reference, value))
        out: Tensor = self.norm4(x + self.ffn(x))
        return out
