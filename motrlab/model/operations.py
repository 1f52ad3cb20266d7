"""The operations that both graphs are written in, here on float tensors.

`base.py` and `qim.py` say what follows what; an interpreter says how it is computed. This one trains the float model.
`quantization.grid_operations` computes with integers, `deploy.kernel_graph` and `deploy.portable` write ONNX graphs.
What they share is the model's own code: there is no second description of it.

Shape legend: B batch, C channels, R × W token rows and columns, N = R·W tokens, H × W cells of a map, M heads,
D = C / M, P points. Tokens are `[B, C, R, W]`; reference boxes are `[B, 4, R, W]`, cxcywh as fractions of the image.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4  # added to the logits of keys that must not be seen; exp(-1e4) is 0 in every precision
TEMPERATURE = 20.0  # of the sine positional encodings (DAB-DETR, arXiv 2201.12329, section 4.4)
SIZE_LIMIT = 2.0  # |log| of one layer's change of size, relative boxes
LEAST_SIZE, LARGEST_SIZE = 1e-3, 2.0  # a box of no size could never grow again, one far beyond ruins int8's ranges
EPSILON = 1e-3  # keeps the logit of a box finite


@cache
def sine_frequencies(channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Angles per unit of a sine positional encoding of `channels` values, half of them sines: `[channels / 2]`."""
    half = channels // 2
    return 2 * math.pi * TEMPERATURE ** (-torch.arange(half, device=device) / half)


def sine_code(positions: Tensor, channels: int) -> Tensor:
    """Sine positional encoding of `[B, K, R, W]` in 0..1: `[B, K·channels, R, W]`, half sines and half cosines."""
    frequencies = sine_frequencies(channels, positions.device)  # made there: a copy would wait, and break a graph
    angle = positions[:, :, None] * frequencies[:, None, None]  # [B, K, half, R, W]
    return torch.cat((angle.sin(), angle.cos()), 2).flatten(1, 2)


def inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(EPSILON, 1 - EPSILON)
    return torch.log(x / (1 - x))


