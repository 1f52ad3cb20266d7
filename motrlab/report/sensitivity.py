"""Section: assets of the sensitivity analysis and of the calibration sweep → their tables and pictures."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from motrlab.quantization.analysis.layers import read_table
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.report.blocks import Cell, Picture, Section, Source, Table, delta, table
from motrlab.report.values import decibels, percent

Columns = dict[str, Callable[[Any], str | Cell]]
_OUTPUTS: Columns = {
    "class logits, dB": lambda row: decibels(row.class_logits_db),
    "boxes, dB": lambda row: decibels(row.boxes_db),
    "embedding, dB": lambda row: decibels(row.embedding_db),
    "QIM, dB": lambda row: decibels(row.qim_db),
}
_TABLES = {"sensitivity": GroupRow, "sensitivity_path": PathPoint, "calibration_sweep": SweepRow}  # asset → its rows
_MAX_GROUPS = 12
_GROUPS_NOTE = (
    "Each group alone in int8, the rest of the network in float. Noise: squared output error in percent of that of the "
    "whole network in int8, mean of the four outputs; SQNR against float; MOTA and IDF1 on the first frames of the "
    "test halves."
)


def section(source: Source) -> Section:
    """What was measured of both."""
    measured = [source.last("calibration", kind) for kind in ("sensitivity", "calibration_sweep")]
    if measured == [None, None]:
        return Section([f"Not measured; some minutes: `{command(source.run.name)}`."])
    files, gone = source.files("the sensitivity analysis", *measured)
    rows: list[Any] = [read_table(files[n], kind) if (n := f"{x}.csv") in files else [] for x, kind in _TABLES.items()]
    told = {f"{name}.png": text for name, text in _captions(*rows).items()}
    pictures = [Picture(files[name].read_bytes(), *text) for name, text in told.items() if name in files]
    groups, path, sweep = rows
    return Section([*pictures, group_table(groups), path_table(path), sweep_table(sweep)], gone)


def command(run: str) -> str:
    """The command line that measures both."""
    return f"python -m motrlab run --run {run} --from 03 --to 03 -p sweep=true -p sensitivity=true"


def _captions(
    groups: Sequence[GroupRow], path: Sequence[PathPoint], sweep: Sequence[SweepRow]
) -> dict[str, tuple[str, str]]:
    """Alternative text and caption of each picture."""
    most = f" Most: {groups[0].group}, {percent(groups[0].alone_noise_share)} percent." if groups else ""
    end = f" It ends at {percent(path[-1].float_share)} percent of them." if path else ""
    variants = ", ".join(row.variant.replace("_", " ") for row in sweep) or "each way to calibrate"
    return {
        "sensitivity": (
            "Bars of output noise for every group of operators, alone in int8 and taken away when it alone is float."
            + most,
            "What each group of operators costs: squared output error in percent of that of all groups together, mean "
            "of class logits, boxes, embedding and QIM.",
        ),
        "sensitivity_path": (
            "Output noise over the share of multiply-accumulates that are not int8, along the greedy search." + end,
            "Mixed precision: in each round the group that takes away most noise for its operations goes to float, "
            "until nothing more fits under the limit. Filled dots are on the Pareto front.",
        ),
        "calibration_sweep": (
            f"SQNR of the outputs, saturated values, MOTA and IDF1 for {variants}.",
            "Ways to calibrate, each from the same float model and compared on the same frames.",
        ),
    }


def group_table(rows: Sequence[GroupRow]) -> Table | None:
    """The groups of most noise alone, with the place they would have if MOTA and IDF1 decided."""
    by_score = sorted(rows, key=lambda row: row.mota + row.idf1)  # stable: equal scores keep the order by noise
    places = {row.group: "–" if math.isnan(row.mota + row.idf1) else str(i) for i, row in enumerate(by_score, 1)}
    columns: Columns = {
        "tensors": lambda row: str(row.num_tensors),
        "operations": lambda row: f"{percent(row.macs_share)} %",
        "noise alone": lambda row: f"{percent(row.alone_noise_share)} %",
        "noise without it": lambda row: f"{percent(row.rest_noise_share)} %",
        **_OUTPUTS,
        **_compared(None),
        "place by MOTA + IDF1": lambda row: places[row.group],
    }
    names = {"corner": "Group in int8 alone", "title": "Groups of operators", "note": _GROUPS_NOTE}
    return table(rows[:_MAX_GROUPS], columns, lambda row: row.group, **names)


def path_table(path: Sequence[PathPoint]) -> Table | None:
    """Every round of the search; MOTA and IDF1 with their distance from all-int8."""
    columns: Columns = {
        "operations not in int8": lambda point: f"{percent(point.float_share)} %",
        "noise left": lambda point: f"{percent(point.noise_share)} %",
        **_OUTPUTS,
        **_compared(path[0] if path else None),
    }
    names = {"corner": "In float, one after the other", "title": "Mixed precision"}
    return table(path, columns, lambda point: f"+ {point.raised}" if point.raised else "all int8", **names)


def sweep_table(rows: Sequence[SweepRow]) -> Table | None:
    """Every way to calibrate; MOTA and IDF1 with their distance from the first, the run's own."""
    columns: Columns = {
        **_OUTPUTS,
        "mean, dB": lambda row: decibels(row.mean_db),
        "saturated": lambda row: f"{percent(row.saturated_share, 3)} %",
        **_compared(rows[0] if rows else None),
    }
    names = {"corner": "Calibration", "title": "Ways to calibrate"}
    return table(rows, columns, lambda row: row.variant.replace("_", " "), **names)


def _compared(reference: Any) -> Columns:
    """MOTA and IDF1 of the clips, with their distance from those of the reference in the rows below it."""

    def cell(name: str, row: Any) -> Cell:
        value, other = getattr(row, name), getattr(reference, name, math.nan)
        beside = row is not reference and not math.isnan(value) and not math.isnan(other)
        return Cell(percent(value, 2), *(delta(value, other) if beside else ()))

    return {f"{name.upper()}, clips": functools.partial(cell, name) for name in ("mota", "idf1")}
