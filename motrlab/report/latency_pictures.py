"""Drawings of the latency page: the time line of a frame, memory, roofline; from the JSON of a `Performance`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from motrlab.report.blocks import Drawing
from motrlab.report.values import percent
from motrlab.viz.roofline import has_roofs, layer_dots, roofline_plot
from motrlab.viz.svg import LEFT, RIGHT, Plot, data_size

Values = Mapping[str, Any]
LANES = {  # lane or unit → number of its colour
    "matrix": 0, "depthwise": 5, "vector": 1, "table": 4, "move": 7, "load": 2, "store": 3, "host": 6,
}  # fmt: skip
_MEMORY = {"weights": 0, "inputs": 2, "outputs": 1, "intermediate": 5}
_LANES_NOTE = "Load and store are traffic with the memory off the chip."
_KERNELS_NOTE = (
    "A lane is a kind of kernel, not a unit of the processor: products (matrix, depthwise), tables, copies (move), "
    "other arithmetic (vector), and what is outside the graphs (host). Here each graph has the time of a call alone."
)
_WIDTH = 920.0
_BINS = 160  # of a frame


def timeline(values: Values) -> Drawing | None:
    """Lanes by unit over one frame; None without spans."""
    found = values.get("timeline") or {}
    spans = found.get("spans") or ()
    if not spans:
        return None
    used = {lane for lane, *_ in spans}
    lanes = [lane for lane in found["lanes"] if lane in used]
    end = max(stop for _, _, stop, _ in spans)
    plot = Plot(_WIDTH, 50 + 30.0 * len(lanes), (0, end), (0, len(lanes)))
    plot.axes("milliseconds since the frame came in")
    busy = dict.fromkeys(lanes, 0.0)
    for number, lane in enumerate(lanes):
        top = plot.y(len(lanes) - number) + 4
        plot.text(LEFT - 6, top + 15, lane, anchor="end")
        own = sorted((start, stop, index) for name, start, stop, index in spans if name == lane)
        busy[lane] = _union(own)
        for start, stop, indices in _merged(own, end / (_WIDTH - LEFT - RIGHT)):
            told = f"{_layer_names(values, indices)}: {start:.4g} to {stop:.4g} ms"
            plot.rect(plot.x(start), top, plot.x(stop) - plot.x(start), 20, f"k{_colour(lane)}", told)
    shares = ", ".join(f"{lane} {percent(time / end)} %" for lane, time in busy.items())
    about = _LANES_NOTE
    if values["kind"] == "measured":
        about = f"{_KERNELS_NOTE} In the closed loop a frame takes {values['frame']['latency_ms']:.4g} ms (median)."
    caption = (
        f"What works when, over one frame of {end:.4g} ms. Busy: {shares}. {about} Layers shorter than a pixel are "
        "drawn together. A pointer that rests on a bar names its layer."
    )
    return Drawing(plot.svg(f"Time line of a frame of {end:.4g} milliseconds. Busy: {shares}."), caption)


def usage(values: Values) -> Drawing | None:
    """Load and store bandwidth, and how much of the matrix unit is used, over one frame; None without traffic."""
    spans = (values.get("timeline") or {}).get("spans") or ()
    rows = values["layers"]
    if not spans or not any("load_bytes" in row for row in rows):
        return None
    end = max(stop for _, _, stop, _ in spans)
    width = end / _BINS
    sums = {name: [0.0] * _BINS for name in ("load", "store", "matrix")}
    for lane, start, stop, index in spans:
        if lane not in sums or not 0 <= (index if index is not None else -1) < len(rows) or stop <= start:
            continue
        of_layer = rows[index].get(f"{lane}_bytes", 0) if lane != "matrix" else stop - start
        for at in range(int(start / width), min(_BINS, math.ceil(stop / width))):
            inside = max(0.0, min(stop, (at + 1) * width) - max(start, at * width))
            sums[lane][at] += of_layer * inside / (stop - start)
    rates = {name: [value / width / 1e6 for value in sums[name]] for name in ("load", "store")}
    top = max(*rates["load"], *rates["store"]) or 1.0
    plot = Plot(_WIDTH, 210, (0, end), (0, 1.05 * top), top=28)
    plot.axes("milliseconds since the frame came in", "GB/s")
    plot.legend({"load": "k2", "store": "k3", "matrix unit (full height: busy)": "k0"})
    plot.steps([1.05 * top * min(1.0, value / width) for value in sums["matrix"]], width, "k0")
    for name, style in (("load", "s2"), ("store", "s3")):
        plot.steps(rates[name], width, style)
    told = ", ".join(
        f"{name} at most {max(rate):.3g} GB/s, {sum(rate) / _BINS:.3g} on average" for name, rate in rates.items()
    )
    caption = f"Traffic with the memory off the chip, and the matrix unit at work, over the frame: {told}."
    return Drawing(plot.svg(f"Curves of bandwidth and use over a frame: {told}."), caption)


def _union(spans: Sequence[tuple[float, float, int | None]]) -> float:
    """Milliseconds in which any of the spans, in order of their start, is there."""
    total, reached = 0.0, 0.0
    for start, stop, _ in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def _merged(
    spans: Sequence[tuple[float, float, int | None]], pixel: float
) -> list[tuple[float, float, list[int | None]]]:
    """Neighbours that a pixel cannot tell apart, as one span."""
    found: list[tuple[float, float, list[int | None]]] = []
    for start, stop, index in spans:
        if found and stop - found[-1][0] < pixel and start - found[-1][1] < pixel / 2:
            first, _, indices = found[-1]
            found[-1] = (first, stop, [*indices, index])
        else:
            found.append((start, stop, [index]))
    return found


def _layer_names(values: Values, indices: Sequence[int | None]) -> str:
    names = [values["layers"][i]["name"] for i in indices if i is not None and 0 <= i < len(values["layers"])]
    return f"{names[0]} and {len(indices) - 1} more" if len(indices) > 1 and names else names[0] if names else "host"


def _colour(name: str) -> int:
    return LANES.get(name.partition(" ")[0], 6)


def memory_split(values: Values) -> Drawing | None:
    """Weights, inputs, outputs and intermediate tensors, a bar for each graph; None where nothing says."""
    graphs = {name: m for name, m in (values.get("memory") or {}).items() if isinstance(m, Mapping)}
    sums = {name: sum(m.get(f"{part}_bytes", 0) for part in _MEMORY) for name, m in graphs.items()}
    if not sums or not max(sums.values()):
        return None
    plot = Plot(_WIDTH, 64 + 34.0 * len(graphs), (0, max(sums.values()) / 1e6), (0, len(graphs)), top=28)
    plot.axes("megabytes")
    plot.legend({name: f"k{colour}" for name, colour in _MEMORY.items()})
    told = []
    for number, (graph, memory) in enumerate(graphs.items()):
        top, at = plot.y(len(graphs) - number) + 6, 0.0
        plot.text(LEFT - 6, top + 15, graph, anchor="end")
        for part, colour in _MEMORY.items():
            size = memory.get(f"{part}_bytes", 0) / 1e6
            text = f"{graph}, {part}: {data_size(size * 1e6)}"
            plot.rect(plot.x(at), top, plot.x(at + size) - plot.x(at), 20, f"k{colour}", text)
            at += size
        told.append(f"{graph}: " + ", ".join(f"{p} {data_size(memory.get(f'{p}_bytes', 0))}" for p in _MEMORY))
    basis = ", computed from the tensors that the runtime executes" if values["kind"] == "measured" else ""
    caption = f"Memory by what it holds{basis}. {'; '.join(told)}."
    return Drawing(plot.svg("Bars of memory. " + "; ".join(told) + "."), caption)


def memory_curve(values: Values) -> Drawing | None:
    """Bytes that live while each layer runs; None where no curve was recorded."""
    curves = {
        g: m["curve"] for g, m in (values.get("memory") or {}).items() if isinstance(m, Mapping) and m.get("curve")
    }
    if not curves:
        return None
    firsts = {g: next(i for i, row in enumerate(values["layers"]) if row["graph"] == g) for g in curves}
    end = max(firsts[g] + index + 1 for g, curve in curves.items() for index, _ in curve)
    peak = max(size for curve in curves.values() for _, size in curve)
    plot = Plot(_WIDTH, 230, (0, end), (0, peak / 1e6 or 1), top=28)
    plot.axes("layer, in order of execution", "MB that live")
    plot.legend({graph: f"k{number}" for number, graph in enumerate(curves)})
    told = []
    for colour, (graph, curve) in enumerate(curves.items()):
        moved = [(firsts[graph] + index, size) for index, size in curve]
        steps = chain.from_iterable(((i, size), (i + 1, size)) for i, size in moved)
        plot.line([(plot.x(i), plot.y(size / 1e6)) for i, size in steps], f"s{colour}")
        at, size = max(moved, key=lambda point: point[1])
        name = values["memory"][graph].get("peak_layer") or _layer_names(values, [at])
        plot.dot(plot.x(at + 0.5), plot.y(size / 1e6), 4, f"k{colour}", f"{graph}: {data_size(size)} at {name}")
        told.append(f"{graph} at most {data_size(size)}, at {name}")
    caption = f"What must be kept while each layer runs, weights apart. {'; '.join(told)}."
    return Drawing(plot.svg("Curve of live memory by layer. " + "; ".join(told) + "."), caption)


def roofline(values: Values) -> Drawing | None:
    """Speed of every layer with products over its operations per byte, under the target's roofs; None without roofs."""
    dots = layer_dots(values)
    if not dots or not has_roofs(values.get("roofline")):
        return None
    hit = max(dots, key=lambda dot: dot.y)
    told = f"{len(dots)} layers with products; the fastest, {hit.name}, does {hit.y:,.0f} billion a second"
    caption = (
        "Each dot is a layer with products, its area its time. A layer cannot be above the slope of a memory that it "
        f"reads from, nor above the roof of its unit: speed = min(roof, bandwidth × operations per byte). {told}."
    )
    return Drawing(roofline_plot(dots, values["roofline"]).svg(f"Roofline. {told}."), caption)
