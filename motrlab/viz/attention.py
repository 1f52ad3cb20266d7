"""Where one query looks: the sampling points of a decoder layer's deformable attention, and the slots that it attends.

Shape legend: M heads, P points, N slots, detect slots first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.data.pictures import Image
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.model.operations import Operations
from motrlab.tracking.step import to_numpy
from motrlab.viz.curves import COLOURS, heading, panels, rows_downwards

Float = NDArray[np.float32]
_MOST_SLOTS = 14


@dataclass(frozen=True)
class QueryAttention:
    """What slot `slot` does in decoder layer `layer` of one frame.

    `points` `[M, P, 2]`: x and y as fractions of the image, outside 0 to 1 beyond its edge; `weights` `[M, P]`, each
    from 0 to 1 (sigmoids, they do not add up to 1). `slots` `[N]`: self-attention over all slots, mean of the heads,
    adds up to 1. `reference`, `box` `[4]`: cxcywh before and after the layer. `num_detect`: the first track slot.
    """

    layer: int
    slot: int
    points: Float
    weights: Float
    slots: Float
    reference: Float
    box: Float
    num_detect: int

    def name(self, slot: int) -> str:
        """Such as `detect 3` or `track 5`."""
        return f"detect {slot}" if slot < self.num_detect else f"track {slot - self.num_detect}"


@dataclass
class _Watching(Operations):
    """Float operations; keeps what one layer's two attentions compute."""

    self_attention: Any
    cross_attention: Any
    kept: dict[str, Tensor] = field(default_factory=dict)

    def attention(self, attention: Any, query_key: Any, value: Any, bias: Any) -> Any:
        if attention is self.self_attention:
            tokens = query_key.flatten(2).transpose(1, 2)
            shape = (*tokens.shape[:2], attention.num_heads, attention.head_channels)
            query, key = (
                layer.of_tokens(tokens).reshape(shape).transpose(1, 2) for layer in (attention.query, attention.key)
            )
            logits = query @ key.transpose(2, 3) / math.sqrt(attention.head_channels) + bias
            self.kept["slots"] = logits.softmax(-1).mean(1)[0]  # [N, N]
        return super().attention(attention, query_key, value, bias)

    def sample(self, attention: Any, query: Any, reference: Any, value: Any) -> Any:
        if attention is self.cross_attention:
            heads, points = attention.num_heads, attention.num_points
            steps = attention.offsets(query)[0].reshape(-1, heads, points, 2)
            box = reference.flatten(2)[0].T[:, None, None]  # [N, 1, 1, 4]
            self.kept["points"] = box[..., :2] + steps * box[..., 2:] / (2 * points)
            self.kept["weights"] = attention.weights(query)[0].sigmoid().reshape(-1, heads, points)
            self.kept["reference"] = reference.flatten(2)[0].T
        return super().sample(attention, query, reference, value)


@torch.no_grad()
def query_attention(model: Motr, inputs: Sequence[Tensor], slot: int, layer: int = -1) -> QueryAttention:
    """Of the float `model` on the base graph's `inputs` of one frame (`FrameStep.base_inputs`).

    Raises UserError where there is no such slot or layer.
    """
    config = model.config
    num_slots, num_layers = config.num_detect + config.num_track, config.decoder_layers
    if not (0 <= slot < num_slots and -num_layers <= layer < num_layers):
        told = f"slots 0 to {num_slots - 1}, layers 0 to {num_layers - 1}"
        raise UserError(f"attention of slot {slot} in layer {layer}: there are {told}")
    layer %= num_layers
    decoder: Any = model.base.decoder[layer]
    net = _Watching(decoder.self_attention, decoder.cross_attention)
    image, query, mask, reference = inputs
    graphs = MotrGraphs(model, net=net)
    _, boxes, _ = graphs.base(image, query, mask, reference)
    box = graphs.decode(boxes[layer]).flatten(2)[0].T[slot]
    kept = {name: to_numpy(x[slot]) for name, x in net.kept.items()}
    return QueryAttention(layer=layer, slot=slot, box=to_numpy(box), num_detect=config.num_detect, **kept)


def attention_figure(image: Image, found: QueryAttention, names: Sequence[str] = ()) -> Figure:
    """The frame with the sampling points of a query, a colour for each head, the area its weight, and the boxes before
    (dotted) and after the layer; beside it the slots that it attends most. `names`: of all slots."""
    figure, (left, right) = panels(11.0, 4.2, 2, grid="", width_ratios=(2.2, 1))
    height, width = image.shape[:2]
    left.imshow(image[..., ::-1], extent=(0, width, height, 0))
    size = np.array([width, height, width, height])
    for box, dash in ((found.reference, ":"), (found.box, "-")):
        _outline(left, box_cxcywh_to_ltwh((box * size)[None])[0], dash)
    for head, (points, weights) in enumerate(zip(found.points, found.weights, strict=True)):
        x, y = (points * size[:2]).T
        left.scatter(x, y, s=4 + 70 * weights, color=COLOURS[head % len(COLOURS)], edgecolors="white", linewidths=0.4)
    left.set(xlim=(0, width), ylim=(height, 0))
    left.set_axis_off()
    heading(left, f"{found.name(found.slot)}, decoder layer {found.layer}: where it samples")
    order = np.argsort(-found.slots, kind="stable")[:_MOST_SLOTS]
    colours = [COLOURS[3] if slot == found.slot else COLOURS[0] for slot in order]
    right.barh(range(len(order)), found.slots[order], color=colours)
    rows_downwards(
        right, [names[s] if names else found.name(int(s)) for s in order], "self-attention, mean of the heads"
    )
    heading(right, "which slots it attends")
    return figure


def _outline(ax: Axes, ltwh: Float, dash: str) -> None:
    left, top, width, height = ltwh.tolist()
    ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="white", linestyle=dash, linewidth=1.6))
