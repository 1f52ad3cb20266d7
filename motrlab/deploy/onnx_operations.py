"""What the ONNX forms of the network have in common: nodes with shapes, moving rows, names, both graphs as files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from motrlab.deploy.onnx_graph import Expr, GraphBuilder, OnnxArithmetic
from motrlab.model.attention import DeformableAttention, OverlapBias
from motrlab.model.motr import Motr
from motrlab.model.operations import Operations
from motrlab.quantization import functions
from motrlab.quantization.declare import module_paths
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.tensors import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A tensor of a graph: `shape` is `[1, C, R, W]`, whatever its layout; `scale` that of its grid, if it has one."""

    value: Expr
    shape: Shape
    scale: float = 1.0
    unsigned: bool = False


def _owned(operation: Callable[..., Any]) -> Callable[..., Any]:
    """An operation whose nodes are called after the module that it is given, or after itself."""

    @functools.wraps(operation)
    def owned(net: OnnxOperations, *given: Any, **more: Any) -> Any:
        outer = net.graph.owner
        paths = (net.paths.get(id(x)) for x in given[:2])
        net.graph.owner = next(filter(None, paths), outer or operation.__name__)
        try:
            return operation(net, *given, **more)
        finally:
            net.graph.owner = outer

    return owned


class OnnxOperations(Operations):
    """Writes a graph. `grids` has the integers of a calibrated model in mode `evaluate`; None: float."""

    def __init_subclass__(cls) -> None:
        for name in vars(Operations).keys() - {"enter", "part"}:
            if callable(own := getattr(cls, name)) and own is not getattr(Operations, name):
                setattr(cls, name, _owned(own))

    arithmetic = OnnxArithmetic
    row_axis = 2  # of a value: 2 for `[1, C, R, W]`
    image_input: tuple[str, bool] = ("float32", False)  # its type, and whether channels come last

    def __init__(self, model: Motr, grids: GridOperations | None, *, in_qim: bool) -> None:
        self.config, self.grids, self.in_qim = model.config, grids, in_qim
        self.paths = {key: path for key, (_, path) in module_paths(model).items()}
        self.graph = GraphBuilder()
        self.xp = self.arithmetic(self.graph)
        self.named: dict[str, str] = {}  # value → tensor

    def enter(self, graph: nn.Module, mask: Any = None) -> None:
        if self.grids is not None:
            self.grids.enter(graph, mask)

    def spec(self, owner: nn.Module | str, part: str = "") -> Any:
        """The `TensorSpec` of what a module makes, of its `part`, or of a name; None in float."""
        if self.grids is None:
            return None
        return self.grids.specs[self.grids.key(owner, part)]

    def part(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.grids is None else self.grids.part(name)

    def name(self, spec: TensorSpec, value: Expr) -> Expr:
        """Call a value `GRAPH/TENSOR`, with `@1` and so on where a module is called again."""
        name, number = f"{spec.graph}/{spec.name}", 1
        while name in self.named.values() and self.named.get(value.name) != name:
            name, number = f"{spec.graph}/{spec.name}@{number}", number + 1
        self.named[value.name] = name
        return value

    def slot_shape(self, channels: int) -> Shape:
        """Of all slots in the base graph."""
        return 1, channels, self.config.num_slots // self.config.slot_columns, self.config.slot_columns

    def track_shape(self, channels: int) -> Shape:
        """Of the track slots in this graph."""
        number, columns = self.config.num_track, self.config.slot_columns
        return (1, channels, 1, number) if self.in_qim else (1, channels, number // columns, columns)

    def rows(self, x: Node, first: int, end: int | None) -> Node:
        number = max(0, (x.shape[2] if end is None else end) - first)
        value = x.value.slice(first, first + number, self.row_axis) if 0 < number < x.shape[2] else x.value
        return replace(x, value=value, shape=(*x.shape[:2], number, x.shape[3]))

    def cat(self, parts: Sequence[Node]) -> Node:
        parts = [p for p in parts if p.shape[2]]
        shape = (*parts[0].shape[:2], sum(p.shape[2] for p in parts), parts[0].shape[3])
        return replace(parts[-1], value=self.graph.cat([p.value for p in parts], self.row_axis), shape=shape)

    def values(self, attentions: Sequence[DeformableAttention], memory: Node) -> list[Node]:
        return [self.linear(attention.value, memory) for attention in attentions]

    def overlap(self, bias: OverlapBias, reference: Expr, factor: float = 1.0) -> Expr:
        """What the overlap of boxes `[4, N]` adds to logits, times a factor: `[M, N, N]`."""
        number = self.config.num_slots
        pairs = [x.reshape(2, *s) for x in (reference * 0.5).split((2, 2), 0) for s in ((number, 1), (1, number))]
        across, down = functions.overlap(self.xp, *pairs).split((1, 1), 0)
        return across * down * self.xp.const(bias.factors(number).detach().numpy() * np.float32(factor))

    def result(self, x: Expr, channels: int) -> tuple[Expr, Shape]:
        """Class logits or boxes as an output."""
        shape = self.slot_shape(channels)
        return x.reshape(*shape), shape


def convolved(conv: Any, shape: Shape) -> Shape:
    """The shape that a convolution makes of `[1, C, H, W]`."""
    ends = zip(shape[2:], conv.padding, conv.kernel_size, conv.stride, strict=True)
    return 1, conv.out_channels, *((n + 2 * p - k) // s + 1 for n, p, k, s in ends)


@torch.no_grad()
def onnx_graphs(kind: type[OnnxOperations], model: Motr, grids: GridOperations | None) -> dict[str, onnx.ModelProto]:
    """`base` and `qim` of a folded model, batch 1, every shape fixed."""
    config, net = model.config, kind(model, grids, in_qim=False)
    image_type, channels_last = net.image_input
    sizes, mask = (config.height, config.width), (1, 1, 1, config.num_track)
    logits, boxes, embedding = model.base(
        net.graph.input("image", (1, *sizes, 3) if channels_last else (1, 3, *sizes), image_type),
        net.graph.input("track_query", net.track_shape(config.d_model)),
        net.graph.input("track_mask", mask),
        net.graph.input("track_reference", net.track_shape(4)),
        net=net,
    )
    outputs = {"class_logits": net.result(logits[-1], config.num_classes), "boxes": net.result(boxes[-1], 4)}
    base = net.graph.model(outputs | {"embedding": (embedding, net.slot_shape(config.d_model))}, net.named)
    net = kind(model, grids, in_qim=True)
    state = net.track_shape(config.d_model)
    given = [net.graph.input(name, shape) for name, shape in (("embedding", state), ("query", state), ("mask", mask))]
    return {"base": base, "qim": net.graph.model({"updated_query": (model.qim(*given, net=net), state)}, net.named)}


def fixed_boxes(reference: Tensor) -> Any:
    """Reference boxes `[1, 4, R, W]` as `float32 [N, 4]`."""
    return reference.detach().flatten(2)[0].T.contiguous().numpy()
