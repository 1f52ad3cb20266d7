"""Our prediction of `mot17` on Horizon's chips beside published latencies of the reference, and what decides.

    OMP_NUM_THREADS=1 python benchmarks/predicted_vs_published.py

Prints for each chip: predicted and published milliseconds of the base graph and the QIM, and the error; then every
assumed figure of the target file, half and half as much again, and the base graph's milliseconds with it, the most
decisive first. The target files were written before the first comparison and are not changed for it: an error stays an
error. The graph is the preset's float network with random weights, predicted in int8 throughout; the reference has
int16 from the sampling grid to the last product and in most of the QIM.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from motrlab.deploy.layers import Layer, layers_of_model
from motrlab.deploy.predict.frame import predict
from motrlab.deploy.target import ASSUMED, Figure, Target, load_target
from motrlab.stages.graphs import graphs_of_preset

# Milliseconds, from Horizon's public model card of MOTR and a D-Robotics forum post on J5.
PUBLISHED = {
    "horizon-j6m": {"base": 8.03, "qim": 0.37},
    "horizon-j6p": {"base": 5.81, "qim": 0.36},
    "horizon-j5": {"base": 26.96},
}
CHANGES = (0.5, 1.5)
Graphs = Mapping[str, Sequence[Layer]]


def main() -> None:
    parser = argparse.ArgumentParser(description="predicted against published latency of mot17")
    parser.add_argument("--target", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--layers", type=int, default=12, help="print so many of the most expensive layers")
    options = parser.parse_args()
    models = graphs_of_preset("mot17").graphs
    graphs = {name: layers_of_model(model, name) for name, model in models.items()}
    for name in options.target:
        compare(load_target(name), graphs, options.layers)


def compare(target: Target, graphs: Graphs, most: int) -> None:
    """Prints one chip."""
    found = predict(target, graphs)
    for graph, published in PUBLISHED[target.name].items():
        own = found.graphs[graph]["latency_ms"]
        error = f"error {own / published - 1:+.0%}"
        print(f"{target.name} {graph}: predicted {own:.3f} ms, published {published:.2f} ms: {error}")
    bounds = ", ".join(
        f"{name} {value:.2f}" for name, value in found.graphs["base"]["bound_ms"].items() if value >= 0.005
    )
    print(f"  base by what bounds it, ms: {bounds}")
    for cost in sorted(found.layers, key=lambda c: -c.latency_ms)[:most]:
        print(f"  {cost.latency_ms:8.3f} ms {cost.bound:<10} {cost.layer.graph} {cost.layer.name}")
    print("  assumed figure → base ms with half of it, and with half as much again:")
    for name, values in sensitivity(target, graphs):
        print(f"  {name:<28}" + "".join(f"{value:>9.3f}" for value in values))


def sensitivity(target: Target, graphs: Graphs) -> list[tuple[str, list[float]]]:
    """Assumed figure → milliseconds of the base graph for each of `CHANGES`, the most decisive first."""
    rows = []
    for path in assumed_figures(target):
        changed = [scaled(target, path, factor) for factor in CHANGES]
        values = [predict(x, {"base": graphs["base"]}).graphs["base"]["latency_ms"] for x in changed]
        rows.append((".".join(path), values))
    return sorted(rows, key=lambda row: -abs(row[1][0] - row[1][1]))


def assumed_figures(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where the assumed figures of a target are."""
    if isinstance(value, Figure):
        return [path] if value.source == ASSUMED and value.value else []
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if not isinstance(value, Mapping):
        return []
    return [found for key, inner in value.items() for found in assumed_figures(inner, (*path, key))]


def scaled(value: Any, path: Sequence[str], factor: float) -> Any:
    """`value` with one figure times `factor`."""
    if isinstance(value, Figure):
        return replace(value, value=value.value * factor)
    if isinstance(value, Mapping):
        return {**value, path[0]: scaled(value[path[0]], path[1:], factor)}
    return replace(value, **{path[0]: scaled(getattr(value, path[0]), path[1:], factor)})


if __name__ == "__main__":
    main()
