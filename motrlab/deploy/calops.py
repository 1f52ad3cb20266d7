"""Calops: parameters and multiply-accumulates of both graphs, before anything is trained.

Counted are convolutions and matrix products, and, apart from them, the bilinear samples of deformable attention (four
multiply-accumulates a value). Element-wise work, norms, softmax and sine codes are not counted, as is usual. Nothing
is computed: the graphs run on torch's meta device, which knows shapes only.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr
from motrlab.model.operations import Operations

_SAMPLE = torch.ops.aten.grid_sampler_2d
_MACS_PER_SAMPLE = 4  # the four neighbours of a bilinear sample
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one frame: parameters, multiply-accumulates of convolutions and matrix products, and of bilinear samples."""

    params: int
    macs: int
    sample_macs: int


@dataclass(frozen=True, kw_only=True)
class ModuleOps(Counts):
    """One row of the table: a module of a graph, and the shape of its output (empty: it is not called as such)."""

    name: str
    output_shape: Shape = ()


@dataclass(frozen=True, kw_only=True)
class Ops(Counts):
    """Operations of one graph; `modules` add up to the totals, the last row being what is left over."""

    modules: tuple[ModuleOps, ...]


def count_operations(model: Motr, config: ModelConfig) -> dict[str, Ops]:
    """Operations of `base` and `qim` for one frame at the config's size; the model is left alone."""
    shadow = copy.deepcopy(model).to("meta").eval()
    rows, columns = config.num_track // config.slot_columns, config.slot_columns
    mask, state = (1, 1, 1, config.num_track), (1, config.d_model, 1, config.num_track)
    slots = ((1, config.d_model, rows, columns), mask, (1, 4, rows, columns))
    base = _count_graph(shadow.base, [(1, 3, config.height, config.width), *slots])
    return {"base": base, "qim": _count_graph(shadow.qim, [state, state, mask])}


class _ByModule(Operations):
    """The values that decoder layers sample, by the module of each: the float model makes one product of all."""

    def values(self, attentions: Sequence[Any], memory: Any) -> Any:
        return torch.stack([attention.value(memory) for attention in attentions])


def _count_graph(graph: nn.Module, sizes: Iterable[Shape]) -> Ops:
    """Leaves hooks behind."""
    counter = FlopCounterMode(display=False, custom_mapping={_SAMPLE: _sample_flops})
    modules, shapes = dict(_parts(graph)), dict[nn.Module, Shape]()
    flops = {name: Counter[Any]() for name in modules}
    running: list[Counter[Any]] = []  # of each module that is being called: what had been counted before

    def count(name: str, module: nn.Module, _: Any, output: Any) -> None:
        before = running.pop()
        if not running:  # a part, or what is in it, called by the graph
            flops[name].update(Counter(counter.flop_counts["Global"]) - before)
        if module is modules[name]:
            shapes[module] = tuple(output.shape)

    for name, part in modules.items():
        for module in part.modules():
            module.register_forward_pre_hook(lambda *_: running.append(Counter(counter.flop_counts["Global"])))
            module.register_forward_hook(functools.partial(count, name))
    with counter, torch.no_grad():
        graph(*(torch.empty(size, device="meta") for size in sizes), net=_ByModule())
    parts = [
        ModuleOps(name=name, output_shape=shapes.get(module, ()), **_counts(module, flops[name]))
        for name, module in modules.items()
    ]
    whole = _counts(graph, counter.flop_counts["Global"])
    rest = {key: number - sum(getattr(part, key) for part in parts) for key, number in whole.items()}
    return Ops(modules=(*parts, ModuleOps(name="(itself)", **rest)), **whole)


def _parts(graph: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Children of the graph; a list's layers one by one."""
    for name, child in graph.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", layer) for index, layer in enumerate(child))
        else:
            yield name, child


def _counts(module: nn.Module, flops: Mapping[Any, int]) -> dict[str, Any]:
    """Fields of `Counts`."""
    samples = flops.get(_SAMPLE, 0) // 2
    params = sum(p.numel() for p in module.parameters())
    return {"params": params, "macs": sum(flops.values()) // 2 - samples, "sample_macs": samples}


def _sample_flops(*inputs: Any, out_shape: Any = None, **options: Any) -> int:
    """Two FLOP a multiply-accumulate, as the counter has it."""
    return 2 * _MACS_PER_SAMPLE * torch.Size(out_shape).numel()


def format_operations(operations: Mapping[str, Ops]) -> str:
    """A plain table of both graphs: parameters in thousands, multiply-accumulates in millions."""
    lines = [f"{'module':<24}{'params, k':>12}{'MMAC':>12}{'sample MMAC':>14}  output"]
    for graph, ops in operations.items():
        rows = [(f"{graph}.{row.name}", row, "×".join(map(str, row.output_shape))) for row in ops.modules]
        for name, counts, shape in [*rows, (graph, ops, "(total)")]:
            figures = f"{counts.params / 1e3:>12.1f}{counts.macs / 1e6:>12.2f}{counts.sample_macs / 1e6:>14.3f}"
            lines.append(f"{name:<24}{figures}  {shape}".rstrip())
    return "\n".join(lines)
