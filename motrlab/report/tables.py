"""Records → tables: what the report says in numbers. Pure functions of lists of records."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

STAGES = ("float", "calibration", "qat", "fixed_point")
STAGE_NAMES = {
    "data": "Data",
    "float": "Float",
    "calibration": "Calibration",
    "qat": "QAT",
    "float_extra": "Float, trained on",
    "fixed_point": "Fixed-point",
    "perf": "Performance",
}
PROTOCOLS = ("motchallenge", "hat")
COMPARED = ("mota", "idf1", "hota")  # shown with their distance from float
_FRACTIONS = ("deta", "assa", "idp", "idr", "motp")
_COUNTS = ("fp", "fn", "idsw", "frag", "mt", "pt", "ml")
METRICS = (*COMPARED, *_FRACTIONS, *_COUNTS)
METRIC_NAMES = {m: m.upper() for m in METRICS} | {
    "hota": "HOTA", "deta": "DetA", "assa": "AssA", "idp": "IDP", "idr": "IDR", "idsw": "IDSW", "frag": "Frag",
}  # fmt: skip
_GRAPHS = {"base": "Base graph", "qim": "QIM"}


@dataclass(frozen=True)
class Cell:
    """What stands in a table's cell; `delta` is a signed distance set beside it."""

    text: str
    delta: str = ""
    tone: str = ""  # better | worse | even: of the delta


@dataclass(frozen=True)
class Row:
    label: str
    cells: Sequence[Cell]
    note: str = ""  # small print after the label
    emphasis: bool = False


@dataclass(frozen=True)
class Table:
    """`groups` are headed blocks of rows; an empty heading has no line of its own."""

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    caption: str = ""
    corner: str = ""  # above the labels

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.groups for row in rows]


@dataclass
class Missing:
    """Collects what a report would show but the run has not measured."""

    parts: list[str] = field(default_factory=list)

    def note(self, part: str) -> None:
        self.parts.append(part)


def last(records: Iterable[Record], stage: str, kind: str) -> Record | None:
    """The last record of a stage and kind counts."""
    found = [r for r in records if r["stage"] == stage and r["kind"] == kind]
    return found[-1] if found else None


