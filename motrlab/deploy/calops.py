"""Calops: parameters and multiply-accumulates of both graphs, before anything is trained.

Counted are convolutions and matrix products, and, apart from them, the bilinear samples of deformable attention (four
multiply-accumulates a value); not element-wise work, norms, softmax and sine positional encodings. The graphs run on
torch's meta device, which knows shapes only.
"""

from __future__ import annotations

import copy
import functools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr
from motrlab.model.operations import Operations
from motrlab.quantization.declare import example_inputs

_SAMPLE = torch.ops.aten.grid_sampler_2d
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Ops:
    """Operations of one graph for one frame, or of a module of it, which is a row of the table.

    `macs`: multiply-accumulates of convolutions and matrix products; `sample_macs`: those of bilinear samples.
    `output_shape` is a module's (empty: not called as such). `modules` add up to the totals; the last is the rest.
    """

    name: str
    params: int
    macs: int
    sample_macs: int
    output_shape: Shape = ()
    modules: tuple[Ops, ...] = ()


def count_operations(model: Motr, config: ModelConfig) -> dict[str, Ops]:
    """Operations of `base` and `qim` for one frame at the config's size; the model is left alone."""
    shadow = copy.deepcopy(model).to("meta").eval()
    with torch.device("meta"):
        inputs = example_inputs(config)
    return {name: _count_graph(name, shadow.get_submodule(name), given) for name, given in inputs.items()}


def _sample_flops(*inputs: Any, out_shape: Any = None, **options: Any) -> int:
    """Of the four neighbours of a bilinear sample; two FLOP a multiply-accumulate, as the counter has it."""
    return 2 * 4 * math.prod(out_shape)


class _ByModule(Operations):
    """The values that decoder layers sample, by the module of each: the float model makes one product of all."""

    def values(self, attentions: Sequence[Any], memory: Any) -> Any:
        return torch.stack([attention.value(memory) for attention in attentions])


def _count_graph(graph_name: str, graph: nn.Module, inputs: Iterable[Tensor]) -> Ops:
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
        graph(*inputs, net=_ByModule())
    parts = [
        Ops(name=name, output_shape=shapes.get(module, ()), **_counts(module, flops[name]))
        for name, module in modules.items()
    ]
    whole = _counts(graph, counter.flop_counts["Global"])
    rest = {key: number - sum(getattr(part, key) for part in parts) for key, number in whole.items()}
    return Ops(name=graph_name, modules=(*parts, Ops(name="(itself)", **rest)), **whole)


def _parts(graph: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Children of the graph; a list's layers one by one."""
    for name, child in graph.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", layer) for index, layer in enumerate(child))
        else:
            yield name, child


def _counts(module: nn.Module, flops: Mapping[Any, int]) -> dict[str, Any]:
    """The numbers of an `Ops`."""
    samples = flops.get(_SAMPLE, 0) // 2
    params = sum(p.numel() for p in module.parameters())
    return {"params": params, "macs": sum(flops.values()) // 2 - samples, "sample_macs": samples}


def totals(operations: Mapping[str, Ops]) -> dict[str, float]:
    """`GRAPH.params` and `GRAPH.macs` of each graph."""
    return {f"{graph}.{kind}": getattr(ops, kind) for graph, ops in operations.items() for kind in ("params", "macs")}


def format_operations(operations: Mapping[str, Ops]) -> str:
    """A plain table of both graphs: parameters in thousands, multiply-accumulates in millions."""
    lines = [f"{'module':<24}{'params, k':>12}{'MMAC':>12}{'sample MMAC':>14}  output"]
    for graph, ops in operations.items():
        rows = [(f"{graph}.{row.name}", row, "×".join(map(str, row.output_shape))) for row in ops.modules]
        for name, counts, shape in [*rows, (graph, ops, "(total)")]:
            figures = f"{counts.params / 1e3:>12.1f}{counts.macs / 1e6:>12.2f}{counts.sample_macs / 1e6:>14.3f}"
            lines.append(f"{name:<24}{figures}  {shape}".rstrip())
    return "\n".join(lines)
