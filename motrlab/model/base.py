"""The base graph: an image and the tracks so far → classes, boxes and embeddings of every slot.

Shape legend: B batch, C = d_model, D detect and T track slots, W = slot_columns, Rt = T / W track rows, R = (D + T) / W
rows in all, detect rows first. Slot i sits at row i // W, column i % W. Boxes are cxcywh as fractions of the image.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.model.attention import OverlapBias, PointwiseConv, TokenLinear
from motrlab.model.backbone import build_backbone
from motrlab.model.operations import FLOAT, Operations, inverse_sigmoid, sine_code
from motrlab.model.transformer import DecoderLayer, EncoderLayer, cell_centres

BaseOutput = tuple[tuple[Any, ...], tuple[Any, ...], Any]


@dataclass(frozen=True)
class ExtraSlots:
    """Slots that only training has, E = X·W of them behind the track slots (`training/denoising.py`).

    `query` `[B, C, X, W]`, `reference` `[B, 4, X, W]`, and what the attention among all slots must not see:
    `bias` `[B or 1, 1, N + E, N + E]`, 0 or `MASKED`.
    """

    query: Tensor
    reference: Tensor
    bias: Tensor


class BoxHead(nn.Module):
    """Two hidden layers, then four values in high precision: `[B, C, R, W]` → `[B, 4, R, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden1 = PointwiseConv(channels, channels)
        self.hidden2 = PointwiseConv(channels, channels)
        self.out = TokenLinear(channels, 4)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Any, net: Operations = FLOAT) -> Any:
        hidden = net.linear(self.hidden2, net.linear(self.hidden1, x, relu=True), relu=True)
        return net.head(self.out, hidden)


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

    Only `decode` depends on the tracks: training runs `encode` and `value_maps` on all frames of a clip at once. `net`
    says how it is computed (`operations.py`); shapes below are those of float tensors.
    """

    cells: Tensor
    cell_position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        channels, heads, hidden, layers = config.d_model, config.num_heads, config.ffn_channels, config.decoder_layers
        self.backbone = build_backbone(config)
        self.input_projection = PointwiseConv(self.backbone.out_channels, channels)
        cells = cell_centres(*(math.ceil(side / self.backbone.stride) for side in (config.height, config.width)))
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("cell_position", sine_code(cells[:, :2], channels // 2), persistent=False)
        encode = functools.partial(EncoderLayer, channels, heads, config.encoder_points, hidden)
        self.encoder = nn.ModuleList(encode() for _ in range(config.encoder_layers))
        self.detect = DetectQueries(config)
        self.position = nn.Sequential(
            PointwiseConv(2 * channels, channels), nn.ReLU(), PointwiseConv(channels, channels)
        )  # fmt: skip
        first = config.num_detect // config.slot_columns
        rows = (first, first + config.num_track // config.slot_columns)
        decode = functools.partial(DecoderLayer, channels, heads, config.decoder_points, hidden, rows)
        self.decoder = nn.ModuleList(decode() for _ in range(layers))
        overlap = functools.partial(OverlapBias, heads, config.num_detect, config.num_track)
        self.overlap = nn.ModuleList(overlap() for _ in range(layers if config.overlap_bias else 0))
        self.class_heads = nn.ModuleList(TokenLinear(channels, config.num_classes) for _ in range(layers))
        self.box_heads = nn.ModuleList(BoxHead(channels) for _ in range(layers))
        for head in self.class_heads:
            assert isinstance(head, TokenLinear)
            nn.init.constant_(head.bias, -math.log((1 - config.class_prior) / config.class_prior))

    def forward(self, image: Any, query: Any, mask: Any, boxes: Any, net: Operations = FLOAT) -> BaseOutput:
        """One frame: `image` `[B, 3, height, width]`, YUV, (x - 128) / 128; of the tracks `query` `[B, C, Rt, W]`,
        `mask` `[B, 1, 1, T]`, 1 for a live one and 0 for an empty slot, and `boxes` `[B, 4, Rt, W]`.

        Gives class logits (a tuple over decoder layers, `[B, K, R, W]` each, K classes), box outputs (likewise
        `[B, 4, R, W]`, see `decode_boxes`) and embeddings `[B, C, R, W]` of the last layer.
        """
        values = self.value_maps(self.encode(image, net), net)
        return self.decode(values, query, mask, boxes, net=net)

    def encode(self, image: Any, net: Operations = FLOAT) -> Any:
        """`[B, 3, height, width]` → memory `[B, C, H, W]`."""
        net.enter(self)
        memory = net.linear(self.input_projection, self.backbone(net.image(image), net))
        position = net.constant(self.cell_position)
        for layer in self.encoder:
            memory = layer(memory, position, self.cells, net)
        return memory

    def value_maps(self, memory: Any, net: Operations = FLOAT) -> Any:
        """What each decoder layer samples: `[B, C, H, W]` → `[L, B, C, H, W]`, for all frames of a clip at once."""
        attentions = [layer.cross_attention for layer in self.decoder if isinstance(layer, DecoderLayer)]
        return net.values(attentions, memory)

    def decode(
        self, values: Any, query: Any, mask: Any, boxes: Any, extra: ExtraSlots | None = None, net: Operations = FLOAT
    ) -> BaseOutput:
        """As `forward`, from the `value_maps` of a frame. With `extra` (float only), outputs end with its rows."""
        config = self.config
        net.enter(self, mask)
        x = net.slots(self.detect, net.input("track_query", query))
        reference = net.references(self.detect, boxes)
        track_bias, slot_bias = net.masks(mask, config.num_detect)
        if extra is not None:
            x, reference = torch.cat((x, extra.query), 2), torch.cat((reference, extra.reference), 2)
            slot_bias = F.pad(slot_bias, (0, extra.bias.shape[-1] - slot_bias.shape[-1])) + extra.bias
        track_bias = net.bias(track_bias)
        logits, found = [], []
        for index, layer in enumerate(self.decoder):
            bias = net.bias(slot_bias, self.overlap[index] if config.overlap_bias else None, reference)
            position = net.linear(self.position[0], net.sine(reference, config.d_model // 2), relu=True)
            position = net.linear(self.position[2], position)
            learned = net.learned(self.detect) if index == 0 else None
            x = layer(x, position, reference, values[index], (track_bias, bias), net, learned)
            logits.append(net.head(self.class_heads[index], x))
            found.append(net.refine(self, self.box_heads[index](x, net), reference))
            reference = net.next_reference(self, found[-1])
        return tuple(logits), tuple(found), net.output(x)


def decode_boxes(output: Tensor, config: ModelConfig) -> Tensor:
    """Box outputs → cxcywh: the sigmoid of the reference's box logits, nothing for relative boxes."""
    return output if config.relative_boxes else output.sigmoid()
