"""`perf` for a described target: of a preset without a run, of a run with its record and files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.deploy.performance import read_performance
from motrlab.deploy.target import Figure, format_target, load_target
from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.graphs import find_graphs
from motrlab.stages.prediction import measured_host_ms, predict_run, predict_source, prediction_text
from tests.deploy.conftest import FixedPoint, fixed_point  # noqa: F401


def test_an_artefact_on_a_chip(fixed_point: FixedPoint) -> None:  # noqa: F811
    source = find_graphs(artifact=fixed_point.artifact)
    found = predict_source(source, load_target("horizon-j6m"))
    assert found.target == "horizon-j6m"
    text = prediction_text(source, found)
    assert text.startswith(f"artefact {fixed_point.artifact}")
    assert "horizon-j6m, predicted" in text
    (line,) = [x for x in format_target(load_target("horizon-j6m")).splitlines() if "figures are assumed" in x]
    assumed, number = (found.sections["figures"][name] for name in ("assumed", "number"))
    assert 0 < assumed < number
    assert line.strip().startswith(f"{assumed} of {number} figures are assumed")
    assert f"{assumed} of {number} figures of this target are assumed" in text.splitlines()


def test_a_described_host_wants_an_artefact() -> None:
    target = replace(load_target("onnxruntime-cpu"), kernels={"Mul scalar": {"call": Figure(1e-6, "assumed")}})
    with pytest.raises(UserError, match="convert first"):
        predict_source(find_graphs(preset="smoke"), target)


def test_a_run_gets_a_record_and_files(converted: Run) -> None:
    source = find_graphs(artifact=converted.artifact)
    found = predict_run(converted, source, load_target("ethos-u65"))
    record = converted.last_record("perf", "prediction")
    assert record is not None
    assert record["metrics"]["target"] == "ethos-u65"
    assert record["metrics"]["latency_ms"] == pytest.approx(found.frame["latency_ms"])
    names = {Path(asset).name for asset in record["assets"]}
    assert names == {f"perf_ethos-u65.predicted.{ending}" for ending in ("json", "csv", "trace.json")}
    read = read_performance(converted.assets / "perf_ethos-u65.predicted.json")
    assert read["frame"] == json.loads(json.dumps(found.frame))
    assert measured_host_ms(converted) is None
    assert any("not known" in line for line in found.sections["assumptions"])


def test_measured_times_of_the_host_are_part_of_the_frame(converted: Run) -> None:
    metrics = {
        f"step.{part}.p50_ms": value for part, value in (("preprocess", 1.0), ("tracker", 0.5), ("gather", 0.25))
    }
    converted.add_record("perf", "latency", metrics, started=0.0, made_from=["data"])
    assert measured_host_ms(converted) is None  # a part is missing
    converted.add_record("perf", "latency", metrics | {"step.state.p50_ms": 0.25}, started=0.0, made_from=["data"])
    assert measured_host_ms(converted) == {"before": 1.0, "between": 1.0}
    found = predict_run(converted, find_graphs(artifact=converted.artifact), load_target("horizon-j6m"))
    assert (found.frame["preprocess_ms"], found.frame["host_ms"]) == (1.0, 1.0)
    assert any("record; the target's own processor is another" in line for line in found.sections["assumptions"])
    assert found.sections["foreign_host"]
