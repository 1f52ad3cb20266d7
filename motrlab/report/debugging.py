"""Section: what quantisation costs each tensor, weights and activations apart, and what its values are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from motrlab.quantization.analysis.layers import FORMS, SplitRow, read_table
from motrlab.report.blocks import Block, Cell, Drawing, Explorer, Section, Source, Table, table
from motrlab.report.values import decibels, plain
from motrlab.viz.svg import LEFT, Plot

_WIDTH, _MAX_CHANNELS, _NUM_DRAWN, _NUM_ROWS = 920.0, 128, 3, 20
_TOP_DB = 80.0  # what is better is drawn at the upper edge
_COLOURS, _RADIUS = (dict(zip(FORMS, values, strict=True)) for values in ((0, 1, 3), (3, 5, 2.5)))
_INTRO = (
    "The calibrated network, before QAT, on the inputs of the float run: with only its weights on their grid, only "
    "its activations, and all in integers. Where weights alone cost as much as all, a rule for activations changes "
    "nothing."
)
_NOTE = "SQNR against float, dB: 6 more is half the error."
_VALUES = (
    "Values of the float network in steps of the tensor's grid (weights: of the widest channel's). Above, how often "
    "they occur, on a logarithmic scale; below, what each channel spans. Grey lines are the ends of the grid: beyond "
    "them values are clipped, and a channel that spans little of it has few levels left."
)


def section(source: Source) -> Section:
    record = source.last("fixed_point", "layers")
    if record is None:
        return Section(missing=["the layer comparison"])
    files, gone = source.files("the layer comparison", record)
    if "layers_split.csv" not in files:
        return Section(missing=gone or ["the error of weights and activations apart (compare the layers again)"])
    rows = read_table(files["layers_split.csv"], SplitRow)
    blocks: list[Block | None] = [_INTRO, split_drawing(rows), *split_tables(rows)]
    if "layers_values.json" in files:
        values = json.loads(files["layers_values.json"].read_text(encoding="utf-8"))
        blocks += [_VALUES, *values_blocks(values, rows)]
    return Section(blocks, gone)


def split_tables(rows: Sequence[SplitRow]) -> list[Table | None]:
    """The outputs, then the tensors of most error."""
    columns: dict[str, Callable[[SplitRow], str | Cell]] = {
        "operator": lambda row: row.operator,
        "only weights": lambda row: decibels(row.weights_db),
        "only activations": lambda row: decibels(row.activations_db),
        "all": lambda row: decibels(row.all_db),
        "costs most": _dearer,
    }
    outputs = [row for row in rows if row.operator == "output"]
    known = sorted((r for r in rows if r not in outputs and math.isfinite(r.all_db)), key=lambda row: row.all_db)
    titles = {"What the tracker gets": outputs, "The worst tensors": known[:_NUM_ROWS]}
    return [table(found, columns, _name, title=title, note=_NOTE, num_texts=1) for title, found in titles.items()]


def _name(row: SplitRow) -> str:
    return f"{row.graph} {row.tensor}"


def _dearer(row: SplitRow) -> str:
    if not (math.isfinite(row.weights_db) or math.isfinite(row.activations_db)):
        return "–"
    distance = row.weights_db - row.activations_db
    return "both" if abs(distance) < 3 else "weights" if distance < 0 else "activations"


def split_drawing(rows: Sequence[SplitRow]) -> Drawing:
    """Three dots for each tensor, in graph order."""
    found = {form: [min(getattr(row, f"{form}_db"), _TOP_DB) for row in rows] for form in FORMS}
    lowest = min((v for values in found.values() for v in values if not math.isnan(v)), default=0.0)
    plot = Plot(_WIDTH, 280, (0, max(1, len(rows))), (min(0.0, lowest - 2), _TOP_DB + 2), top=28)
    plot.axes("tensor, in graph order", "SQNR, dB")
    plot.legend({f"only {form}" if form != "all" else form: f"k{colour}" for form, colour in _COLOURS.items()})
    for form, values in found.items():
        for index, value in enumerate(values):
            if not math.isnan(value):
                told = f"{_name(rows[index])}, {form}: {decibels(getattr(rows[index], f'{form}_db'))} dB"
                plot.dot(plot.x(index + 0.5), plot.y(value), _RADIUS[form], f"k{_COLOURS[form]}", told)
    known = [row for row in rows if math.isfinite(row.all_db)]
    worst = min(known, key=lambda row: row.all_db, default=None)
    told = (
        f"the lowest with all in integers is {_name(worst)}, {decibels(worst.all_db)} dB" if worst else "none differs"
    )
    caption = f"SQNR of every tensor against float; {told}. What is exact is at the upper edge."
    return Drawing(plot.svg(f"Dots of SQNR for {len(rows)} tensors, {', '.join(FORMS)}; {told}."), caption)


def values_blocks(values: Sequence[Mapping[str, Any]], rows: Sequence[SplitRow]) -> list[Block | None]:
    """Drawings of the worst tensors, and a choice of all where the page has its script."""
    shown = [thinned(found) for found in values]
    by_name = {found["name"]: found for found in shown}
    known = sorted((row for row in rows if math.isfinite(row.all_db)), key=lambda row: row.all_db)
    worst = [by_name[_name(row)] for row in known if _name(row) in by_name][:_NUM_DRAWN]
    return [Explorer(shown), *(values_drawing(found) for found in worst)]


def thinned(found: Mapping[str, Any]) -> dict[str, Any]:
    """For the page: whole steps, and neighbouring channels as one where there are many."""
    size = math.ceil(len(found["low"]) / _MAX_CHANNELS)
    low, high = (
        [round(choose(found[end][i : i + size])) for i in range(0, len(found[end]), size)]
        for end, choose in (("low", min), ("high", max))
    )
    name = f"{found['graph']} {found['tensor']}" + (" (weights)" if found["kind"] == "weight" else "")
    grid = [found["quant_min"], found["quant_max"]]
    told = {"name": name, "grid": grid, "step": found["step"], "bins": found["bins"], "counts": found["counts"]}
    return {**told, "low": low, "high": high, "channels": len(found["low"])}


def values_drawing(found: Mapping[str, Any]) -> Drawing:
    """Histogram and channels of a `thinned` tensor; the page's script draws the same."""
    tall = [math.log10(1 + count) for count in found["counts"]]
    first, last = found["bins"]
    above = Plot(_WIDTH, 180, (first, last), (0, max(*tall, 1.0)), top=28)
    above.axes("steps of the grid")
    above.text(LEFT, 18, f"{found['name']}: one step is {found['step']:.4g}", "name")
    width = (last - first) / len(tall)
    for index, value in enumerate(tall):
        left, right = above.x(first + index * width), above.x(first + (index + 1) * width)
        above.rect(left, above.y(value), right - left - 1, above.y(0) - above.y(value), "k0")
    for end in found["grid"]:
        above.line([(above.x(end), above.top), (above.x(end), above.y(0))], "axis")
    span = min(*found["low"], found["grid"][0]), max(*found["high"], found["grid"][1])
    below = Plot(_WIDTH, 170, (0, len(found["low"])), span)
    below.axes(f"{found['channels']} channels", "steps")
    width = below.x(1) - below.x(0)
    for index, (low, high) in enumerate(zip(found["low"], found["high"], strict=True)):
        below.rect(below.x(index), below.y(high), width * 0.8, max(1.0, below.y(low) - below.y(high)), "k1")
    for end in found["grid"]:
        below.line([(LEFT, below.y(end)), (below.x(len(found["low"])), below.y(end))], "axis")
    reach = (
        f"values from {min(found['low'])} to {max(found['high'])} steps, grid {found['grid'][0]} to {found['grid'][1]}"
    )
    told = f"{found['name']}: {reach}; {plain(sum(found['counts']))} values in {found['channels']} channels"
    return Drawing(above.svg(f"Histogram. {told}.") + below.svg(f"Span of each channel. {told}."), f"{told}.")
