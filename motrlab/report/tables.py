"""Records → tables: what the report says in numbers. Pure functions of lists of records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    corner: str = ""  # above the labels
    spans: Sequence[tuple[str, int]] = ()  # headings over so many columns each

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.groups for row in rows]

    @property
    def delta_columns(self) -> set[int]:
        """Columns in which a cell has a delta: all cells keep room for one there, so that values line up."""
        return {i for row in self.rows for i, cell in enumerate(row.cells) if cell.delta}


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


def percent(value: float, decimals: int = 1) -> str:
    """A fraction as percent, with a true minus sign."""
    return f"{100 * value:.{decimals}f}".replace("-", "−")


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
        return Cell(percent(value))
    if reference is None or metric not in reference:
        return Cell(percent(value, 2))
    return Cell(percent(value, 2), *delta_points(value, reference[metric]))


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
        (
            "Test halves, as configured",
            _accuracy_rows(records, "accuracy", protocol) + baseline_rows(records, protocol),
        ),
        ("Test halves, without duplicate suppression", _accuracy_rows(records, "accuracy_raw", protocol)),
        (
            "Unseen videos, never trained on",
            _accuracy_rows(records, "accuracy_unseen", protocol) + baseline_rows(records, protocol, "baseline_unseen"),
        ),
    ]
    kept = [(heading, rows) for heading, rows in groups if rows]
    if not kept:
        return None
    return Table([METRIC_NAMES[m] for m in METRICS], kept, corner="Stage")


# What a stage costs beyond that other one.
_COSTS = (
    ("calibration", "float", "int8 ranges"),
    ("qat", "float_extra", "the same further steps"),
    ("fixed_point", "qat", "of conversion"),
)


def cost_table(records: Sequence[Record], protocol: str) -> Table | None:
    """What quantisation and conversion cost, in points."""
    scores = {
        stage: overall(r, protocol) for stage in (*STAGES, "float_extra") if (r := last(records, stage, "accuracy"))
    }
    rows = []
    for stage, other, note in _COSTS:
        if scores.get(stage) and scores.get(other):
            cells = [_points(scores[stage].get(m), scores[other].get(m)) for m in COMPARED]
            rows.append(Row(f"{STAGE_NAMES[stage]} − {STAGE_NAMES[other]}", cells, note=note))
    columns = [f"{METRIC_NAMES[m]}, points" for m in COMPARED]
    return Table(columns, [("", rows)], corner="Difference") if rows else None


_FORMS = {"qat": "QAT graph in PyTorch", "openvino": "OpenVINO, plain operators"}
_PORTABLE = {"portable_onnxruntime": "portable files, ONNX Runtime", "portable_openvino": "portable files, OpenVINO"}


def agreement_table(records: Sequence[Record]) -> Table | None:
    """Which forms of the fixed-point model give the track files of ONNX Runtime, byte for byte."""
    record = last(records, "fixed_point", "agreement")
    if record is None:
        return None
    metrics, rows = record["metrics"], []
    for form, title in _FORMS.items():
        equal, files = (number(metrics.get(f"{form}.{name}")) for name in ("equal_files", "num_files"))
        if equal is not None and files is not None:
            where = metrics.get(f"{form}.first_difference")
            text = "equal byte for byte" if equal == files else f"{equal:.0f} equal, first other: {where}"
            rows.append(Row(title, [Cell(f"{files:.0f}"), Cell(text), Cell("–")]))
    for form, title in _PORTABLE.items():
        idf1 = number(metrics.get(f"{form}.idf1"))
        if idf1 is not None:
            rows.append(Row(title, [Cell("–"), Cell("not exact"), Cell(f"{idf1:.4f}")]))
    columns = ["track files", "compared with ONNX Runtime", "IDF1 with its tracks"]
    return Table(columns, [("", rows)], corner="Form") if rows else None


def _points(value: float | None, reference: float | None) -> Cell:
    if value is None or reference is None:
        return Cell("–")
    text, tone = delta_points(value, reference)
    return Cell("", text, tone)


def baseline_rows(records: Sequence[Record], protocol: str, kind: str = "baseline") -> list[Row]:
    """ByteTrack-style association of the detection file's boxes."""
    record = last(records, "data", kind)
    metrics = overall(record, protocol) if record else {}
    cells = [_metric_cell(metrics, m, None) for m in METRICS]
    return [Row("ByteTrack", cells, note="baseline, boxes of det.txt")] if metrics else []


