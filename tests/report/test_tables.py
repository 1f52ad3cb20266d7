from __future__ import annotations

from typing import Any

import pytest

from motrlab.report import accuracy, blocks, data, size, speed, training, values
from motrlab.report.blocks import Cell
from motrlab.report.values import Record


def record(stage: str, kind: str, **metrics: Any) -> Record:
    return {"stage": stage, "kind": kind, "metrics": {k.replace("__", "."): v for k, v in metrics.items()}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "yes"),
        (12, "12"),
        (1234567, "1\u202f234\u202f567"),
        (1440.0, "1\u202f440"),
        (0.123456, "0.1235"),
        (-0.5, "−0.5"),
        (12345.67, "12\u202f345.7"),
        (float("nan"), "nan"),
        (None, ""),
        ("cpu", "cpu"),
    ],
)
def test_plain(value: Any, expected: str) -> None:
    assert values.plain(value) == expected


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        (0.81, 0.80, ("+1.00", "better")),
        (0.7958, 0.80, ("−0.42", "worse")),
        (0.800001, 0.80, ("±0.00", "even")),
    ],
)
def test_delta(value: float, reference: float, expected: tuple[str, str]) -> None:
    assert blocks.delta(value, reference) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected", "line"),
    [
        ("fraction_below_03", 0.0904, "boxes of visibility under 0.3", "boxes of visibility under 0.3: 9.0 %"),
        ("p50_ms", 6.872, "median, ms", "median: 6.872 ms"),
        ("num_frames", 90, "frames", "frames: 90"),
        ("memory.total_mb", 109.0, "memory: total, MB", "memory: total: 109 MB"),
        ("late_entrant_auc", None, "late entrants: AUC of their scores", "late entrants: AUC of their scores: "),
        ("a_new_name", 1, "a new name", "a new name: 1"),
    ],
)
def test_titles(name: str, value: Any, expected: str, line: str) -> None:
    assert values.words(name) == expected
    assert values.value_line(name, value) == line


def test_tables_of_many_rows_sort() -> None:
    long, short = (blocks.table(range(n), {"a": str}, str) for n in (blocks.MANY_ROWS, blocks.MANY_ROWS - 1))
    assert long is not None
    assert short is not None
    assert (long.sortable, short.sortable) == (True, False)


def test_last_record_counts() -> None:
    records = [record("float", "accuracy", a=1), record("qat", "accuracy", a=2), record("float", "accuracy", a=3)]
    found = values.last(records, "float", "accuracy")
    assert found is records[2]
    assert values.last(records, "perf", "latency") is None


def test_metrics_of_all_and_of_a_sequence_with_dots() -> None:
    found = record("float", "accuracy", hat__mota=0.1, motchallenge__mota=0.5)
    found["metrics"]["motchallenge.MOT17-02.v1.mota"] = 0.25
    found["metrics"]["motchallenge.note"] = "text"
    assert values.overall(found, "motchallenge") == {"mota": 0.5}
    assert values.overall(found, "motchallenge.MOT17-02.v1") == {"mota": 0.25}
    assert values.overall(None, "hat") == {}
    table = accuracy.sequence_table([found], "motchallenge")
    assert table is not None
    assert [(row.label, row.cells[0].text) for row in table.rows] == [("MOT17-02.v1", "Float")]
    assert accuracy.sequence_table([found], "hat") is None


