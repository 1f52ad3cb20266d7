"""`predict`: a frame on a target, of one stream in closed loop: the host's part, the base graph, the QIM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from motrlab.deploy.layers import Layer
from motrlab.deploy.performance import Performance
from motrlab.deploy.predict.advice import advice_of
from motrlab.deploy.predict.chip import GraphCost, cost_of_graph
from motrlab.deploy.predict.host import cost_of_kernels
from motrlab.deploy.predict.memory import KEPT, memory_split, used_bytes
from motrlab.deploy.predict.units import HOST_OPERATIONS, as_deployed
from motrlab.deploy.target import ASSUMED, UNITS, Figure, Target
from motrlab.deploy.whatif import machine_facts

LANES = (*UNITS[:-1], "load", "store", "host")
_RULES = (
    "within a layer the unit and both memories work at once; the slowest decides",
    "element-wise work directly behind a product is fused with it",
    f"{KEPT:.0%} of the on-chip memory holds tensors between layers, the rest the tiles in work",
    "weights are read from outside once in every call of a graph",
    "views, and channels moved to the end or back, are layout and cost nothing",
)

_SAID_IN = {  # a figure's name → factor and unit in which it is told
    "clock": (1e-9, "GHz"), "size": (1e-6, "MB"), "bandwidth": (1e-9, "GB/s"), "latency": (1e9, "ns"),
    "layer_overhead": (1e6, "µs"), "graph_overhead": (1e6, "µs"), "host_work": (1e3, "ms"), "burst": (1.0, "bytes"),
    "grain": (1.0, "bytes"),
}  # fmt: skip


def predict(
    target: Target, graphs: Mapping[str, Sequence[Layer]], host_ms: Mapping[str, float] | None = None
) -> Performance:
    """What a frame takes on a chip, or on a host that has `kernels`.

    Args:
        target: what it is.
        graphs: the layers of `base` and `qim`: of `layers.layers_of_model`; for a host of `kernel_layers`.
        host_ms: parts of the frame step outside the graphs, measured: `before` (pre-processing) and `between` (tracker,
            gathering, state). None: the target's own `host_work`, or nothing.
    """
    deployed = graphs if target.kernels else {name: as_deployed(target, layers) for name, layers in graphs.items()}
    memory = {name: memory_split(layers) for name, layers in deployed.items()}
    if target.kernels:
        used = {name: used_bytes(split) for name, split in memory.items()}
        costs = {n: cost_of_kernels(target, layers, sum(used.values()) - used[n]) for n, layers in graphs.items()}
    else:
        costs = {name: cost_of_graph(target, layers) for name, layers in deployed.items()}
    foreign = host_ms is not None and not target.kernels
    other = "; the target's own processor is another" if foreign else ""
    told = f"measured on this computer, in the run's last `latency` record{other}"
    if host_ms is None:
        work = target.host_work
        host_ms = {"before": 0.0, "between": work.value * 1e3 if work else 0.0}
        told = f"{'from the target file, ' + work.source if work else 'not known, taken as nothing'}"
    layers = [cost for graph in costs.values() for cost in graph.layers]
    latency = sum(graph.latency_ms for graph in costs.values()) + sum(host_ms.values())
    frame = {
        "latency_ms": latency, "fps": 1e3 / latency, "preprocess_ms": host_ms["before"], "host_ms": host_ms["between"],
        **{f"{name}_ms": graph.latency_ms for name, graph in costs.items()},
    }  # fmt: skip
    assumed = [f"{at}: {_told(at, figure)}, assumed" for at, figure in figures_of(target) if figure.source == ASSUMED]
    sections = {
        "memory": memory,
        "timeline": _timeline(costs, host_ms),
        "roofline": _roofline(target),
        "traffic": _traffic(costs, latency),
        **({} if target.kernels else {"machine": machine_facts(target)}),
        "advice": advice_of(target, layers),
        "foreign_host": foreign,  # its part of the frame was measured on another processor than the target's
        "assumptions": [
            *target.assumptions,
            *(() if target.kernels else _RULES),
            f"host's part of the frame: {told}",
            *assumed,
        ],
    }
    return Performance(target.name, "predicted", {n: _summary(g) for n, g in costs.items()}, frame, layers, sections)


def figures_of(target: Target) -> list[tuple[str, Figure]]:
    """All figures that decide a prediction, by the field's path."""
    found: list[tuple[str, Figure]] = []
    for name in ("clock", "cores", "layer_overhead", "graph_overhead"):
        found.append((name, getattr(target, name)))
    for level in ("on_chip", "off_chip"):
        found += [
            (f"{level}.{name}", getattr(getattr(target, level), name)) for name in ("size", "bandwidth", "latency")
        ]
        found += [(f"{level}.{name}", f) for name in ("burst", "grain") if (f := getattr(getattr(target, level), name))]
    found += [(f"cold.{size}", figure) for size, figure in target.cold.items()]
    for field in ("operations", "lanes", "kernels"):
        for unit, figures in getattr(target, field).items():
            found += [(f"{field}.{unit}.{name}", figure) for name, figure in figures.items()]
    found += [(f"operators.{name}.rate", o.rate) for name, o in target.operators.items() if o.rate]
    found += [(name, f) for name in ("block", "channel_load", "host_work") if (f := getattr(target, name))]
    if "host" not in target.operations:
        found.append(("operations.host", HOST_OPERATIONS))
    return found


