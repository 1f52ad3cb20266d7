"""Deformable encoder and decoder layers, post-norm.

Shape legend: B batch, C channels, H × W cells of the feature map, R × W token rows and columns (detect rows first),
N = R·W slots. Reference boxes `[B, 4, R, W]`, cxcywh as fractions of the image.
"""

from typing import Any

import torch
from torch import Tensor, nn

from motrlab.model.attention import Attention, ChannelNorm, DeformableAttention, FeedForward
from motrlab.model.operations import FLOAT, Operations


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

    def forward(self, x: Any, position: Any, reference: Any, net: Operations = FLOAT) -> Any:
        """`x`, `position` `[B, C, H, W]`, `reference` `[B, 4, H, W]`."""
        (value,) = net.values([self.attention], x)
        x = net.norm(self.norm1, x, self.attention(net.add(self.attention, x, position), reference, value, net))
        return net.norm(self.norm2, x, self.ffn(x, net))


class DecoderLayer(nn.Module):
    """Self-attention among track slots, then among all slots, deformable cross-attention, feed-forward.

    `rows`: the first row of the track slots, and the one behind their last.
    """

    def __init__(
        self, channels: int, num_heads: int, num_points: int, ffn_channels: int, rows: tuple[int, int]
    ) -> None:
        super().__init__()
        self.rows = rows
        self.track_attention = Attention(channels, num_heads)
        self.norm1 = ChannelNorm(channels)
        self.self_attention = Attention(channels, num_heads)
        self.norm2 = ChannelNorm(channels)
        self.cross_attention = DeformableAttention(channels, num_heads, num_points)
        self.norm3 = ChannelNorm(channels)
        self.ffn = FeedForward(channels, ffn_channels)
        self.norm4 = ChannelNorm(channels)

    def forward(
        self, x: Any, position: Any, reference: Any, value: Any, biases: tuple[Any, Any], net: Operations, learned: Any
    ) -> Any:
        """`x`, `position` `[B, C, R, W]`. `value` `[B, C, H, W]`: what `cross_attention` samples (`Operations.values`).

        `biases` of attention among the track slots `[B, 1, 1, T]`, and among all slots `[B, M, N, N]` or broadcastable.
        `learned`: see `_attended`.
        """
        first, end = self.rows
        track = net.rows(x, first, end)
        moved = net.add(self.track_attention, track, net.rows(position, first, end))
        track = net.norm(self.norm1, track, self.track_attention(moved, track, biases[0], net))
        x = net.cat([net.rows(x, 0, first), track, net.rows(x, end, None)])
        moved = net.add(self.self_attention, x, position)
        mixed = net.attention(self.self_attention, moved, x, biases[1])
        x = self._attended(x, mixed, net) if learned is None else self._attended(learned, mixed, net, track, first)
        moved = net.add(self.cross_attention, x, position)
        x = net.norm(self.norm3, x, self.cross_attention(moved, reference, value, net))
        return net.norm(self.norm4, x, self.ffn(x, net))

    def _attended(self, x: Any, mixed: Any, net: Operations, track: Any = None, first: int = 0) -> Any:
        """Self-attention's last projection, added to `x`, and the norm behind it.

        Learned queries may be far smaller than those of tracks (30 times, on MOT17): on one grid nothing of them would
        be left. So in the first layer, where there are grids, `x` are the learned queries alone, `track` the track
        slots that follow them from row `first` on, and both parts have grids of their own up to the norm.
        """
        if track is None:
            return net.norm(self.norm2, x, net.linear(self.self_attention.out, mixed))
        parts = []
        for name, own, ends in (("detect", x, (0, first)), ("track", track, (first, None))):
            with net.part(name):
                parts.append(self._attended(own, net.rows(mixed, *ends), net))
        return net.cat(parts)