def sequence_table(records: Sequence[Record], protocol: str) -> Table | None:
    """MOTA, IDF1 and HOTA of each sequence: float, the last stage of the line that was evaluated, the baseline."""
    found = [s for s in STAGES if last(records, s, "accuracy")]
    sources = {STAGE_NAMES[s]: last(records, s, "accuracy") for s in dict.fromkeys((*found[:1], *found[-1:]))}
    sources["ByteTrack"] = last(records, "data", "baseline")
    results = {title: sequences(r, protocol) for title, r in sources.items() if r}
    names = list(dict.fromkeys(name for by_name in results.values() for name in by_name))
    if not found or not names:
        return None
    first, final = STAGE_NAMES[found[0]], STAGE_NAMES[found[-1]]
    rows = []
    for name in names:
        own = {title: by_name.get(name, {}) for title, by_name in results.items()}
        cells = [
            _metric_cell(metrics, metric, own[first] if title == final != first else None)
            for metric in COMPARED
            for title, metrics in own.items()
        ]
        cells += [Cell(plain(round(own[final][m])) if m in own[final] else "–") for m in ("idsw", "num_gt")]
        rows.append(Row(name, cells))
    spans = [*((METRIC_NAMES[m], len(results)) for m in COMPARED), (final, 2)]
    return Table([*(list(results) * len(COMPARED)), "IDSW", "boxes"], [("", rows)], corner="Sequence", spans=spans)


_THREADS = re.compile(r"(?:threads_(\d+)\.)?(.+)")


def _by_threads(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Thread count → metrics: names without `threads_N.` before them are of `num_threads`."""
    first = plain(metrics.get("num_threads"))
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        match = _THREADS.fullmatch(key)
        if match and number(value) is not None:
            found.setdefault(match[1] or first, {})[match[2]] = float(value)
    return found


def _threads_note(threads: str) -> str:
    return f"{threads} thread{'s' * (threads != '1')}" if threads else ""


def latency_tables(metrics: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """`A.B.stat` keys → a table for each A (`base`, `qim`, `step`), a row per B and thread count, a column per stat."""
    trees: dict[str, dict[tuple[str, str], dict[str, float]]] = {}
    for threads, found in _by_threads(metrics).items():
        for key, value in found.items():
            parts = key.split(".")
            if len(parts) == 3:
                trees.setdefault(parts[0], {}).setdefault((threads, parts[1]), {})[parts[2]] = value
    tables = []
    for head, by_row in trees.items():
        columns = list(dict.fromkeys(stat for stats in by_row.values() for stat in stats))
        rows = [
            Row(
                name.replace("_", "-"),
                [Cell(_latency(stats.get(c))) for c in columns],
                note=_threads_note(threads),
                emphasis=name == "total",
            )
            for (threads, name), stats in by_row.items()
        ]
        heading = _GRAPHS.get(head, "Frame step, closed loop" if head == "step" else head)
        tables.append((heading, Table([_unit_name(c) for c in columns], [("", rows)])))
    return tables


def throughput_table(metrics: Mapping[str, Any]) -> Table | None:
    """Frames a second and the gain over fp32, by thread count; None where neither was measured."""
    names = {
        "fps": "frames a second",
        "speedup": "base graph, times fp32",
        "qim.speedup": "QIM, times fp32",
        "step.speedup": "closed loop, times fp32",
    }
    rows, by_threads = [], _by_threads(metrics)
    shown = [name for name in names if any(name in found for found in by_threads.values())]
    for threads, found in by_threads.items():
        if found.keys() & names.keys():
            cells = [Cell(_latency(found.get(name))) for name in shown]
            rows.append(Row(_threads_note(threads) or "as measured", cells))
    return Table([names[name] for name in shown], [("", rows)]) if rows else None


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


def plain_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Any flat metrics: `A.B` keys as a table of A against B, the others as name and value."""
    dotted = {key: key.rpartition(".") for key in metrics if "." in key}
    tables = []
    if dotted:
        columns = list(dict.fromkeys(tail for _, _, tail in dotted.values()))
        heads = list(dict.fromkeys(head for head, _, _ in dotted.values()))
        rows = [Row(h, [Cell(plain(metrics.get(f"{h}.{c}"))) for c in columns]) for h in heads]
        tables.append(Table([c.replace("_", " ") for c in columns], [("", rows)]))
    rows = [Row(key.replace("_", " "), [Cell(plain(metrics[key]))]) for key in metrics if key not in dotted]
    return [*tables, Table([""], [("", rows)])] if rows else tables


def training_table(records: Sequence[Record]) -> Table | None:
    """Last values of every training: metrics in rows, stages in columns."""
    found = {s: r for s in (*STAGES, "float_extra") if (r := last(records, s, "training"))}
    names = list(dict.fromkeys(name for record in found.values() for name in record["metrics"]))
    rows = [Row(n.replace("_", " "), [Cell(plain(r["metrics"].get(n)) or "–") for r in found.values()]) for n in names]
    if not rows:
        return None
    rows.append(Row("duration, s", [Cell(f"{r['duration_s']:.0f}") for r in found.values()]))
    return Table([STAGE_NAMES[s] for s in found], [("", rows)])
