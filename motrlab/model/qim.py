"""The query interaction module: from a tracked slot's embedding to its query in the next frame.

MOTR, arXiv 2105.03247, "Query Interaction Module" (its temporal aggregation network is left out, as in the reference).
Shapes: C = d_model, T track slots in one row: `[B, C, 1, T]`.
"""

from typing import Any

from torch import nn

from motrlab.config import ModelConfig
from motrlab.model.attention import Attention, ChannelNorm, FeedForward, PointwiseConv
from motrlab.model.operations import FLOAT, Operations


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

    def forward(self, embedding: Any, query: Any, mask: Any, net: Operations = FLOAT) -> Any:
        """`embedding`, `query` `[B, C, 1, T]`, `mask` `[B, 1, 1, T]` (1: live) → updated query `[B, C, 1, T]`."""
        net.enter(self, mask)
        embedding, query = net.input("embedding", embedding), net.input("query", query)
        bias = net.bias(net.masks(mask, 0)[0])
        moved = net.add(self.attention, query, embedding)
        x = net.norm(self.norm1, embedding, self.attention(moved, embedding, bias, net))
        x = net.norm(self.norm2, x, self.ffn(x, net))
        branch = net.linear(self.branch2, net.linear(self.branch1, x, relu=True))
        out = net.norm(self.norm3, query, branch)
        return net.output(net.blend(self, out, query, self.memory) if self.memory else out)
