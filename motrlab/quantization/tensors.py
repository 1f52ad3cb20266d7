"""The tensors of the integer form: what each is called, its grid, and a tensor on its grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from motrlab.config.scheme import Rule

Key = tuple[str, str]  # graph, name


def grid_ends(precision: str, levels: int, *, unsigned: bool) -> tuple[int, int]:
    """The least and the largest integer of a grid; `levels`: `Scheme.levels`."""
    largest = 2**15 - 1 if precision == "int16" else 127
    return (0, max(largest, levels)) if unsigned else (-largest - 1, largest)


@dataclass(frozen=True)
class TensorSpec:
    """A tensor between two operations of a graph.

    `name` is the path of the module that makes it (see `scheme.Rule.path`). Tensors of one `group` share a grid. `low`
    and `high` are the grid's ends. `fixed`: a scale that nothing observes. `ceiling`: what a ReLU6 lets through.
    `numel`: its values in one frame.
    """

    graph: str
    name: str
    operator: str
    rule: Rule
    group: int
    low: int
    high: int
    fixed: float | None = None
    ceiling: float | None = None
    numel: int = 0
    readers: list[Key] = field(default_factory=list, compare=False)  # the tensors that are made of it

    @property
    def key(self) -> Key:
        return self.graph, self.name

    @property
    def quantised(self) -> bool:
        return self.rule.precision != "float"

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 if self.high <= 255 else 16

    @property
    def unsigned(self) -> bool:
        return self.low == 0 and self.high > 127


@dataclass(frozen=True)
class Value:
    """A tensor on its way through the network: integers in steps of `scale`, or real values where that is None.

    `spec`: whose grid it has or would have; None: a constant. `live`: 1 where a token is somebody's, 0 in an empty
    track slot, `[B, 1, R, W]`; None: all are.
    """

    data: Tensor
    scale: Any = None  # float, or a tensor where it is learned
    spec: TensorSpec | None = None
    live: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def real(self) -> Tensor:
        return self.data if self.scale is None else self.data * self.scale

    def __getitem__(self, index: int) -> Value:
        return replace(self, data=self.data[index])

    def split(self, size: int, axis: int) -> list[Value]:
        """Parts of `size` along an axis."""
        return [replace(self, data=part) for part in self.data.split(size, axis)]


def number(scale: Any) -> float:
    """A scale without its gradient."""
    return float(scale.detach()) if isinstance(scale, Tensor) else float(scale)


class StraightThrough(torch.autograd.Function):
    """`steps` on a grid; the gradient passes to `floating`, where `steps` were not clipped (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, floating: Tensor, steps: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(steps)
        ctx.ends = (low - 0.5, high + 0.5)
        return steps.round().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (steps,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], steps, *ctx.ends), None, None, None
