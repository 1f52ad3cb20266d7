"""Section: milliseconds of the graphs and of each part of the frame step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from motrlab.report.blocks import Picture, Section, Source, Table, pivot
from motrlab.report.values import GRAPHS, medians, number, plain, words
from motrlab.viz.curves import figure_png, latency_bars

_HEADINGS = {**GRAPHS, "step": "Frame step, closed loop"}
_THROUGHPUT = {
    "fps": "frames a second",
    "speedup": "base graph, times fp32",
    "qim.speedup": "QIM, times fp32",
    "step.speedup": "closed loop, times fp32",
}
_KEY = re.compile(r"(?:threads_(\d+)\.)?(.+)")


def section(source: Source) -> Section:
    metrics = source.metrics("perf", "latency")
    if not metrics:
        return Section(missing=["latency"])
    intro = "Measured on this machine (processor: see provenance), fixed-point and fp32 call by call in turn."
    return Section([intro, throughput_table(metrics), _picture(metrics), *latency_tables(metrics)])


def _by_threads(metrics: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(threads, name) → value; names without `threads_N.` before them are of `num_threads`."""
    first, found = plain(metrics.get("num_threads")), {}
    for key, value in metrics.items():
        match = _KEY.fullmatch(key)
        if match and number(value) is not None:
            threads = match[1] or first
            found[f"{threads} thread{'s' * (threads != '1')}" if threads else "as measured", match[2]] = float(value)
    return found


def latency_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """`A.B.stat` keys → a table for each A (`base`, `qim`, `step`), a row per B and thread count, a column per stat."""
    trees: dict[str, dict[tuple[str, str], float]] = {}
    for (threads, key), value in _by_threads(metrics).items():
        if key.count(".") == 2:
            head, part, stat = key.split(".")
            trees.setdefault(head, {})[f"{words(part)}, {threads}", words(stat)] = value
    tables = [pivot(tree, _latency, title=_HEADINGS.get(head, head)) for head, tree in trees.items()]
    return [found for found in tables if found]


def throughput_table(metrics: Mapping[str, Any]) -> Table | None:
    """Frames a second and the gain over fp32, by thread count; None where neither was measured."""
    found = _by_threads(metrics)
    threads = dict.fromkeys(threads for threads, _ in found)
    chosen = {(t, title): found[t, n] for n, title in _THROUGHPUT.items() for t in threads if (t, n) in found}
    return pivot(chosen, _latency)


def _latency(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else plain(value)


def _picture(metrics: Mapping[str, Any]) -> Picture | None:
    """Median latencies of both graphs by runtime and of the parts of the frame step."""
    heads = ("base", "qim", "step")
    bars = {f"{words(h)}: {words(name)}": value for h in heads for name, value in medians(metrics, h).items()}
    if not bars:
        return None
    return Picture(
        figure_png(latency_bars(bars, emphasis=[name for name in bars if name.endswith("fixed-point")])),
        "Bars of median latency: " + ", ".join(f"{name} {value:.2f} ms" for name, value in bars.items()) + ".",
        "Median latency of each graph by precision (fixed-point in vermilion) and of each part of the frame step.",
    )
