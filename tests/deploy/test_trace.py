"""Chrome traces: what a viewer needs of every event, and lanes in which nothing overlaps."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from motrlab.deploy.performance import Performance, entities, read_performance
from motrlab.deploy.trace import chrome_trace, save_performance
from motrlab.errors import UserError
from tests.report.performances import layers, measured, predicted

NEEDED = {"X": {"name", "ph", "ts", "dur", "pid", "tid"}, "M": {"name", "ph", "pid", "tid", "args"}}
NEEDED["C"] = {"name", "ph", "ts", "pid", "args"}


def check(trace: dict[str, Any]) -> dict[int, list[tuple[float, float]]]:
    """The schema; spans by thread."""
    lanes: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        assert NEEDED[event["ph"]] <= event.keys(), event
        assert isinstance(event["name"], str)
        for name in ("pid", "tid"):
            assert isinstance(event.get(name, 0), int)
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    named = {e["tid"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert lanes.keys() <= named
    for spans in lanes.values():
        ordered = sorted(spans)
        for (_, end), (start, _) in pairwise(ordered):
            assert start >= end - 1e-6
    return lanes


@pytest.mark.parametrize("make", [measured, predicted])
def test_schema(make: Callable[[], Performance]) -> None:
    performance = make()
    trace = json.loads(json.dumps(chrome_trace(performance), allow_nan=False))
    lanes = check(trace)
    assert sum(map(len, lanes.values())) == len(performance.sections["timeline"]["spans"])
    last = max(end for spans in lanes.values() for _, end in spans)
    assert last == pytest.approx(1e3 * performance.frame["latency_ms"])


def test_events_name_their_layers() -> None:
    performance = predicted()
    events = chrome_trace(performance)["traceEvents"]
    named = {e["name"]: e["args"]["module"] for e in events if e["ph"] == "X" and e["args"]}
    assert named == {layer.name: layer.module for layer in layers()}
    live = [e["args"] for e in events if e["ph"] == "C"]
    assert len(live) == len(layers())
    assert max(x["base"] for x in live if "base" in x) == performance.sections["memory"]["base"]["peak_bytes"]


def test_what_overlaps_gets_a_lane_of_its_own() -> None:
    spans = [["vector", 0.0, 2.0, 0], ["vector", 1.0, 3.0, 1], ["vector", 2.0, 4.0, 2], ["vector", 1.5, 1.6, -1]]
    sections = {"timeline": {"lanes": ["vector"], "spans": spans}}
    trace = chrome_trace(replace(predicted(), sections=sections))
    assert sorted(map(len, check(trace).values())) == [1, 1, 2]
    names = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"]
    assert names == ["vector", "vector (2)", "vector (3)"]


def test_files_of_a_result(tmp_path: Path) -> None:
    performance = replace(predicted(), target="my chip/2")
    paths = save_performance(performance, tmp_path)
    assert [path.name for path in paths] == [f"perf_my_chip_2.predicted.{end}" for end in ("json", "csv", "trace.json")]
    both = save_performance(replace(performance, kind="measured"), tmp_path)
    assert not set(both) & set(paths)  # one target, measured and predicted
    values = read_performance(paths[0])
    assert values == json.loads(json.dumps(performance.json()))
    assert sum(row["share"] for row in values["layers"]) == pytest.approx(1)
    check(json.loads(paths[2].read_text()))
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    assert len(rows) == len(layers())
    columns = (
        "operator unit name on_chip_bytes on_chip_share cycles share cycles_compute cycles_on_chip cycles_off_chip"
    )
    assert set(f"{columns} macs utilisation bytes_read bytes_written latency_ms bound module".split()) <= rows[0].keys()
    assert values["units"].keys() <= rows[0].keys()


def test_entities_add_up() -> None:
    rows = predicted().rows()
    found = {entity["id"]: entity for entity in entities(rows)}
    assert {e["kind"] for e in found.values()} == {"graph", "module", "part"}
    for name in ("macs", "latency_ms", "num_layers"):
        whole = sum(row.get(name, 1) for row in rows)
        assert found["base"][name] + found["qim"][name] == pytest.approx(whole)
        for parent in ("base", "base/backbone"):
            assert sum(e[name] for e in found.values() if e["parent"] == parent) == pytest.approx(found[parent][name])


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 9'])
def test_what_is_no_result_is_a_user_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "perf_x.json").write_text(text)
    with pytest.raises(UserError, match=r"perf_x\.json: not a result of `perf`"):
        read_performance(tmp_path / "perf_x.json")
