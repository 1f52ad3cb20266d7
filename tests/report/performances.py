"""Results of `perf` with layers made up: what the helpers of other tests put on a page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.performance import LayerCost, Performance
from motrlab.deploy.target import UNITS
from motrlab.deploy.trace import save_performance
from motrlab.run import Run

CLOCK_GHZ, HOST_MS, CALL_MS = 1.2, 0.4, 0.0125  # of the call only the QIM has any
MACHINE = {"clock_ghz": CLOCK_GHZ, "cores": 2, "on_chip_gbs": 200.0, "off_chip_gbs": 20.0}
MACHINE |= {"off_chip_wait_ms": 1e-4, "layer_overhead_us": 1.0}
_KINDS = (("Conv", "matrix"), ("Conv", "depthwise"), ("Add", "vector"), ("Softmax", "table"), ("Transpose", "move"))


def layers(number: int = 40) -> list[Layer]:
    """Of both graphs, in turn a convolution, a depthwise one, a sum, a table and a move."""
    found = []
    for i in range(number):
        operator, unit = _KINDS[i % len(_KINDS)]
        graph, size = ("base", 16 + 8 * (i % 7)) if i < 0.8 * number else ("qim", 8)
        data = TensorInfo(f"t{i}", (1, 64, size, size), "uint8")
        weight = TensorInfo(f"w{i}", (64, 1 if unit == "depthwise" else 64, 3, 3), "int8")
        module = f"backbone.{i // 5}.<{unit}>" if graph == "base" else f"ffn.{unit}"
        macs = data.numel * weight.numel // 64 if operator == "Conv" else 0
        weights = (weight,) if macs else ()
        attributes = {"group": 64} if unit == "depthwise" else {}
        ends = {"inputs": (data,), "weights": weights, "outputs": (data,)}
        name = f"{module}/{operator}_{i}"
        found.append(
            Layer(graph=graph, name=name, module=module, operator=operator, macs=macs, attributes=attributes, **ends)
        )
    return found


def predicted(target: str = "horizon-j6m", found: list[Layer] | None = None) -> Performance:
    """By the formula of `deploy/whatif.py`, on made-up figures: cycles of three parts, an overhead of 1 µs."""
    costs = []
    for layer in found or layers():
        moved = sum(t.num_bytes for t in (*layer.inputs, *layer.weights)), sum(t.num_bytes for t in layer.outputs)
        unit = _unit(layer)
        cycles = {
            "compute": (layer.macs / 512 if layer.macs else layer.outputs[0].numel / 32) / 2,
            "on_chip": sum(moved) / (MACHINE["on_chip_gbs"] / CLOCK_GHZ),
            "off_chip": sum(t.num_bytes for t in layer.weights) / (MACHINE["off_chip_gbs"] / CLOCK_GHZ),
        }
        cycles["off_chip"] += bool(layer.weights) * MACHINE["off_chip_wait_ms"] * CLOCK_GHZ * 1e6
        bound = max(cycles, key=lambda name: cycles[name])
        more: dict[str, Any] = {f"cycles_{name}": value for name, value in cycles.items()}
        more |= {"unit": unit, "dtype": "int8", "utilisation": cycles["compute"] / max(cycles.values())}
        more |= {"tiles": 1, "on_chip_bytes": sum(moved), "kept_on_chip": True}
        more |= {"load_bytes": sum(t.num_bytes for t in layer.weights), "store_bytes": 0}
        latency = max(cycles.values()) / CLOCK_GHZ / 1e6 + 1e-3
        costs.append(LayerCost(layer, latency, *moved, bound=unit if bound == "compute" else bound, more=more))
    graphs = {g: {"latency_ms": sum(c.latency_ms for c in costs if c.layer.graph == g)} for g in ("base", "qim")}
    graphs["qim"]["latency_ms"] += CALL_MS
    total = sum(g["latency_ms"] for g in graphs.values()) + HOST_MS
    return Performance(
        target,
        "predicted",
        graphs,
        {"latency_ms": total, "fps": 1e3 / total, "host_ms": HOST_MS},
        costs,
        _sections(costs),
    )


def measured(target: str = "onnxruntime-cpu", found: list[Layer] | None = None) -> Performance:
    """The same layers ten times as slow, as kernels would show them."""
    base = predicted(target, found)
    costs = [
        replace(c, latency_ms=10 * c.latency_ms, bound="measured", more={"kernel": "QLinearConv", "calls": 20})
        for c in base.layers
    ]
    graphs = {name: {"latency_ms": 10 * graph["latency_ms"]} for name, graph in base.graphs.items()}
    total = sum(g["latency_ms"] for g in graphs.values()) + HOST_MS
    frame = {"latency_ms": total, "fps": 1e3 / total, "preprocess_ms": 0.2, "host_ms": HOST_MS}
    stats = {"p50_ms": 1.0, "p90_ms": 1.2, "p99_ms": 1.5, "repeats": 50}
    sections = {"distribution": {"fixed_point": {"base": stats, "qim": stats}}, "peak_memory_mb": 160.0}
    sections |= {"threads": 1, "pinned_to": "3", "warm_up": 3, "throughput": {"streams": 2, "fps": 150.0}}
    sections["rate_limited"] = {"fps": 30.0, "frames": 60, "missed": 1, "jitter_ms": 0.2}
    sections["memory"] = base.sections["memory"]
    sections["timeline"] = {"lanes": ["host"], "spans": [["host", 0.0, total, None]]}
    return Performance(target, "measured", graphs, frame, costs, sections)


def _unit(layer: Layer) -> str:
    if layer.operator == "Conv":
        return "depthwise" if layer.depthwise else "matrix"
    return {"MatMul": "matrix", "Softmax": "table", "Transpose": "move"}.get(layer.operator, "vector")


def _sections(costs: list[LayerCost]) -> dict[str, Any]:
    at, spans = 0.0, [["host", 0.0, HOST_MS, None]]
    at = HOST_MS
    for index, cost in enumerate(costs):
        at += CALL_MS * (cost.layer.graph == "qim" != costs[index - 1].layer.graph)
        spans.append([cost.more["unit"], at, at + cost.latency_ms, index])
        if cost.layer.weights:
            spans.append(["load", max(0.0, at - 0.002), at + 0.2 * cost.latency_ms, index])
        at += cost.latency_ms
    memory = {}
    for graph in ("base", "qim"):
        inside = [c for c in costs if c.layer.graph == graph]
        own = [(i, c.bytes_read + c.bytes_written) for i, c in enumerate(inside)]
        peak = max(own, key=lambda p: p[1])
        memory[graph] = {
            "inputs_bytes": 12288, "outputs_bytes": 4096, "intermediate_bytes": sum(s for _, s in own) // 4,
            "weights_bytes": sum(t.num_bytes for c in inside for t in c.layer.weights),
            "peak_bytes": peak[1], "peak_layer": inside[peak[0]].layer.name, "curve": [list(p) for p in own],
        }  # fmt: skip
    advice = {"severity": "advice", "module": "backbone.0", "layer": "backbone.0.<matrix>/Conv_0"}
    advice |= {"file": "motrlab/model/backbone.py", "line": 12, "text": "its weights are read in every frame"}
    return {
        "machine": MACHINE, "figures": {"number": 25, "assumed": 23},
        "memory": memory, "advice": [advice], "assumptions": ["on-chip bandwidth is assumed"],
        "timeline": {"lanes": [*UNITS[:5], "load", "store", "host"], "spans": spans},
        "roofline": {"peak_gops": {"matrix int8": 2457.6, "depthwise int8": 300.0},
                     "bandwidth_gbs": {"on_chip": 200.0, "off_chip": 20.0}},
        "traffic": {"off_chip_bytes_per_frame": 1_234_567, "load_gbs": 4.0, "store_gbs": 0.0},
    }  # fmt: skip


def record(run: Run, performance: Performance, metrics: dict[str, Any] | None = None) -> None:
    """As the stage does it: the files among the assets, and a record."""
    kind = "latency" if performance.kind == "measured" else "prediction"
    found = {"target": performance.target, "frame.latency_ms": performance.frame["latency_ms"]} | (metrics or {})
    run.add_record("perf", kind, found, started=1_700_000_000.0, assets=save_performance(performance, run.assets))
