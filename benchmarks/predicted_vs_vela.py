"""Our prediction for Ethos-U85-512 and U65-512 beside Vela's own estimate, of the backbone and the QIM of a preset.

    OMP_NUM_THREADS=1 python benchmarks/predicted_vs_vela.py --preset street

Wants `pip install "executorch[ethos-u]==1.5.1" ethos-u-vela==5.2.0` (in an environment of its own: over 423 MB);
without them it says so and measures nothing. Vela is Arm's compiler; its estimate comes from the same published figures
as our target files `ethos-u85` and `ethos-u65`, in the same system and memory mode. Weights are random, quantised by
executorch: the number of cycles depends on shapes, and a little on how well weights are compressed. Inputs and outputs
are channels last: a layout that only the frameworks differ in is no part of the comparison.

Prints for each target and part: total cycles of both, their ratio, the same by operator, and every layer of both.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from motrlab.config.presets import PRESETS, load_preset
from motrlab.deploy.layers import Layer, layers_of_model
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.portable import portable_graphs
from motrlab.deploy.predict.chip import cost_of_graph
from motrlab.deploy.predict.units import as_deployed
from motrlab.deploy.target import load_target
from motrlab.model.motr import Motr, build_motr, folded_copy

TARGETS = {  # our target → Vela's accelerator, system and memory
    "ethos-u85": ("ethos-u85-512", "Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_384KB"),
    "ethos-u65": ("ethos-u65-512", "Ethos_U65_Client_Server", "Dedicated_Sram_384KB"),
}
PARTS = {"backbone": "base.backbone", "qim": "qim"}  # and the modules
_CYCLES = "Op Cycles"


class ChannelsLast(nn.Module):
    """`module`, whose one output `[1, C, R, W]` is handed over as `[1, R, W, C]`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(*inputs)
        return output.permute(0, 2, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="predicted cycles against Vela's estimate")
    parser.add_argument("--preset", choices=PRESETS, default="street")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--layers", action="store_true", help="print every layer of both")
    options = parser.parse_args()
    missing = [name for name in ("executorch", "ethosu") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"nothing measured: {', '.join(missing)} not installed; pip install executorch==1.5.1 ethos-u-vela==5.2.0"
        )
    model = folded_copy(build_motr(load_preset(options.preset).model, 0))
    for name in options.target:
        for part in PARTS:
            compare(model, name, part, every=options.layers)


def compare(model: Motr, target: str, part: str, *, every: bool) -> None:
    """Prints one part on one target."""
    with tempfile.TemporaryDirectory() as folder:
        rows = vela_layers(*_module(model, part), target, Path(folder))
    layers = our_layers(model, part)
    described = load_target(target)
    ours = [c for c in cost_of_graph(described, as_deployed(described, layers)).layers if c.latency_ms]
    cycles = sum(cost.latency_ms for cost in ours) / 1e3 * described.clock.value
    theirs = sum(row["cycles"] for row in rows)
    print(f"{target} {part}: predicted {cycles:,.0f} cycles, Vela {theirs:,.0f}: {cycles / theirs:.3f}")
    for side, pairs in (("ours", _ours_by_operator(ours, described.clock.value)), ("Vela", _theirs_by_operator(rows))):
        print(f"  {side}: " + ", ".join(f"{name} {value:,.0f}" for name, value in pairs))
    if every:
        for cost in ours:
            print(f"  ours {cost.latency_ms / 1e3 * described.clock.value:>9,.0f} {cost.bound:<9} {cost.layer.name}")
        for row in rows:
            print(f"  Vela {row['cycles']:>9,.0f} {row['operator']:<24} {row['name']}")


def _ours_by_operator(costs: list[LayerCost], clock: float) -> list[tuple[str, float]]:
    sums = defaultdict[str, float](float)
    for cost in costs:
        sums[cost.layer.operator] += cost.latency_ms / 1e3 * clock
    return sorted(sums.items(), key=lambda item: -item[1])


def _theirs_by_operator(rows: list[dict[str, Any]]) -> list[tuple[str, float]]:
    sums = defaultdict[str, float](float)
    for row in rows:
        sums[row["operator"]] += row["cycles"]
    return sorted(sums.items(), key=lambda item: -item[1])


def our_layers(model: Motr, part: str) -> list[Layer]:
    """Of the portable graph; of the base graph what the backbone is."""
    graph = "qim" if part == "qim" else "base"
    layers = layers_of_model(portable_graphs(model)[graph], graph)
    return layers if part == "qim" else [x for x in layers if x.module.startswith(("backbone", "upsample"))]


def _module(model: Motr, part: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    config, generator = model.config, torch.Generator().manual_seed(0)
    if part == "backbone":
        shapes = [(1, 3, config.height, config.width)]
    else:
        shapes = [(1, config.d_model, 1, config.num_track)] * 2 + [(1, 1, 1, config.num_track)]
    inputs = (torch.rand(shape, generator=generator) - 0.5 for shape in shapes)
    given = tuple(x.to(memory_format=torch.channels_last) for x in inputs)
    module = model.get_submodule(PARTS[part])
    return ChannelsLast(module) if part == "qim" else module, given  # the backbone keeps the layout of its input


def vela_layers(module: nn.Module, inputs: tuple[torch.Tensor, ...], target: str, folder: Path) -> list[dict[str, Any]]:
    """What Vela estimates of every layer that it compiles: `name`, `operator`, `cycles`."""
    from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
    from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_quantization_config
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    accelerator, system, memory = TARGETS[target]
    spec = EthosUCompileSpec(accelerator, system, memory, extra_flags=["--verbose-performance"])
    spec.dump_intermediate_artifacts_to(str(folder))
    quantizer = EthosUQuantizer(spec)
    quantizer.set_global(get_symmetric_quantization_config())
    prepared = prepare_pt2e(torch.export.export(module.eval(), inputs).module(check_guards=False), quantizer)
    prepared(*inputs)
    exported = torch.export.export(convert_pt2e(prepared), inputs)
    to_edge_transform_and_lower(
        exported, partitioner=[EthosUPartitioner(spec)], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    found = []
    for path in sorted(folder.rglob("*per-layer*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                found.append({"name": row["Name"], "operator": row["Original Operator"], "cycles": float(row[_CYCLES])})
    return found


if __name__ == "__main__":
    main()
