"""Pictures of what a frame takes: time line, roofline, memory, modules measured and predicted."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.deploy.performance import Performance, entities
from motrlab.viz.curves import COLOURS, GREY, heading, legend_above, note, panels, rows_downwards
from motrlab.viz.roofline import Dot

_UNITS = ("matrix", "depthwise", "vector", "table", "move", "load", "store", "host")
LANE_COLOURS = dict(zip(_UNITS, (COLOURS[i] for i in (0, 5, 1, 4, 7, 2, 3)), strict=False)) | {"host": GREY}


def timeline(performance: Performance) -> Figure:
    """Who works when over one frame, a row for each lane that has anything to do."""
    found = performance.sections["timeline"]
    lanes = [lane for lane in found["lanes"] if any(span[0] == lane for span in found["spans"])]
    figure, (ax,) = panels(10.0, 0.9 + 0.34 * len(lanes), grid="x")
    for row, lane in enumerate(lanes):
        spans = [(start, end - start) for name, start, end, _ in found["spans"] if name == lane]
        colour = LANE_COLOURS.get(lane, GREY)  # of the edges, too: what is shorter than a pixel is still seen
        ax.broken_barh(spans, (row - 0.36, 0.72), facecolors=colour, edgecolors=colour, linewidth=0.5)
    rows_downwards(ax, lanes, "milliseconds since the frame came in")
    heading(ax, f"{performance.target}, {performance.kind}: {performance.frame['latency_ms']:.3g} ms a frame")
    return figure


def busy_ms(performance: Performance) -> dict[str, float]:
    """How long each lane of the time line works in one frame, the longest first."""
    found: dict[str, float] = {}
    for lane, start, end, _ in performance.sections["timeline"]["spans"]:
        found[lane] = found.get(lane, 0.0) + end - start
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def layer_speeds(performance: Performance) -> list[tuple[str, float, float]]:
    """Of every layer with products: name, operations per byte, 10⁹ operations a second (two a multiply-accumulate)."""
    dots = (
        Dot.of(c.layer.name, c.layer.macs, c.bytes_read + c.bytes_written, c.latency_ms, c.bound)
        for c in performance.layers
    )
    return [(dot.name, dot.x, dot.y) for dot in dots if dot]


def roofline(performance: Performance) -> Figure:
    """Speed of layers over their operations per byte, under the target's roofs: min(roof, bandwidth × intensity)."""
    figure, (ax,) = panels(7.6, 4.2)
    speeds, roof = layer_speeds(performance), performance.sections["roofline"]
    ax.scatter([x for _, x, _ in speeds], [y for *_, y in speeds], s=18, color=COLOURS[0], alpha=0.8, zorder=3)
    draw_roofs(ax, roof, [x for _, x, _ in speeds])
    legend_above(ax, ncols=3)
    return figure


def draw_roofs(ax: Axes, roof: Mapping[str, Mapping[str, float]], intensities: Sequence[float]) -> None:
    """The roofs of a target, section `roofline` of its prediction, over operations per byte; both axes logarithmic."""
    peaks = {n: p for n, p in roof["peak_gops"].items() if n.split()[0] in ("matrix", "depthwise")}
    xs = np.geomspace(min(intensities) / 2, max(intensities) * 4, 100)
    for (name, peak), colour in zip(peaks.items(), COLOURS[1:], strict=False):
        ax.axhline(peak, color=colour, linewidth=1.4, label=f"{name}: {peak:,.0f}")
    for (name, rate), dash in zip(roof["bandwidth_gbs"].items(), ("-", "--"), strict=False):
        ys = np.minimum(xs * rate, max(peaks.values()))
        ax.plot(xs, ys, color=GREY, linestyle=dash, label=f"{name.replace('_', '-')}: {rate:.4g} GB/s")
    ax.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="10⁹ operations a second")


def memory_curve(performance: Performance) -> Figure:
    """What lives while each layer of a graph runs, weights apart, in megabytes; a panel for each graph."""
    graphs = performance.sections["memory"]
    figure, axes = panels(10.0, 2.8, len(graphs), width_ratios=[len(m["curve"]) ** 0.5 for m in graphs.values()])
    for ax, (name, memory), colour in zip(axes, graphs.items(), COLOURS, strict=False):
        sizes = np.array([size for _, size in memory["curve"]]) / 1e6
        ax.step(range(len(sizes)), sizes, where="post", color=colour)
        peak = int(sizes.argmax())
        ax.plot(peak, sizes[peak], "o", color=colour, markersize=4)
        side, shift = ("right", -6) if 2 * peak > len(sizes) else ("left", 6)  # towards the middle
        told = f"{sizes[peak]:.3g} MB:\n{memory['peak_layer']}"
        note(ax, told, (peak, sizes[peak]), (shift, 4), ha=side, va="bottom")
        heading(ax, name)
        ax.set(xlabel="layer, in order of execution", ylim=(0, 1.5 * sizes[peak]))
    axes[0].set_ylabel("megabytes that live")
    return figure


def module_shares(performance: Performance) -> dict[str, float]:
    """Share of both graphs' time by module, the largest first."""
    found = [e for e in entities(performance.rows()) if e["kind"] == "module"]
    total = sum(e["latency_ms"] for e in found) or 1.0
    return {e["id"].replace("/", " "): e["latency_ms"] / total for e in sorted(found, key=lambda e: -e["latency_ms"])}


def modules_beside(performances: Sequence[Performance], most: int = 12) -> Figure:
    """Share of the time by module on each target, side by side; those that take most on the first."""
    shares: list[Mapping[str, float]] = [module_shares(p) for p in performances]
    names = list(shares[0])[:most]
    figure, (ax,) = panels(9.0, 1.0 + 0.2 * len(names) * (len(performances) + 0.5), grid="x")
    height = 0.8 / len(performances)
    for index, (performance, found) in enumerate(zip(performances, shares, strict=True)):
        place = np.arange(len(names)) + (index - (len(performances) - 1) / 2) * height
        values = [100 * found.get(name, 0.0) for name in names]
        label = f"{performance.target}, {performance.kind}"
        ax.barh(place, values, height=0.9 * height, color=COLOURS[index % len(COLOURS)], label=label)
    rows_downwards(ax, names, "share of both graphs' time, percent")
    legend_above(ax, ncols=len(performances))
    return figure
