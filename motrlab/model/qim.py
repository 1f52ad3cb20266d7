"""The query interaction module: from a tracked slot's embedding to its query in the next frame.

MOTR, arXiv 2105.03247, section 3.3 (its temporal aggregation network is left out, as in the reference).
Shapes: C = d_model, T track slots in one row: `[B, C, 1, T]`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.model.attention import MASKED, Attention, ChannelNorm, FeedForward, PointwiseConv


class QueryInteraction(nn.Module):
    """Masked self-attention (q = k = query + embedding, v = embedding), FFN, and a branch added to the query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.d_model
        self.memory = config.query_memory  # a long-term memory as in MeMOTR (arXiv 2307.15700, section 3.3)
        self.attention = Attention(channels, config.num_heads)
        self.norm1 = ChannelNorm(channels)
        self.ffn = FeedForward(channels, config.ffn_channels)
        self.norm2 = ChannelNorm(channels)
        self.branch1 = PointwiseConv(channels, config.ffn_channels)
        self.branch2 = PointwiseConv(config.ffn_channels, channels)
        self.norm3 = ChannelNorm(channels)

    def forward(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        """`embedding`, `query` `[B, C, 1, T]`, `mask` `[B, 1, 1, T]` (1: live) → updated query `[B, C, 1, T]`."""
        bias = (mask - 1) * -MASKED
        x = self.norm1(embedding + self.attention(query + embedding, embedding, bias))
        x = self.norm2(x + self.ffn(x))
        out: Tensor = self.norm3(query + self.branch2(F.relu(self.branch1(x))))
        return out * (1 - self.memory) + query * self.memory if self.memory else out
