"""Assets of the sensitivity analysis and of the calibration sweep → their tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motrlab.quantization.analysis.layers import read_table
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.report.pictures import Picture
from motrlab.report.tables import Cell, Record, Row, Table, delta_points, last, percent

_OUTPUTS = ("class_logits_db", "boxes_db", "embedding_db", "qim_db")
_OUTPUT_COLUMNS = ("class logits, dB", "boxes, dB", "embedding, dB", "QIM, dB")
_SCORES = ("MOTA, clips", "IDF1, clips")
_MAX_GROUPS = 12


@dataclass(frozen=True)
class SensitivitySection:
    """What a report shows of both; `missing` names assets that are gone."""

    groups: Table | None
    path: Table | None
    sweep: Table | None
    pictures: Sequence[Picture]
    missing: Sequence[str]


def sensitivity_section(records: Sequence[Record], run_folder: Path) -> SensitivitySection | None:
    """None where neither has been measured."""
    found = [r for kind in ("sensitivity", "calibration_sweep") if (r := last(records, "calibration", kind))]
    if not found:
        return None
    files = {Path(name).name: run_folder / name for record in found for name in record["assets"]}
    missing = [f"{name} of the sensitivity analysis (gone)" for name, path in files.items() if not path.is_file()]
    there = {name: path for name, path in files.items() if path.is_file()}
    groups = read_table(there["sensitivity.csv"], GroupRow) if "sensitivity.csv" in there else []
    path = read_table(there["sensitivity_path.csv"], PathPoint) if "sensitivity_path.csv" in there else []
    sweep = read_table(there["calibration_sweep.csv"], SweepRow) if "calibration_sweep.csv" in there else []
    return SensitivitySection(
        groups=group_table(groups) if groups else None,
        path=path_table(path) if path else None,
        sweep=sweep_table(sweep) if sweep else None,
        pictures=_pictures(there, groups, path, sweep),
        missing=missing,
    )


def _pictures(
    files: dict[str, Path], groups: Sequence[GroupRow], path: Sequence[PathPoint], sweep: Sequence[SweepRow]
) -> list[Picture]:
    told = {
        "sensitivity.png": (
            "Bars of output noise for every group of operators, alone in int8 and taken away when it alone is float."
            + (f" Most: {groups[0].group}, {percent(groups[0].alone_noise_share)} percent." if groups else ""),
            "What each group of operators costs: squared output error in percent of that of all groups together, mean "
            "of class logits, boxes, embedding and QIM.",
        ),
        "sensitivity_path.png": (
            "Output noise over the share of multiply-accumulates that are not int8, along the greedy search."
            + (f" It ends at {percent(path[-1].float_share)} percent of them." if path else ""),
            "Mixed precision: in each round the group that takes away most noise for its operations goes to float, "
            "until nothing more fits under the limit. Filled dots are on the Pareto front.",
        ),
        "calibration_sweep.png": (
            "SQNR of the outputs, saturated values, MOTA and IDF1 for "
            f"{', '.join(row.variant.replace('_', ' ') for row in sweep) or 'each way to calibrate'}.",
            "Ways to calibrate, each from the same float model and compared on the same frames.",
        ),
    }
    return [Picture(files[name].read_bytes(), alt, text) for name, (alt, text) in told.items() if name in files]


def group_table(rows: Sequence[GroupRow], limit: int = _MAX_GROUPS) -> Table:
    """The groups of most noise alone, with the place they would have if MOTA and IDF1 decided."""
    columns = ["operations", "noise alone", "noise without it", *_OUTPUT_COLUMNS, *_SCORES, "place by MOTA + IDF1"]
    by_score = sorted(rows, key=lambda row: row.mota + row.idf1)  # stable: equal scores keep the order by noise
    places = {row.group: "–" if math.isnan(row.mota + row.idf1) else str(i) for i, row in enumerate(by_score, 1)}
    found = [_group_row(row, places[row.group]) for row in rows[:limit]]
    return Table(columns, [("", found)], corner="Group in int8 alone")


def _group_row(row: GroupRow, place: str) -> Row:
    shares = (row.macs_share, row.alone_noise_share, row.rest_noise_share)
    cells = [f"{percent(share)} %" for share in shares] + [_db(getattr(row, name)) for name in _OUTPUTS]
    scores = [_score(row.mota), _score(row.idf1), place]
    return Row(row.group, [Cell(text) for text in (*cells, *scores)], note=f"{row.num_tensors} tensors")


def path_table(path: Sequence[PathPoint]) -> Table:
    """Every round of the search; MOTA and IDF1 with their distance from all-int8."""
    columns = ["operations not in int8", "noise left", *_OUTPUT_COLUMNS, *_SCORES]
    rows = []
    for point in path:
        cells = [Cell(f"{percent(point.float_share)} %"), Cell(f"{percent(point.noise_share)} %")]
        cells += [Cell(_db(getattr(point, name))) for name in _OUTPUTS]
        cells += [
            _compared(getattr(point, name), getattr(path[0], name), point is path[0]) for name in ("mota", "idf1")
        ]
        rows.append(Row(f"+ {point.raised}" if point.raised else "all int8", cells))
    return Table(columns, [("", rows)], corner="In float, one after the other")


def sweep_table(rows: Sequence[SweepRow]) -> Table:
    """Every way to calibrate; MOTA and IDF1 with their distance from the first, the run's own."""
    columns = [*_OUTPUT_COLUMNS, "mean, dB", "saturated", *_SCORES]
    found = []
    for row in rows:
        cells = [Cell(_db(getattr(row, name))) for name in (*_OUTPUTS, "mean_db")]
        cells.append(Cell(f"{percent(row.saturated_share, 3)} %"))
        cells += [_compared(getattr(row, name), getattr(rows[0], name), row is rows[0]) for name in ("mota", "idf1")]
        found.append(Row(row.variant.replace("_", " "), cells))
    return Table(columns, [("", found)], corner="Calibration")


def _compared(value: float, reference: float, is_reference: bool) -> Cell:
    if is_reference or math.isnan(value) or math.isnan(reference):
        return Cell(_score(value))
    return Cell(_score(value), *delta_points(value, reference))


def _score(value: float) -> str:
    return "–" if math.isnan(value) else percent(value, 2)


def _db(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "exact" if math.isinf(value) else f"{value:.1f}".replace("-", "−")