def _told(at: str, figure: Figure) -> str:
    """The figure with its unit, by the field's path."""
    name = at.rpartition(".")[2]
    if at.startswith("operations"):
        return f"{figure.value:g} a cycle"
    factor, unit = _SAID_IN.get(name, (1.0, ""))
    return f"{figure.value * factor:.5g} {unit}".rstrip()


def _summary(graph: GraphCost) -> dict[str, Any]:
    """`bound_ms` adds up to the latency: what bounds the layers, and the `call` of the graph."""
    macs = sum(cost.layer.macs for cost in graph.layers)
    by_bound = {"call": graph.latency_ms - sum(cost.latency_ms for cost in graph.layers)}
    for cost in graph.layers:
        by_bound[cost.bound] = by_bound.get(cost.bound, 0.0) + cost.latency_ms
    return {
        "latency_ms": graph.latency_ms, "fps": 1e3 / graph.latency_ms, "macs": macs, "num_layers": len(graph.layers),
        "load_bytes": graph.load_bytes, "store_bytes": graph.store_bytes,
        "bound_ms": dict(sorted(by_bound.items(), key=lambda item: -item[1])),
    }  # fmt: skip


def _timeline(costs: Mapping[str, GraphCost], host_ms: Mapping[str, float]) -> dict[str, Any]:
    """One frame: pre-processing, base, the tracker's part, QIM; an index of −1 is the host's own work."""
    spans: list[list[Any]] = []
    now, first = 0.0, 0
    for graph, part in zip(costs.values(), ("before", "between"), strict=False):
        if host_ms.get(part, 0.0):
            spans.append(["host", now, now + host_ms[part], -1])
            now += host_ms[part]
        spans += [[lane, now + start, now + end, first + index] for lane, start, end, index in graph.spans]
        now, first = now + graph.latency_ms, first + len(graph.layers)
    return {"lanes": list(LANES), "spans": spans}


def _roofline(target: Target) -> dict[str, Any]:
    """Peak in 10⁹ operations a second (a multiply-accumulate is two), bandwidth in 10⁹ bytes a second."""
    peak = {}
    for unit, figures in target.operations.items():
        for dtype, figure in figures.items():
            per_item = 2 if unit in ("matrix", "depthwise") else 1
            peak[f"{unit} {dtype}"] = figure.value * per_item * target.clock.value / 1e9
    levels = {name: getattr(target, name).bandwidth.value / 1e9 for name in ("on_chip", "off_chip")}
    return {"peak_gops": peak, "bandwidth_gbs": levels}


def _traffic(costs: Mapping[str, GraphCost], latency_ms: float) -> dict[str, float]:
    load, store = (sum(getattr(g, f"{way}_bytes") for g in costs.values()) for way in ("load", "store"))
    seconds = latency_ms / 1e3
    return {
        "off_chip_bytes_per_frame": load + store, "load_gbs": load / seconds / 1e9, "store_gbs": store / seconds / 1e9,
    }  # fmt: skip
