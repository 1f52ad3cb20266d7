"""A roofline as SVG, for pages and for widgets: a pointer that rests on a dot is told its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motrlab.viz.svg import LEFT, RIGHT, Plot

WIDTH = 920.0
_UNITS = {"matrix": 0, "depthwise": 5}  # units with a roof → number of their colour


@dataclass(frozen=True)
class Dot:
    """A layer or module with products: `x` operations per byte, `y` 10⁹ operations a second, `ms` its time."""

    name: str
    x: float
    y: float
    ms: float
    bound: str
    unit: str = "matrix"

    @staticmethod
    def of(name: str, macs: int, num_bytes: int, ms: float, bound: str, unit: str = "matrix") -> Dot | None:
        """None without products, bytes or time. A multiply-accumulate is two operations."""
        if not (macs and num_bytes and ms > 0):
            return None
        return Dot(name, 2 * macs / num_bytes, 2 * macs / ms / 1e6, ms, bound, unit)

    @property
    def told(self) -> str:
        bound = self.bound if self.bound == "measured" else f"bound by {self.bound}"
        return f"{self.name}: {self.ms:.4g} ms, {self.y:.3g} billion operations a second, {bound}"


def layer_dots(values: Mapping[str, Any]) -> list[Dot]:
    """Of every layer with products in the JSON of a `Performance`."""
    found = (
        Dot.of(
            row["name"], row["macs"], row["bytes_read"] + row["bytes_written"], row["latency_ms"], row["bound"],
            "depthwise" if row.get("unit") == "depthwise" else "matrix",
        )
        for row in values["layers"]
    )  # fmt: skip
    return [dot for dot in found if dot]


def has_roofs(roof: Mapping[str, Any] | None) -> bool:
    return bool(roof and _peaks(roof) and roof.get("bandwidth_gbs"))


def roofline_plot(dots: Sequence[Dot], roof: Mapping[str, Any] | None = None, marked: str = "") -> Plot:
    """The dots under the roofs of their target, if it has any: section `roofline` of a prediction. `marked`: the name
    of a dot that gets a ring. There must be a dot.
    """
    roof = roof if has_roofs(roof) else None
    peaks, bandwidths = (_peaks(roof), roof["bandwidth_gbs"]) if roof else ({}, {})
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    ridges = (peak / min(bandwidths.values()) for peak in peaks.values())
    span = (min(xs) / 2, max(*xs, 0.0, *ridges) * 2)
    plot = Plot(WIDTH, 400, span, (min(ys) / 2, max(*ys, 0.0, *peaks.values()) * 2), log=True, top=28)
    plot.axes("operations per byte read or written (a multiply-accumulate is two)", "billion operations a second")
    for name, peak in peaks.items():
        plot.line([(plot.x(span[0]), plot.y(peak)), (plot.x(span[1]), plot.y(peak))], f"roof s{_colour(name)}")
        plot.text(WIDTH - RIGHT - 4, plot.y(peak) - 4, f"{name}: {peak:,.0f}", anchor="end")
    for name, rate in bandwidths.items():
        ends = [max(span[0], plot.y_range[0] / rate), min(span[1], max(peaks.values()) / rate)]
        plot.line([(plot.x(x), plot.y(x * rate)) for x in ends], "roof axis")
        at = ends[0] * 1.3
        plot.text(plot.x(at) + 8, plot.y(at * rate) + 12, f"{name.replace('_', '-')}: {rate:.4g} GB/s")
    longest = max(dot.ms for dot in dots)
    for dot in dots:
        radius = 2 + 8 * (dot.ms / longest) ** 0.5
        if dot.name == marked:
            plot.dot(plot.x(dot.x), plot.y(dot.y), radius + 5, "k3")
        plot.dot(plot.x(dot.x), plot.y(dot.y), radius, f"k{_colour(dot.unit)}", dot.told)
    if marked in (at := {dot.name: dot for dot in dots}):
        plot.text(LEFT + 6, 44, at[marked].told, "name")
    return plot


def _peaks(roof: Mapping[str, Any]) -> dict[str, float]:
    return {n: p for n, p in (roof.get("peak_gops") or {}).items() if n.partition(" ")[0] in _UNITS}


def _colour(name: str) -> int:
    return _UNITS.get(name.partition(" ")[0], 6)