class Operations:
    """Float tensors in, float tensors out. What a layer's result is called elsewhere is the path of its module.

    Arguments typed `Any` are tensors here and an interpreter's own values elsewhere; `attention`, `detect`, `overlap`
    and `base` are the modules of those names in `attention.py` and `base.py`.
    """

    def enter(self, graph: nn.Module, mask: Any = None) -> None:
        """A graph begins, or its decoder; `mask` `[B, 1, 1, T]`: 1 where a track slot is live."""

    def image(self, image: Any) -> Any:
        """What the first convolution sees of `[B, 3, H, W]`.

        Channels last: several times faster backwards where few channels meet a large map.
        """
        return image.contiguous(memory_format=torch.channels_last)

    def input(self, name: str, x: Any) -> Any:
        """An input of the graph, tokens."""
        return x

    def output(self, x: Any) -> Any:
        """An output of the graph."""
        return x

    def constant(self, x: Tensor) -> Any:
        """Fixed values from -1 to 1."""
        return x

    def learned(self, detect: Any) -> Any:
        """Learned detect queries on a grid of their own; None where that makes no difference, as here."""
        return None

    def part(self, name: str) -> AbstractContextManager[None]:
        """What is computed inside is of the slots `detect` or `track` only: it has grids of its own."""
        return nullcontext()

    def slots(self, detect: Any, track_query: Any) -> Any:
        """Learned detect queries, then `track_query`."""
        return torch.cat((detect.query.expand(len(track_query), -1, -1, -1), track_query), 2)

    def references(self, detect: Any, track_reference: Any) -> Any:
        """Learned detect references, then `track_reference`."""
        learned = detect.reference().expand(len(track_reference), -1, -1, -1)
        return torch.cat((learned, track_reference.detach()), 2)

    def masks(self, mask: Any, num_detect: int) -> tuple[Any, Any]:
        """What the masks `[B, 1, 1, T]` add to attention logits: among the track slots, and among all slots."""
        track = (mask - 1) * -MASKED
        return track, F.pad(track, (num_detect, 0))

    def bias(self, masked: Any, overlap: Any = None, reference: Any = None) -> Any:
        """All that is added to attention logits: `masks`, and the overlap of reference boxes."""
        return masked if overlap is None else masked + overlap(reference)

    def rows(self, x: Any, first: int, end: int | None) -> Any:
        """Token rows `first` to `end`."""
        return x[:, :, first:end]

    def cat(self, parts: Sequence[Any]) -> Any:
        """Token rows one behind the other; empty parts do not count."""
        return torch.cat([p for p in parts if p.shape[2]], 2)

    def conv(self, layer: nn.Module, x: Any) -> Any:
        """A `ConvBN`."""
        return layer(x)

    def linear(self, layer: nn.Module, x: Any, *, relu: bool = False) -> Any:
        """A `PointwiseConv`, with a ReLU behind it or not."""
        y = layer(x)
        return F.relu(y) if relu else y

    def head(self, layer: nn.Module, x: Any) -> Any:
        """A `TokenLinear`, whose result leaves in high precision: `[B, out, R, W]`."""
        return layer(x).transpose(1, 2).unflatten(2, x.shape[2:])

    def add(self, owner: nn.Module, x: Any, y: Any) -> Any:
        """A sum, called after `owner`."""
        return x + y

    def norm(self, norm: nn.Module, x: Any, branch: Any) -> Any:
        """LayerNorm of a residual sum."""
        return norm(x + branch)

    def blend(self, owner: nn.Module, x: Any, y: Any, share: float) -> Any:
        """`x` and a `share` of `y` (from 0 to 1) instead of as much of it."""
        return x * (1 - share) + y * share

    def upsample(self, x: Any, like: Any) -> Any:
        """Twofold, by nearest, cut to the size of `like`."""
        return F.interpolate(x, size=(like.shape[2], like.shape[3]), mode="nearest")

    def attention(self, attention: Any, query_key: Any, value: Any, bias: Any) -> Any:
        """Multi-head attention before its last projection; see `Attention.forward`."""
        tokens, values = query_key.flatten(2).transpose(1, 2), value.flatten(2).transpose(1, 2)  # [B, N, C]
        layers = ((attention.query, tokens), (attention.key, tokens), (attention.value, values))
        shape = (*tokens.shape[:2], attention.num_heads, attention.head_channels)
        q, k, v = (layer.of_tokens(x).reshape(shape).transpose(1, 2) for layer, x in layers)  # [B, M, N, D]
        return attend(q, k, v, bias).transpose(1, 2).reshape(tokens.shape).transpose(1, 2).reshape(query_key.shape)

    def values(self, attentions: Sequence[Any], memory: Any) -> Any:
        """What each of `attentions` samples of a map: `[B, C, H, W]` → `[L, B, C, H, W]`, all in one product.

        Channel by channel in memory, as sampling needs it: eager convolutions leave channels last.
        """
        layers = [attention.value for attention in attentions]
        weight = torch.stack([layer.weight.flatten(1) for layer in layers])[:, None]  # [L, 1, C, C]
        bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
        product = weight @ memory.flatten(2)[None] + bias.reshape(len(layers), 1, -1, 1)
        return product.unflatten(3, memory.shape[2:])

    def sample(self, attention: Any, query: Any, reference: Any, value: Any) -> Any:
        """Deformable attention before its last projection; see `DeformableAttention.forward`."""
        return sample_map(attention, attention.offsets(query), attention.weights(query), reference, value, query.shape)

    def sine(self, reference: Any, channels: int) -> Any:
        """Sine positional encoding of the four values of every box, `channels` each."""
        return sine_code(reference.float(), channels)

    def refine(self, base: Any, delta: Any, reference: Any) -> Any:
        """Box output from a layer's delta, both `[B, 4, R, W]`."""
        delta = delta.float()
        if not base.config.relative_boxes:
            return inverse_sigmoid(reference) + delta
        centre, size = reference[:, :2], reference[:, 2:]
        scale = torch.exp(delta[:, 2:].clamp(-SIZE_LIMIT, SIZE_LIMIT))
        return torch.cat((centre + delta[:, :2] * size, (size * scale).clamp(LEAST_SIZE, LARGEST_SIZE)), 1)

    def next_reference(self, base: Any, boxes: Any) -> Any:
        """The next layer's reference boxes from this one's box output; no gradient goes through them."""
        return (boxes if base.config.relative_boxes else boxes.sigmoid()).detach()


FLOAT = Operations()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention of heads, all `[B, M, N, D]`."""
    if not bias.requires_grad:
        return F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype))
    # The fused operator would take a bias apart again that asks for gradients.
    logits = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.shape[3])
    return torch.matmul(torch.softmax(logits + bias, dim=-1), value)


def sample_map(attention: Any, offsets: Tensor, logits: Tensor, reference: Tensor, value: Tensor, shape: Any) -> Tensor:
    """Weighted samples of a map `[B, C, H, W]` as tokens of `shape` `[B, C, R, W]`.

    `offsets` `[B, N, M·P·2]`, `logits` `[B, N, M·P]` of the weights.
    """
    tokens, heads, points = offsets.shape[1], attention.num_heads, attention.num_points
    value = value.reshape(-1, attention.head_channels, value.shape[2], value.shape[3])
    steps = offsets.float().reshape(-1, tokens, heads, points, 2).permute(0, 2, 1, 3, 4)  # [B, M, N, P, 2]
    box = reference.float().flatten(2).transpose(1, 2)[:, None, :, None]  # [B, 1, N, 1, 4]
    # Scaled on the boxes, of which there are fewer than points: centre + steps · half size / points, -1 to 1 in all.
    grid = ((box[..., :2] * 2 - 1) + steps * (box[..., 2:] * (1 / points))).reshape(-1, tokens, points, 2)
    # Coordinates in half precision would miss by several pixels, so sampling is always done in float32.
    sampled = F.grid_sample(value.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weight = torch.sigmoid(logits.float()).reshape(-1, tokens, heads, points).transpose(1, 2)
    mixed = (sampled * weight.reshape(-1, 1, tokens, points)).sum(-1)  # [B·M, D, N]
    return mixed.reshape(shape)
