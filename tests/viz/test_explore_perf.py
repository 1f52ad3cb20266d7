from __future__ import annotations

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.viz.explore_perf import PerfExplorer, module_rows


def layer(module: str, ms: float, macs: int = 0, bound: str = "measured", graph: str = "base") -> dict[str, Any]:
    facts = {"graph": graph, "module": module, "name": module + "/Op", "operator": "Conv", "macs": macs}
    return {**facts, "bytes_read": 100, "bytes_written": 50, "latency_ms": ms, "bound": bound}


def result(kind: str, target: str, layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"schema": 1, "target": target, "kind": kind, "graphs": {}, "frame": {}, "layers": layers, **more}


MEASURED = result("measured", "host", [layer("stem", 1.0, 1000), layer("norm", 0.5), layer("stem", 0.25, 500)])
ROOF = {"peak_gops": {"matrix int8": 10.0, "vector int8": 3.0}, "bandwidth_gbs": {"off_chip": 2.0}}
PREDICTED = result(
    "predicted",
    "chip",
    [layer("stem", 0.1, 1500, "off_chip"), layer("head", 0.4, 200, "overhead", "qim")],
    roofline=ROOF,
)


@pytest.fixture
def explorer() -> PerfExplorer:
    return PerfExplorer({"host, measured": MEASURED, "chip, predicted": PREDICTED})


def test_rows_by_module() -> None:
    stem, norm, head = module_rows([MEASURED, PREDICTED])
    assert stem.name == "base stem"
    assert stem.ms == (1.25, 0.1)
    assert (stem.macs, stem.num_bytes, stem.num_layers, stem.bound) == (1500, 300, 2, "off_chip")
    assert stem.ratio == pytest.approx(0.08)
    assert norm.ms[0] == 0.5
    assert math.isnan(norm.ms[1])
    assert math.isnan(head.ms[0])
    assert (head.graph, head.macs, head.bound) == ("qim", 200, "overhead")


def test_rows_by_layer(explorer: PerfExplorer) -> None:
    by_layer = {**MEASURED, "layers": [layer("stem", 1.0, 1000) | {"name": "stem/A"}, layer("stem", 0.25)]}
    rows = module_rows([by_layer], "layer")
    assert [(row.name, row.ms, row.num_layers) for row in rows] == [
        ("base stem/A", (1.0,), 1),
        ("base stem/Op", (0.25,), 1),
    ]
    assert [row.name for row in explorer.rows(find="head", by="layer")] == ["qim head/Op"]
    assert "<title>base stem/Op" in explorer.roofline("chip, predicted", by="layer")
    with pytest.raises(UserError, match="no rows of 'operator'; of one of module, layer"):
        explorer.rows(by="operator")


def test_sort_and_filter(explorer: PerfExplorer) -> None:
    def names(**how: str) -> list[str]:
        return [row.module for row in explorer.rows(**how)]

    assert names() == ["stem", "norm", "head"]
    assert names(sort="time beside") == ["head", "stem", "norm"]
    assert names(sort="order") == ["stem", "norm", "head"]
    assert names(find="OFF_chip") == ["stem"]
    assert names(graph="qim") == ["head"]
    assert names(find="nothing") == []
    with pytest.raises(UserError, match="cannot sort by 'size'"):
        explorer.rows(sort="size")
    with pytest.raises(UserError, match="toaster; show one or two of: host, measured; chip, predicted"):
        explorer.rows(["toaster"])


def test_words_and_table(explorer: PerfExplorer) -> None:
    rows = explorer.rows()
    assert "1.2500" in explorer.table(rows)
    assert "none" in explorer.table(rows)
    told = explorer.describe(rows[0])
    assert "host, measured: 1.2500 ms; chip, predicted: 0.1000 ms; ratio 0.08" in told
    assert "bound by off_chip" in told
    assert explorer.html(rows).count("<tr") == 4
    assert "1 more rows" in explorer.html(rows, most=2)


def test_pictures(explorer: PerfExplorer) -> None:
    assert cv2.imdecode(np.frombuffer(explorer.png(), np.uint8), cv2.IMREAD_COLOR).shape[1] == 1100
    assert explorer.png() != explorer.png(sort="time beside")
    bare, marked = (explorer.roofline("chip, predicted", name) for name in ("", "base stem"))
    assert bare.count("<circle") + 1 == marked.count("<circle") == 3
    assert "<title>base stem: 0.1 ms" in bare
    assert "matrix int8: 10" in bare
    assert "roof" not in explorer.roofline("host, measured").replace("Roofline", "")
    only = PerfExplorer({"host, measured": result("measured", "host", [layer("norm", 0.5)])})
    assert only.default == ("host, measured",)
    assert only.roofline("host, measured") == ""
    assert only.png()  # no products, no roofs, nothing beside


def test_widget_follows_its_controls(explorer: PerfExplorer) -> None:
    widget = explorer.widget()
    (first, second, sort), (find, _, module, level) = (row.children for row in widget.children[:2])
    _, _, words, below = widget.children
    table, picture = below.children
    before = picture.value
    assert module.value == "base stem"
    module.value = "qim head"
    assert picture.value != before
    assert words.value.startswith("qim head")
    find.value = "stem"
    assert table.value.count("<tr") == 2
    assert module.value == "base stem"
    find.value = "nothing"
    assert "no module" in words.value
    find.value, second.value = "", ""
    assert table.value.count("<td") == 2 * 3  # no column beside
    level.value = "layer"
    assert "base stem/Op" in table.value
    assert "stem/Op" in picture.value
    sort.value = "order"
    first.value = "chip, predicted"
    assert "chip" in table.value


def test_of_a_run(home: Any, make_stage: Any) -> None:
    run = Run.open("demo")
    with pytest.raises(UserError, match="no result of `perf`"):
        PerfExplorer.of_run(run)
    for stage in ("data", "float", "calibration", "qat", "fixed_point"):
        make_stage(run, stage)
    run.assets.mkdir()
    for values in (PREDICTED, MEASURED):
        path = run.assets / f"perf_{values['target']}.json"
        path.write_text(json.dumps(values))
        kind = "latency" if values is MEASURED else "prediction"
        run.add_record("perf", kind, {}, started=0.0, assets=[path])
    assert list(PerfExplorer.of_run(run).results) == ["host, measured", "chip, predicted"]