def number(value: Any) -> float | None:
    """The value if it is a number (a bool is none)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def overall(record: Record, protocol: str) -> dict[str, float]:
    """Metrics of the overall row under `protocol`: `mota`, `idf1`, ...; empty if the record has none."""
    found = {m: number(record["metrics"].get(f"{protocol}.{m}")) for m in (*METRICS, "num_gt")}
    return {m: value for m, value in found.items() if value is not None}


def sequences(record: Record, protocol: str) -> dict[str, dict[str, float]]:
    """Metrics by sequence under `protocol`; sequence names may hold dots."""
    found: dict[str, dict[str, float]] = {}
    for key, value in record["metrics"].items():
        head, _, metric = key.rpartition(".")
        prefix, _, sequence = head.partition(".")
        if prefix == protocol and sequence and number(value) is not None:
            found.setdefault(sequence, {})[metric] = float(value)
    return found


def points(value: float) -> str:
    """A fraction as percent with two decimals and a true minus sign."""
    return f"{100 * value:.2f}".replace("-", "−")


def delta_points(value: float, reference: float) -> tuple[str, str]:
    """Signed distance in percentage points, and its tone."""
    difference = round(100 * (value - reference), 2)
    if difference == 0:
        return "±0.00", "even"
    return f"{difference:+.2f}".replace("-", "−"), "better" if difference > 0 else "worse"


def plain(value: Any) -> str:
    """Any metric as short text: thousands separated, floats to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return plain(int(value))
        return (f"{value:,.1f}".replace(",", "\u202f") if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")
    return "" if value is None else str(value)


def _metric_cell(metrics: Mapping[str, float], metric: str, reference: Mapping[str, float] | None) -> Cell:
    if metric not in metrics:
        return Cell("–")
    value = metrics[metric]
    if metric in _COUNTS:
        return Cell(plain(round(value)))
    if metric not in COMPARED:
        return Cell(f"{100 * value:.1f}".replace("-", "−"))
    if reference is None or metric not in reference:
        return Cell(points(value))
    return Cell(points(value), *delta_points(value, reference[metric]))


def _accuracy_rows(
    records: Sequence[Record], kind: str, protocol: str, stages: Sequence[str] = (*STAGES, "float_extra")
) -> list[Row]:
    """A row per stage; deltas against the float row of the same kind."""
    reference: Mapping[str, float] | None = None
    rows = []
    for stage in stages:
        record = last(records, stage, kind)
        metrics = overall(record, protocol) if record else {}
        if metrics:
            cells = [_metric_cell(metrics, m, reference) for m in METRICS]
            rows.append(Row(STAGE_NAMES[stage], cells, emphasis=stage == "fixed_point"))
        if stage == "float" and metrics:
            reference = metrics
    return rows


def accuracy_table(records: Sequence[Record], protocol: str) -> Table | None:
    """Every accuracy result under `protocol`, in groups; None if there is none."""
    groups = [
        ("Test halves, as configured", _accuracy_rows(records, "accuracy", protocol)),
        ("Test halves, without duplicate suppression", _accuracy_rows(records, "accuracy_raw", protocol)),
        ("Unseen videos, never trained on", _accuracy_rows(records, "accuracy_unseen", protocol)),
        ("Baseline on the test halves", baseline_rows(records, protocol)),
    ]
    kept = [(heading, rows) for heading, rows in groups if rows]
    if not kept:
        return None
    return Table([METRIC_NAMES[m] for m in METRICS], kept, corner="Stage")


def baseline_rows(records: Sequence[Record], protocol: str) -> list[Row]:
    """ByteTrack-style association of the detection file's boxes."""
    record = last(records, "data", "baseline")
    metrics = overall(record, protocol) if record else {}
    cells = [_metric_cell(metrics, m, None) for m in METRICS]
    return [Row("ByteTrack", cells, note="on det.txt")] if metrics else []


def sequence_table(records: Sequence[Record], protocol: str) -> Table | None:
    """MOTA, IDF1 and HOTA of each sequence: float beside the last stage of the line that was evaluated."""
    found = [s for s in STAGES if last(records, s, "accuracy")]
    shown = list(dict.fromkeys((found[0], found[-1]))) if found else []
    results = {}
    for stage in shown:
        record = last(records, stage, "accuracy")
        assert record is not None
        results[stage] = sequences(record, protocol)
    names = list(dict.fromkeys(name for by_name in results.values() for name in by_name))
    if not names:
        return None
    columns = [f"{STAGE_NAMES[s]} {METRIC_NAMES[m]}" for m in COMPARED for s in shown] + ["IDSW", "Boxes"]
    rows = []
    for name in names:
        first, final = results[shown[0]].get(name), results[shown[-1]].get(name, {})
        cells = []
        for metric in COMPARED:
            for stage in shown:
                reference = first if stage != shown[0] else None
                cells.append(_metric_cell(results[stage].get(name, {}), metric, reference))
        cells += [Cell(plain(round(final[m])) if m in final else "–") for m in ("idsw", "num_gt")]
        rows.append(Row(name, cells))
    return Table(columns, [("", rows)], corner="Sequence")


def latency_tables(metrics: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """`A.B.stat` keys → a table for each A (`base`, `qim`, `step`, ...), a row for each B, a column for each stat."""
    trees: dict[str, dict[str, dict[str, Any]]] = {}
    for key, value in metrics.items():
        parts = key.split(".")
        if len(parts) == 3 and number(value) is not None:
            trees.setdefault(parts[0], {}).setdefault(parts[1], {})[parts[2]] = value
    tables = []
    for head, by_row in trees.items():
        columns = list(dict.fromkeys(stat for stats in by_row.values() for stat in stats))
        rows = [
            Row(name.replace("_", "-"), [Cell(_latency(stats.get(c))) for c in columns], emphasis=name == "total")
            for name, stats in by_row.items()
        ]
        heading = _GRAPHS.get(head, "Frame step" if head == "step" else head)
        tables.append((heading, Table([_unit_name(c) for c in columns], [("", rows)])))
    return tables


def _latency(value: Any) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) and value < 1000 else plain(value)


def _unit_name(name: str) -> str:
    """`p50_ms` → `median, ms`; others keep their words."""
    stem, _, unit = name.rpartition("_")
    if unit not in ("ms", "mb", "us", "s", "px"):
        return name.replace("_", " ")
    return f"{ {'p50': 'median'}.get(stem, stem.replace('_', ' ')) }, {unit.replace('mb', 'MB')}"


def medians(metrics: Mapping[str, Any], head: str) -> dict[str, float]:
    """Median milliseconds of the parts of `head` (`base`, `qim`, `step`), in recorded order."""
    found = {}
    for key, value in metrics.items():
        parts = key.split(".")
        if len(parts) == 3 and parts[0] == head and parts[2] == "p50_ms" and number(value) is not None:
            found[parts[1]] = float(value)
    return found


def graph_table(metrics: Mapping[str, Any], *, share: bool = False) -> Table | None:
    """`base.NAME` and `qim.NAME` keys → graphs in rows, NAMEs in columns; `share` shows fractions as percent."""
    by_graph = {
        g: {k.partition(".")[2]: v for k, v in metrics.items() if k.startswith(f"{g}.") and number(v) is not None}
        for g in _GRAPHS
    }
    columns = list(dict.fromkeys(name for values in by_graph.values() for name in values))
    if not columns:
        return None

    def cell(name: str, value: Any) -> Cell:
        if value is None:
            return Cell("–")
        return Cell(f"{100 * value:.1f} %" if share and name.endswith("share") else plain(value))

    rows = [
        Row(_GRAPHS[g], [cell(name, values.get(name)) for name in columns]) for g, values in by_graph.items() if values
    ]
    return Table([_count_name(c) for c in columns], [("", rows)])


def _count_name(name: str) -> str:
    words = {"params": "parameters", "macs": "multiply-accumulates"}
    known = {"integer_macs_share": "integer multiply-accumulates", "integer_nodes_share": "integer nodes"}
    return known.get(name) or words.get(name) or name.replace("_", " ")


def plain_table(metrics: Mapping[str, Any], value_name: str = "value") -> Table | None:
    """Any flat metrics as a table of two columns; `A.B` keys with several B become a table of A against B."""
    split = {key: key.partition(".") for key in metrics}
    if metrics and all(dot for _, dot, _ in split.values()):
        columns = list(dict.fromkeys(tail for _, _, tail in split.values()))
        heads = list(dict.fromkeys(head for head, _, _ in split.values()))
        rows = [Row(h, [Cell(plain(metrics.get(f"{h}.{c}"))) for c in columns]) for h in heads]
        return Table([c.replace("_", " ") for c in columns], [("", rows)])
    rows = [Row(key.replace("_", " "), [Cell(plain(value))]) for key, value in metrics.items()]
    return Table([value_name], [("", rows)]) if rows else None


def read_csv_columns(path: Path) -> dict[str, list[float]]:
    """Numeric columns of a CSV file with a header; empty cells are NaN, columns that are not numeric left out."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns: dict[str, list[float]] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = [float(row[name]) if row[name] else float("nan") for row in rows]
        except (TypeError, ValueError):
            continue
    return columns
