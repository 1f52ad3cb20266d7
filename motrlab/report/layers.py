"""Section: the layer comparison's assets → its table, pictures and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from motrlab.quantization.analysis.advice import advice
from motrlab.quantization.analysis.layers import LayerRow, read_rows, worst
from motrlab.report.blocks import Cell, Listing, Picture, Section, Source, Table, table
from motrlab.report.values import decibels, percent, signed

_COLUMNS: dict[str, Callable[[LayerRow], str | Cell]] = {
    "operator": lambda row: row.operator,
    "observer": lambda row: row.observer,
    "fake-quant, dB": lambda row: decibels(row.fake_sqnr_db),
    "fixed-point, dB": lambda row: decibels(row.fixed_sqnr_db),
    "own, dB": lambda row: decibels(row.own_sqnr_db),
    "cosine": lambda row: "–" if math.isnan(row.fixed_cosine) else f"{row.fixed_cosine:.5f}",
    "largest step": lambda row: str(row.largest_step),
    "mismatched": lambda row: f"{percent(row.mismatch_share, 2)} %",
    "saturated": lambda row: f"{percent(row.saturated_share, 2)} %",
    "range used": lambda row: f"{row.range_used:.2f}",
    "offset, steps": lambda row: signed(f"{row.offset_steps:+.2f}"),
}
_INTRO = (
    "Every quantised activation three ways: float, fake-quant (what QAT trains) and fixed-point (what ONNX Runtime "
    "computes from the artefact), on the same inputs."
)
_NOTE = (
    "SQNR and cosine are against float; “own” is the rounding of that tensor alone. Largest step and mismatched are "
    "fixed-point against fake-quant, in steps of the grid and in values. Saturated: float values outside the grid. "
    "Range used: largest value over what the grid reaches."
)
_CAPTIONS = {
    "layers.png": "SQNR of every quantised activation on the float run's inputs. Rings and dots hold all errors up "
    "to that tensor, the short grey lines only what its own grid costs.",
    "layers_frames.png": "SQNR of the outputs when float, fake-quant and fixed-point each track on their own "
    "state, mean of the videos: a curve that falls is an error that comes back through the tracks.",
}


def section(source: Source) -> Section:
    record = source.last("fixed_point", "layers")
    if record is None:
        return Section(missing=["the layer comparison"])
    files, gone = source.files("the layer comparison", record)
    rows = read_rows(files["layers.csv"]) if "layers.csv" in files else []
    pictures = [Picture(files[n].read_bytes(), _alt(n, rows), text) for n, text in _CAPTIONS.items() if n in files]
    told = Listing(advice(rows), "What to do about it")
    every = layer_table(rows, title="All tensors, in graph order", num_texts=2)
    return Section([_INTRO, *pictures, told if told.items else None, layer_table(worst(rows)), every], gone)


def headline(source: Source) -> str:
    """The tensor that int8 hurts most, and whether fixed-point is what was trained."""
    record = source.last("fixed_point", "layers")
    files, _ = source.files("the layer comparison", record)
    rows = worst(read_rows(files["layers.csv"]), 1) if "layers.csv" in files else []
    if not rows:
        return "No layers have been compared in this run yet."
    name, decibel = rows[0].name, decibels(rows[0].fixed_sqnr_db)
    steps = max(row.largest_step for row in read_rows(files["layers.csv"]))
    same = "equals fake-quant in every tensor" if steps == 0 else f"is up to {steps} steps away from fake-quant"
    return f"Fixed-point {same}. The worst tensor is {name}: {decibel} dB against float."


def layer_table(rows: Sequence[LayerRow], title: str = "The worst tensors", **fields: Any) -> Table | None:
    """One row for each tensor; shares in percent. `fields`: of `Table`."""
    return table(rows, _COLUMNS, lambda row: f"{row.graph} {row.tensor}", title=title, note=_NOTE, **fields)


def _alt(name: str, rows: Sequence[LayerRow]) -> str:
    if name == "layers_frames.png":
        return "Curves of SQNR over the frames for class logits, boxes and embeddings, fake-quant and fixed-point."
    low = worst(rows, 1)
    told = f" Lowest: {low[0].name}, {decibels(low[0].fixed_sqnr_db)} dB." if low else ""
    return f"Points of SQNR for every tensor, fake-quant and fixed-point, in graph order.{told}"