def test_accuracy_table_compares_with_float_of_the_same_block() -> None:
    records = [
        record("float", "accuracy", hat__mota=0.8, hat__fp=12),
        record("fixed_point", "accuracy", hat__mota=0.79),
        record("fixed_point", "accuracy_raw", hat__mota=0.7),  # no float row here: no delta
        record("data", "baseline", hat__mota=0.6),
    ]
    table = accuracy.accuracy_table(records, "hat")
    assert table is not None
    by_group = {heading: [(row.label, row.cells[0]) for row in rows] for heading, rows in table.groups}
    assert by_group == {
        "Test halves, as configured": [
            ("Float", Cell("80.00")),
            ("Fixed-point", Cell("79.00", "−1.00", "worse")),
            ("ByteTrack", Cell("60.00")),
        ],
        "Test halves, without duplicate suppression": [("Fixed-point", Cell("70.00"))],
    }
    assert table.delta_columns == {0}
    assert table.rows[0].cells[table.columns.index("FP")].text == "12"
    assert table.rows[1].cells[table.columns.index("FP")].text == "–"
    assert accuracy.accuracy_table(records, "motchallenge") is None


def test_sequence_table_has_every_stage_and_the_baseline() -> None:
    stages = {"float": 0.5, "qat": 0.4, "fixed_point": 0.6}
    records = [record(stage, "accuracy", hat__hat1__mota=mota, hat__hat1__idsw=3) for stage, mota in stages.items()]
    table = accuracy.sequence_table([*records, record("data", "baseline", hat__hat1__mota=0.2)], "hat")
    assert table is not None
    assert [(row.label, row.cells[0].text, row.cells[1]) for row in table.rows] == [
        ("hat1", "Float", Cell("50.00")),
        ("hat1", "QAT", Cell("40.00", "−10.00", "worse")),
        ("hat1", "Fixed-point", Cell("60.00", "+10.00", "better")),
        ("hat1", "ByteTrack", Cell("20.00")),
    ]
    assert table.rows[0].cells[table.columns.index("IDSW")].text == "3"
    assert accuracy.sequence_table([], "hat") is None


LATENCY = {
    "num_threads": 1, "base.fp32.p50_ms": 2.0, "base.fp32.p90_ms": 3.0, "step.total.p50_ms": 5.123, "fps": 190.0,
    "speedup": 1.7, "threads_2.base.fp32.p50_ms": 1.25, "threads_2.fps": 300.0,
}  # fmt: skip


def test_latency_tables() -> None:
    found = {table.title: table for table in speed.latency_tables(LATENCY)}
    assert list(found) == ["Base graph", "Frame step, closed loop"]
    base = found["Base graph"]
    assert base.columns == ["median, ms", "p90, ms"]
    assert [(r.label, [c.text for c in r.cells]) for r in base.rows] == [
        ("fp32, 1 thread", ["2.00", "3.00"]),
        ("fp32, 2 threads", ["1.25", "–"]),
    ]
    assert found["Frame step, closed loop"].rows[0].cells == [Cell("5.12")]
    assert values.medians(LATENCY, "base") == {"fp32": 2.0}


def test_throughput_table() -> None:
    table = speed.throughput_table(LATENCY)
    assert table is not None
    assert table.columns == ["frames a second", "base graph, times fp32"]
    assert [(r.label, [c.text for c in r.cells]) for r in table.rows] == [
        ("1 thread", ["190.00", "1.70"]),
        ("2 threads", ["300.00", "–"]),
    ]
    assert speed.throughput_table({"base.fp32.p50_ms": 2.0}) is None


def test_text_of_chosen_columns() -> None:
    rows = [blocks.Row("one", [Cell("1", "+1", "better"), Cell("2"), Cell("3")])]
    found = blocks.Table(["a", "b", "c"], [("", rows)])
    assert blocks.table_text(found, ["c", "a"]).split() == ["c", "a", "one", "3", "1", "(+1)"]
    with pytest.raises(ValueError, match="'d'"):
        blocks.table_text(found, ["d"])


def test_accuracy_in_a_notebook_is_narrow() -> None:
    metrics = {f"motchallenge__{m}": 1234 if m in values.COUNTS else 0.9 for m in values.METRICS}
    stages = [record(stage, "accuracy", **metrics) for stage in ("float", "float_extra", "fixed_point")]
    told = accuracy.accuracy_text(stages)
    assert max(map(len, told.splitlines())) <= 110
    assert told.splitlines()[0].split() == [
        "Stage",
        "MOTA",
        "IDF1",
        "HOTA",
        "DetA",
        "AssA",
        "FP",
        "FN",
        "IDSW",
        "boxes",
    ]
    assert "90.00 (±0.00)" in told
    assert accuracy.accuracy_text([]) == "nothing has been measured yet"


