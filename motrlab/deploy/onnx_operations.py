"""What the ONNX forms of the network have in common: nodes with shapes, moving rows, names, and both graphs as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from motrlab.deploy.onnx_graph import Expr, GraphBuilder
from motrlab.model.attention import DeformableAttention
from motrlab.model.motr import Motr
from motrlab.model.operations import Operations
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.tensors import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A tensor of a graph: `shape` is `[1, C, R, W]`, whatever its layout; `scale` that of its grid, if it has one."""

    value: Expr
    shape: Shape
    scale: float | None = None
    unsigned: bool = False


@dataclass(frozen=True)
class Maps:
    """What several cross-attentions sample (`Operations.values`)."""

    maps: list[Node]

    @property
    def shape(self) -> Shape:
        return (len(self.maps), *self.maps[0].shape)

    def __getitem__(self, index: int) -> Node:
        return self.maps[index]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.maps)


class OnnxOperations(Operations):
    """Writes a graph. `grids` has the integers of a calibrated model in mode `evaluate`; None: float."""

    row_axis = 2  # of a value: 2 for `[1, C, R, W]`
    image_input: tuple[str, bool] = ("float32", False)  # its type, and whether channels come last

    def __init__(self, model: Motr, grids: GridOperations | None) -> None:
        self.config, self.grids = model.config, grids
        self.graph = GraphBuilder()
        self.named: dict[str, str] = {}  # value → tensor
        self.in_qim = False

    def enter(self, graph: nn.Module, mask: Any = None) -> None:
        self.in_qim = not hasattr(graph, "backbone")
        if self.grids is not None:
            self.grids.enter(graph, mask)

    def spec(self, module: nn.Module | str, operator: str) -> TensorSpec | None:
        """The tensor that a module makes; None in float."""
        return self.grids.spec(module, operator) if self.grids is not None else None

    def mixed_spec(self, attention: nn.Module, operator: str) -> TensorSpec | None:
        """The tensor that an attention mixes."""
        return self.spec(f"{self.grids.paths[id(attention)][1]}.mixed", operator) if self.grids is not None else None

    def name(self, spec: TensorSpec, value: Expr) -> Expr:
        """Call a value `GRAPH/TENSOR`, with `@1` and so on where a module is called again."""
        name, number = f"{spec.graph}/{spec.name}", 1
        while name in self.named.values() and self.named.get(value.name) != name:
            name, number = f"{spec.graph}/{spec.name}@{number}", number + 1
        self.named[value.name] = name
        return value

    def track_shape(self, channels: int) -> Shape:
        """Of the track slots in this graph."""
        config = self.config
        if self.in_qim:
            return 1, channels, 1, config.num_track
        return 1, channels, config.num_track // config.slot_columns, config.slot_columns

    def rows(self, x: Node, first: int, end: int | None) -> Node:
        end = x.shape[2] if end is None else end
        shape = (*x.shape[:2], max(0, end - first), x.shape[3])
        if shape == x.shape or end <= first:
            return replace(x, shape=shape)
        return replace(x, value=self.graph.slice(x.value, first, end, self.row_axis), shape=shape)

    def cat(self, parts: Sequence[Node]) -> Node:
        parts = [p for p in parts if p.shape[2]]
        shape = (*parts[0].shape[:2], sum(p.shape[2] for p in parts), parts[0].shape[3])
        return replace(parts[-1], value=self.graph.cat([p.value for p in parts], self.row_axis), shape=shape)

    def values(self, attentions: Sequence[DeformableAttention], memory: Node) -> Maps:
        return Maps([self.linear(attention.value, memory) for attention in attentions])

    def result(self, x: Expr, shape: Shape) -> Expr:
        """Class logits or boxes as an output of `shape`."""
        return self.graph.reshape(x, *shape)


def convolved(conv: nn.Conv2d, shape: Shape) -> Shape:
    """The shape that a convolution makes of `[1, C, H, W]`."""
    ends = zip(shape[2:], conv.padding, conv.kernel_size, conv.stride, strict=True)
    return 1, conv.out_channels, *((n + 2 * int(p) - k) // s + 1 for n, p, k, s in ends)


@torch.no_grad()
def onnx_graphs(kind: type[OnnxOperations], model: Motr, grids: GridOperations | None) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` of a folded model, batch 1, every shape fixed."""
    config = model.config
    rows, columns = config.num_slots // config.slot_columns, config.slot_columns
    net, (image_type, last) = kind(model, grids), kind.image_input
    sizes = (config.height, config.width)
    logits, boxes, embedding = model.base(
        net.graph.input("image", (1, *sizes, 3) if last else (1, 3, *sizes), image_type),
        net.graph.input("track_query", net.track_shape(config.d_model)),
        net.graph.input("track_mask", (1, 1, 1, config.num_track)),
        net.graph.input("track_reference", net.track_shape(4)),
        net=net,
    )
    outputs: dict[str, tuple[Expr, Shape]] = {}
    for name, x, channels in (("class_logits", logits[-1], 1), ("boxes", boxes[-1], 4)):
        outputs[name] = (net.result(x, (1, channels, rows, columns)), (1, channels, rows, columns))
    outputs["embedding"] = (embedding, (1, config.d_model, rows, columns))
    base = net.graph.model(outputs, net.named)
    net, state = kind(model, grids), (1, config.d_model, 1, config.num_track)
    given = [net.graph.input(name, state) for name in ("embedding", "query")]
    updated = model.qim(*given, net.graph.input("mask", (1, 1, 1, config.num_track)), net=net)
    return {"base": base, "qim": net.graph.model({"updated_query": (updated, state)}, net.named)}


def fixed_boxes(reference: Tensor) -> Any:
    """Reference boxes `[1, 4, R, W]` as `float32 [N, 4]`."""
    return reference.detach().flatten(2)[0].T.contiguous().numpy()
