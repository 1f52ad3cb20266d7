"""The base graph: an image and the tracks so far → classes, boxes and embeddings of every slot.

Shape legend: B batch, C = d_model, D detect and T track slots, W = slot_columns, Rt = T / W track rows, R = (D + T) / W
rows in all, detect rows first. Slot i sits at row i // W, column i % W. Boxes are cxcywh as fractions of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.model.attention import MASKED, DeformableAttention, OverlapBias, PointwiseConv, TokenLinear
from motrlab.model.efficientnet import EfficientNet
from motrlab.model.transformer import DecoderLayer, EncoderLayer, cell_centres, sine_code

BaseOutput = tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]


@dataclass(frozen=True)
class ExtraSlots:
    """Slots that only training has, E = X·W of them behind the track slots (`training/extra_slots.py`).

    `query` `[B, C, X, W]`, `reference` `[B, 4, X, W]`, and what the attention among all slots must not see:
    `bias` `[B or 1, 1, N + E, N + E]`, 0 or `MASKED`.
    """

    query: Tensor
    reference: Tensor
    bias: Tensor


_SIZE_LIMIT = 2.0  # |log| of one layer's change of size, relative boxes
_EPSILON = 1e-3  # keeps the logit of a box finite


def inverse_sigmoid(x: Tensor) -> Tensor:
    x = x.clamp(_EPSILON, 1 - _EPSILON)
    return torch.log(x / (1 - x))


class BoxHead(nn.Module):
    """Two hidden layers, then four values in high precision: `[B, C, R, W]` → `[B, 4, R, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden1 = PointwiseConv(channels, channels)
        self.hidden2 = PointwiseConv(channels, channels)
        self.out = TokenLinear(channels, 4)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.hidden2(F.relu(self.hidden1(x))))
        return self.out(hidden).transpose(1, 2).reshape(-1, 4, x.shape[2], x.shape[3])


class DetectQueries(nn.Module):
    """Learned queries and first reference boxes of the detect slots."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = config.num_detect // config.slot_columns
        self.query = nn.Parameter(torch.randn(1, config.d_model, rows, config.slot_columns) * 0.02)
        boxes = torch.rand(4, config.num_detect)
        if config.anchor_grid is not None:
            boxes[:2] = cell_centres(*config.anchor_grid)[0, :2].flatten(1)
            boxes[2:] = torch.tensor(config.anchor_size)[:, None]
        logits = inverse_sigmoid(boxes)
        self.reference_logits = nn.Parameter(logits.reshape(1, 4, rows, config.slot_columns))

    def reference(self) -> Tensor:
        """`[1, 4, D / W, W]`."""
        return torch.sigmoid(self.reference_logits)


class BaseGraph(nn.Module):
    """Backbone, deformable encoder and decoder, class and box heads of every decoder layer.

    `forward` is what is exported and quantised. `encode` and `decode` are its halves: only `decode` depends on the
    tracks, so float training encodes all frames of a clip at once.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, heads = config.d_model, config.num_heads
        self.backbone = EfficientNet(config)
        self.input_projection = PointwiseConv(self.backbone.out_channels, channels)
        rows = math.ceil(config.height / self.backbone.stride)
        columns = math.ceil(config.width / self.backbone.stride)
        cells = cell_centres(rows, columns)
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("cell_position", sine_code(cells[:, :2], channels // 2), persistent=False)
        self.encoder = nn.ModuleList(
            EncoderLayer(channels, heads, config.encoder_points, config.ffn_channels)
            for _ in range(config.encoder_layers)
        )
        self.detect = DetectQueries(config)
        self.position = nn.Sequential(
            PointwiseConv(2 * channels, channels), nn.ReLU(), PointwiseConv(channels, channels)
        )  # fmt: skip
        self.decoder = nn.ModuleList(
            DecoderLayer(channels, heads, config.decoder_points, config.ffn_channels)
            for _ in range(config.decoder_layers)
        )
        self.overlap = nn.ModuleList(
            OverlapBias(heads, config.num_detect, config.num_track)
            for _ in range(config.decoder_layers if config.overlap_bias else 0)
        )
        self.class_heads = nn.ModuleList(TokenLinear(channels, 1) for _ in range(config.decoder_layers))
        self.box_heads = nn.ModuleList(BoxHead(channels) for _ in range(config.decoder_layers))
        for head in self.class_heads:
            assert isinstance(head, TokenLinear)
            nn.init.constant_(head.bias, -math.log((1 - config.class_prior) / config.class_prior))

    def forward(self, image: Tensor, track_query: Tensor, track_mask: Tensor, track_reference: Tensor) -> BaseOutput:
        """One frame.

        Args:
            image: `[B, 3, height, width]`, YUV, (x - 128) / 128.
            track_query: `[B, C, Rt, W]`.
            track_mask: `[B, 1, 1, T]`, 1 for a live track and 0 for an empty slot.
            track_reference: `[B, 4, Rt, W]`.

        Returns:
            Class logits (a tuple over decoder layers, `[B, 1, R, W]` each), box outputs (likewise `[B, 4, R, W]`, see
            `decode_boxes`) and embeddings `[B, C, R, W]` of the last layer.
        """
        return self.decode(self.encode(image), track_query, track_mask, track_reference)

    def encode(self, image: Tensor) -> Tensor:
        """`[B, 3, height, width]` → memory `[B, C, H, W]`."""
        memory: Tensor = self.input_projection(self.backbone(image))
        for layer in self.encoder:
            memory = layer(memory, self.cell_position, self.cells)
        return memory

    def _cross_attentions(self) -> list[DeformableAttention]:
        return [layer.cross_attention for layer in self.decoder if isinstance(layer, DecoderLayer)]

    def value_maps(self, memory: Tensor) -> Tensor:
        """What each decoder layer samples, `project` of its cross-attention: `[B, C, H, W]` → `[L, B, C, H, W]`.

        For all frames of a clip and all layers in one product; never exported.
        """
        layers = [attention.value for attention in self._cross_attentions()]
        weight = torch.stack([layer.weight.flatten(1) for layer in layers])[:, None]  # [L, 1, C, C]
        bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
        product = weight @ memory.flatten(2)[None] + bias.reshape(len(layers), 1, -1, 1)
        return product.unflatten(3, memory.shape[2:])

    def decode(
        self,
        memory: Tensor,
        track_query: Tensor,
        track_mask: Tensor,
        track_reference: Tensor,
        extra: ExtraSlots | None = None,
    ) -> BaseOutput:
        """As `forward`, from the memory of `encode`, or from its `value_maps`.

        With `extra`, the outputs have its rows at their end.
        """
        config = self.config
        ones = track_mask[:, :, :1, :1] * 0 + 1  # [B, 1, 1, 1]: spreads learned slots over the batch when exported
        x = torch.cat((self.detect.query * ones, track_query), 2)
        reference = torch.cat((self.detect.reference() * ones, track_reference.detach()), 2)
        track_bias = (track_mask - 1) * -MASKED
        slot_bias = torch.cat((torch.zeros(1, 1, 1, config.num_detect, device=x.device) * ones, track_bias), 3)
        first = config.num_detect // config.slot_columns
        rows = (first, first + track_query.shape[2])
        if extra is not None:
            x, reference = torch.cat((x, extra.query), 2), torch.cat((reference, extra.reference), 2)
            slot_bias = F.pad(slot_bias, (0, extra.bias.shape[-1] - slot_bias.shape[-1])) + extra.bias
        attentions = self._cross_attentions()
        values = [attention.project(memory) for attention in attentions] if memory.ndim == 4 else memory.unbind(0)
        logits, boxes = [], []
        for index, (layer, value) in enumerate(zip(self.decoder, values, strict=True)):
            bias = slot_bias + self.overlap[index](reference) if config.overlap_bias else slot_bias
            position = self.position(sine_code(reference.float(), config.d_model // 2))
            x = layer(x, position, reference, value, track_bias, bias, rows)
            logits.append(self.class_heads[index](x).transpose(1, 2).reshape(-1, 1, x.shape[2], x.shape[3]))
            boxes.append(self._refine(self.box_heads[index](x).float(), reference))
            reference = decode_boxes(boxes[-1], config).detach()
        return tuple(logits), tuple(boxes), x

    def _refine(self, delta: Tensor, reference: Tensor) -> Tensor:
        """Box output from a layer's delta, both `[B, 4, R, W]`."""
        if not self.config.relative_boxes:
            return inverse_sigmoid(reference) + delta
        centre, size = reference[:, :2], reference[:, 2:]
        scale = torch.exp(delta[:, 2:].clamp(-_SIZE_LIMIT, _SIZE_LIMIT))
        # A box of no size could never grow again, and one far beyond the image would ruin the ranges of int8.
        return torch.cat((centre + delta[:, :2] * size, (size * scale).clamp(1e-3, 2.0)), 1)


def decode_boxes(output: Tensor, config: ModelConfig) -> Tensor:
    """Box outputs → cxcywh: the sigmoid of the reference's box logits, nothing for relative boxes."""
    return output if config.relative_boxes else output.sigmoid()
