"""What the notebooks say about `street`, against the shipped artefact and the report that is in the repository."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from motrlab.deploy.target import load_target
from motrlab.shipped import shipped_artifact
from motrlab.stages.graphs import GraphSource, graphs_of_artifact
from motrlab.stages.prediction import predict_source

ROOT = Path(__file__).parents[2]
NUMBERS = json.loads((ROOT / "reports" / "sample" / "numbers.json").read_text(encoding="utf-8"))


def opening(number: str) -> str:
    (file,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    text: str = nbformat.read(file, as_version=4).cells[0].source
    return text


def test_float_training() -> None:
    found = re.search(r"MOTA (\.\d\d) and IDF1 (\.\d\d)", opening("02"))
    assert found
    scores = NUMBERS["scores"]["Float"]
    assert [float(value) for value in found.groups()] == pytest.approx([scores["mota"], scores["idf1"]], abs=0.01)


def test_calibration_and_qat() -> None:
    assert "within a point of float" in opening("03")
    scores = {stage: found["mota"] for stage, found in NUMBERS["scores"].items()}
    assert scores["Calibration"] > scores["Float"] - 0.01
    assert "no better than calibration alone" in opening("04")
    assert scores["QAT"] < scores["Calibration"] + 0.002


def test_budgets_and_speed() -> None:
    assert "all four budgets are met" in opening("08")
    assert len(NUMBERS["budgets"]) == 4
    assert all(budget["value"] <= budget["budget"] for budget in NUMBERS["budgets"])
    assert "about two thirds of its fp32 time" in opening("07")
    assert 1 / NUMBERS["base_speedup"] == pytest.approx(2 / 3, abs=0.1)


@pytest.fixture(scope="module")
def source() -> GraphSource:
    return graphs_of_artifact(shipped_artifact())


def base_ms(source: GraphSource, name: str, **figures: float) -> float:
    target = load_target(name)
    target = replace(target, **{k: replace(getattr(target, k), value=v) for k, v in figures.items()})
    return float(predict_source(source, target).graphs["base"]["latency_ms"])


def test_things_to_try_with_the_prediction(source: GraphSource) -> None:
    """Notebook 07, at its end."""
    now = base_ms(source, "horizon-j6m")
    assert base_ms(source, "ethos-u85") / now == pytest.approx(10, abs=1.5)
    assert base_ms(source, "horizon-j6m", layer_overhead=0) < now / 3
