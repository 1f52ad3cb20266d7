"""Section: MOTA, IDF1, HOTA and the rest of every stage, what each stage costs, and whether all forms agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from motrlab.evaluation.metrics import CLASSES
from motrlab.evaluation.protocols import PROTOCOLS, RULES
from motrlab.names import CHAIN, EVALUATED, STAGE_TITLES
from motrlab.report.blocks import Block, Cell, Picture, Row, Section, Source, Table, delta, pivot, table_text
from motrlab.report.values import (
    COMPARED,
    COUNTS,
    METRIC_NAMES,
    METRICS,
    Record,
    last,
    overall,
    percent,
    plain,
    scores,
    stage_word,
)
from motrlab.viz.curves import accuracy_points, figure_png

_SEVERAL = (
    "Ground truth of flag ≠ 0 and a tracked class; each class is evaluated by itself. These are the means of their "
    "scores and the sums of their counts."
)
_BLOCKS = (  # heading, kind of the stages' records, kind of the baseline's
    ("Test halves, as configured", "accuracy", "baseline"),
    ("Test halves, without duplicate suppression", "accuracy_raw", ""),
    ("Unseen videos, never trained on", "accuracy_unseen", "baseline_unseen"),
)
_MAIN = (*COMPARED, "deta", "assa", "fp", "fn", "idsw", "num_gt")
# What a stage costs beyond that other one.
_COSTS = {
    ("calibration", "float"): "int8 ranges",
    ("qat", "float_extra"): "after the same number of further steps",
    ("fixed_point", "qat"): "conversion",
}
_FORMS = {"qat": "QAT graph in PyTorch", "openvino": "OpenVINO, plain operators"}
_PORTABLE = {"portable_onnxruntime": "portable files, ONNX Runtime", "portable_openvino": "portable files, OpenVINO"}
_INTRO = (
    "Scores are percent; the signed number beside MOTA, IDF1 and HOTA is the distance from the float row of the same "
    "block, or from float on the same sequence, in points. FP, FN, IDSW and Frag count boxes and events; MT, PT and ML "
    "count people."
)
_AGREEMENT = (
    "Track files of all test halves and unseen videos, compared byte for byte with those of the fixed-point model on "
    "ONNX Runtime's kernels. The portable files (QuantizeLinear and DequantizeLinear around float operators) are not "
    "exact: scored with those tracks as ground truth."
)


def section(source: Source) -> Section:
    """Stages, for each protocol."""
    records = source.records
    makers = (accuracy_table, class_table, cost_table)
    tables: list[Block] = [t for make in makers for p in PROTOCOLS if (t := make(records, p))]
    kinds = {r["kind"] for r in records}
    missing = [f"accuracy of {stage_word(s)}" for s in CHAIN[1:] if not last(records, s, "accuracy")]
    missing += ["accuracy without duplicate suppression"] * ("accuracy_raw" not in kinds)
    missing += ["accuracy on unseen videos"] * ("accuracy_unseen" not in kinds)
    missing += ["the ByteTrack baseline"] * ("baseline" not in kinds)
    found = [_INTRO, accuracy_picture(records, PROTOCOLS[0]), *tables] if tables else []
    return Section([*found, agreement_table(records)], missing)


def headline(source: Source) -> str:
    """What went wrong on the test halves, in counts."""
    found = scores(source.records, CHAIN[1:], PROTOCOLS[0])
    if not found:
        return "No accuracy has been measured in this run yet."
    stage, metrics = list(found.items())[-1]
    told = {"fn": "missed", "fp": "false positives", "idsw": "switches of identity"}
    counts = ", ".join(f"{plain(round(metrics[m]))} {words}" for m, words in told.items() if m in metrics)
    return f"{STAGE_TITLES[stage]} on the test halves: of {plain(round(metrics.get('num_gt', 0)))} boxes {counts}."


def sequences(source: Source) -> Section:
    """Each test half by itself, for each protocol."""
    tables = [t for protocol in PROTOCOLS if (t := sequence_table(source.records, protocol))]
    return Section(tables, [] if tables else ["accuracy by sequence"])


def accuracy_table(records: Sequence[Record], protocol: str) -> Table | None:
    """Every accuracy result under `protocol`, in groups; None if there is none."""
    groups = [(heading, _rows(records, protocol, EVALUATED, *kinds)) for heading, *kinds in _BLOCKS]
    return _table(groups, f"Protocol {protocol}", _SEVERAL if _heads(records, protocol)[1] else RULES[protocol].told)


def class_table(records: Sequence[Record], protocol: str) -> Table | None:
    """Each class by itself, all test halves together: every stage; None where there is one class."""
    heads = _heads(records, protocol)[1]
    groups = [(head.rpartition(f".{CLASSES}.")[2], _rows(records, head, EVALUATED)) for head in heads]
    return _table(groups, f"By class, protocol {protocol}", "Test halves, as configured.")


def _heads(records: Sequence[Record], protocol: str) -> tuple[list[str], list[str]]:
    """`PROTOCOL.SEQUENCE` of the test halves, and `PROTOCOL.CLASSES.NAME` of the classes, if there are several."""
    keys = dict.fromkeys(k for r in records if r["kind"] == "accuracy" for k in r["metrics"])
    heads = dict.fromkeys(key.rpartition(".")[0] for key in keys if key.startswith(f"{protocol}."))
    classes = [head for head in heads if head.startswith(f"{protocol}.{CLASSES}.")]
    return [head for head in heads if head not in (protocol, *classes)], classes


def accuracy_text(records: Sequence[Record], protocol: str = PROTOCOLS[0]) -> str:
    """The main columns of `accuracy_table` as text, narrow enough for a notebook; the report has all."""
    return table_text(accuracy_table(records, protocol), [METRIC_NAMES[m] for m in _MAIN])


def sequence_table(records: Sequence[Record], protocol: str) -> Table | None:
    """Each test half by itself: every stage, and the baseline."""
    rows = []
    for head in _heads(records, protocol)[0]:
        for row in _rows(records, head, EVALUATED, "accuracy", "baseline"):
            rows.append(Row(head.removeprefix(f"{protocol}."), [Cell(row.label), *row.cells], emphasis=row.emphasis))
    names = ["stage", *(METRIC_NAMES[m] for m in METRICS)]
    title = f"By sequence, protocol {protocol}"
    return Table(names, [("", rows)], "Sequence", title, num_texts=1) if rows else None


def _table(groups: Sequence[tuple[str, Sequence[Row]]], title: str, note: str) -> Table | None:
    kept = [(heading, rows) for heading, rows in groups if rows]
    return Table([METRIC_NAMES[m] for m in METRICS], kept, "Stage", title, note) if kept else None


def _rows(
    records: Sequence[Record], head: str, stages: Iterable[str], kind: str = "accuracy", baseline: str = ""
) -> list[Row]:
    """A row per stage, with deltas against the float row, and the baseline; `head` as in `overall`."""
    found = scores(records, stages, head, kind)
    rows = []
    for stage, metrics in found.items():
        cells = _metric_cells(metrics, found.get("float", {}) if stage != "float" else {})
        rows.append(Row(STAGE_TITLES[stage], cells, emphasis=stage == "fixed_point"))
    metrics = overall(last(records, "data", baseline), head)
    return [*rows, Row("ByteTrack", _metric_cells(metrics, {}), "baseline, boxes of det.txt")] if metrics else rows


def _metric_cells(metrics: Mapping[str, float], reference: Mapping[str, float]) -> list[Cell]:
    """All `METRICS`; those of `COMPARED` with their distance from the reference, if that has them."""
    cells = dict.fromkeys(METRICS, Cell("–"))
    for metric, value in metrics.items():
        text = percent(value, 2 if metric in COMPARED else 1) if metric not in COUNTS else plain(round(value))
        beside = metric in COMPARED and metric in reference
        cells[metric] = Cell(text, *(delta(value, reference[metric]) if beside else ()))
    return list(cells.values())


def accuracy_picture(records: Sequence[Record], protocol: str) -> Picture | None:
    """MOTA, IDF1 and HOTA by stage; None unless a stage has been evaluated."""
    found = scores(records, CHAIN[1:], protocol)
    if not found:
        return None
    names = [STAGE_TITLES[s] for s in found]
    values = {METRIC_NAMES[m]: [metrics.get(m, float("nan")) for metrics in found.values()] for m in COMPARED}
    told = "; ".join(f"{name} {', '.join(percent(v) for v in s if not np.isnan(v))}" for name, s in values.items())
    return Picture(
        figure_png(accuracy_points(names, values)),
        f"Points of MOTA, IDF1 and HOTA for {', '.join(names)}. {told}.",
        f"Accuracy on the test halves, protocol {protocol}, from {names[0]} to {names[-1]}; the axes do not "
        f"start at 0. The second number at a point is its distance from {names[0]}, the dashed line, in points.",
    )


def cost_table(records: Sequence[Record], protocol: str) -> Table | None:
    """What quantisation and conversion cost, in points."""
    found, rows = scores(records, EVALUATED, protocol), []
    for (stage, other), note in _COSTS.items():
        if stage in found and other in found:
            a, b = found[stage], found[other]
            cells = [Cell("", *delta(a[m], b[m])) if m in a and m in b else Cell("–") for m in COMPARED]
            rows.append(Row(f"{STAGE_TITLES[stage]} − {STAGE_TITLES[other]}", cells, note))
    columns = [f"{METRIC_NAMES[m]}, points" for m in COMPARED]
    title = f"What quantisation costs, protocol {protocol}"
    return Table(columns, [("", rows)], "Difference", title) if rows else None


def agreement_table(records: Sequence[Record]) -> Table | None:
    """Which forms of the fixed-point model give the track files of ONNX Runtime, byte for byte."""
    record = last(records, "fixed_point", "agreement")
    metrics, found = record["metrics"] if record else {}, dict[tuple[str, str], str]()
    count, compared = "track files", "compared with ONNX Runtime"
    for form, title in _FORMS.items():
        equal, files, first = (metrics.get(f"{form}.{n}") for n in ("equal_files", "num_files", "first_difference"))
        if files is not None:
            found[title, count] = plain(files)
            found[title, compared] = f"{equal} equal, first other: {first}" if first else "equal byte for byte"
    for form, title in _PORTABLE.items():
        if f"{form}.idf1" in metrics:
            found |= {(title, compared): "not exact", (title, "IDF1 with its tracks"): f"{metrics[f'{form}.idf1']:.4f}"}
    return pivot(found, corner="Form", title="Do all forms give the same tracks?", note=_AGREEMENT)
