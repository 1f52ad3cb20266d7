"""Calops: parameters and multiply-accumulates of both graphs, before anything is trained.

Counted are convolutions and matrix products, and, apart from them, the bilinear samples of deformable attention (four
multiply-accumulates a value). Element-wise work, norms, softmax and sine codes are not counted, as is usual. Nothing
is computed: the graphs run on torch's meta device, which knows shapes only.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr

GRAPHS = ("base", "qim")
_SAMPLE = torch.ops.aten.grid_sampler_2d
_MACS_PER_SAMPLE = 4  # the four neighbours of a bilinear sample


@dataclass(frozen=True, kw_only=True)
class ModuleOps:
    """One row of the table: a module of a graph, its parameters, its operations, the shape of its output."""

    name: str
    params: int
    macs: int
    sample_macs: int
    output_shape: tuple[int, ...]  # empty: the module is not called as such


@dataclass(frozen=True, kw_only=True)
class Ops:
    """Operations of one graph for one frame; `modules` add up to the totals, the last row being what is left over."""

    params: int
    macs: int  # convolutions and matrix products
    sample_macs: int  # bilinear samples
    modules: tuple[ModuleOps, ...]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def count_operations(model: Motr, config: ModelConfig) -> dict[str, Ops]:
    """Operations of `base` and `qim` for one frame at the config's size; the model is left alone."""
    shadow = copy.deepcopy(model).to("meta").eval()
    rows, columns, track = config.num_track // config.slot_columns, config.slot_columns, config.num_track
    sizes: dict[str, tuple[tuple[int, ...], ...]] = {
        "base": (
            (1, 3, config.height, config.width),
            (1, config.d_model, rows, columns),
            (1, 1, 1, track),
            (1, 4, rows, columns),
        ),
        "qim": ((1, config.d_model, 1, track), (1, config.d_model, 1, track), (1, 1, 1, track)),
    }
    return {
        name: _count_graph(getattr(shadow, name), [torch.empty(size, device="meta") for size in sizes[name]])
        for name in GRAPHS
    }


def _count_graph(graph: nn.Module, inputs: list[Tensor]) -> Ops:
    counter = FlopCounterMode(display=False, custom_mapping={_SAMPLE: _sample_flops})
    modules = dict(_parts(graph))
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = [module.register_forward_hook(_note_shape(shapes, name)) for name, module in modules.items()]
    try:
        with counter, torch.no_grad():
            graph(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    flops = counter.get_flop_counts()
    root = type(graph).__name__
    parts = [
        _row(name, _num_params(module), flops.get(f"{root}.{name}", {}), shapes.get(name, ()))
        for name, module in modules.items()
    ]
    whole = _row(root, _num_params(graph), flops["Global"], ())
    rest = ModuleOps(
        name="(itself)",
        params=whole.params - sum(row.params for row in parts),
        macs=whole.macs - sum(row.macs for row in parts),
        sample_macs=whole.sample_macs - sum(row.sample_macs for row in parts),
        output_shape=(),
    )
    return Ops(params=whole.params, macs=whole.macs, sample_macs=whole.sample_macs, modules=(*parts, rest))


def _parts(graph: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Children of the graph; a list's layers one by one."""
    for name, child in graph.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", layer) for index, layer in enumerate(child))
        else:
            yield name, child


def _row(name: str, params: int, flops: Mapping[Any, int], shape: tuple[int, ...]) -> ModuleOps:
    samples = flops.get(_SAMPLE, 0) // 2
    return ModuleOps(
        name=name,
        params=params,
        macs=sum(flops.values()) // 2 - samples,
        sample_macs=samples,
        output_shape=shape,
    )


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shapes[name] = tuple(output.shape)

    return hook


def _num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _sample_flops(*inputs: Any, out_shape: Any = None, **options: Any) -> int:
    """Two FLOP a multiply-accumulate, as the counter has it."""
    return 2 * _MACS_PER_SAMPLE * torch.Size(out_shape).numel()


def format_operations(operations: Mapping[str, Ops]) -> str:
    """A plain table of both graphs: parameters in thousands, multiply-accumulates in millions."""
    lines = [f"{'module':<24}{'params, k':>12}{'MMAC':>12}{'sample MMAC':>14}  output"]
    for graph, ops in operations.items():
        for row in ops.modules:
            shape = "×".join(map(str, row.output_shape))
            figures = f"{row.params / 1e3:>12.1f}{row.macs / 1e6:>12.2f}{row.sample_macs / 1e6:>14.3f}"
            lines.append(f"{graph + '.' + row.name:<24}{figures}  {shape}")
        total = f"{ops.params / 1e3:>12.1f}{ops.macs / 1e6:>12.2f}{ops.sample_macs / 1e6:>14.3f}"
        lines.append(f"{graph:<24}{total}  (total)")
    return "\n".join(line.rstrip() for line in lines)