def test_graph_table_shows_shares_as_percent() -> None:
    metrics = {"base.integer_macs_share": 0.981, "base.num_nodes": 41, "qim.integer_macs_share": 1.0}
    table = size.graph_table(metrics)
    assert table is not None
    assert table.columns == ["products in integers, by multiply-accumulates", "nodes"]
    assert [[c.text for c in row.cells] for row in table.rows] == [["98.1 %", "41"], ["100.0 %", "–"]]
    assert size.graph_table({}) is None


def test_plain_tables_part_dotted_and_undotted_names() -> None:
    dotted, single = data.plain_tables({"train.frames": 3, "test.frames": 4, "test.boxes": 5, "num_videos": 2})
    assert dotted.columns == ["frames", "boxes"]
    assert [(row.label, [c.text for c in row.cells]) for row in dotted.rows] == [
        ("train", ["3", "–"]),
        ("test", ["4", "5"]),
    ]
    assert [(row.label, row.cells[0].text) for row in single.rows] == [("num videos", "2")]
    assert data.plain_tables({}) == []


def test_costs_of_stages() -> None:
    found = {"float": 0.90, "calibration": 0.898, "qat": 0.91, "float_extra": 0.912, "fixed_point": 0.9103}
    records = [record(stage, "accuracy", hat__mota=mota) for stage, mota in found.items()]
    table = accuracy.cost_table(records, "hat")
    assert table is not None
    cells = {row.label: [c.text or c.delta for c in row.cells] for row in table.rows}
    assert cells == {
        "Calibration − Float": ["−0.20", "–", "–"],
        "QAT − Float, trained longer": ["−0.20", "–", "–"],
        "Fixed-point − QAT": ["+0.03", "–", "–"],
    }
    assert accuracy.cost_table(records[:1], "hat") is None


def test_which_forms_give_the_same_files() -> None:
    equal = {"qat__num_files": 14, "qat__equal_files": 14, "qat__first_difference": ""}
    other = {"openvino__num_files": 14, "openvino__equal_files": 12, "openvino__first_difference": "street-03"}
    table = accuracy.agreement_table(
        [record("fixed_point", "agreement", **equal, **other, portable_onnxruntime__idf1=0.97125)]
    )
    assert table is not None
    assert {row.label: [c.text for c in row.cells] for row in table.rows} == {
        "QAT graph in PyTorch": ["14", "equal byte for byte", "–"],
        "OpenVINO, plain operators": ["14", "12 equal, first other: street-03", "–"],
        "portable files, ONNX Runtime": ["–", "not exact", "0.9712"],
    }
    assert accuracy.agreement_table([]) is None


def test_a_training_has_a_block_of_its_own_whose_terms_add_up_and_validations_none() -> None:
    terms = {"class": 0.37, "l1": 0.24, "giou": 0.2, "denoising": 0.1}
    records = [
        record("float", "training", steps=2000, loss=0.91, **terms),
        record("float", "training", validation_step=3, idf1=0.5),
        record("qat", "training", steps=200, loss=0.61, **{k: v for k, v in terms.items() if k != "denoising"}),
    ]
    table = training.training_table([{**r, "duration_s": 12.3} for r in records])
    assert table is not None
    assert [heading for heading, _ in table.groups] == ["Float", "QAT"]
    (_, rows), _ = table.groups
    shown = {row.label: row.cells[0].text for row in rows}
    assert sum(float(shown[values.words(name)]) for name in terms) == pytest.approx(float(shown["loss"]))
    assert shown["duration, s"] == "12"
    assert training.training_table([]) is None
