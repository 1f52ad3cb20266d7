"""Runs side by side: distances and their direction, and what makes the runs hard to compare."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.report.compare import compare
from motrlab.run import Run
from tests.report.conftest import accuracy_metrics


@pytest.fixture
def pair(home: Path, full_run: Run) -> tuple[Run, Run]:
    """`demo`, and `other`: a copy of it, a point of MOTA better in float, twice as fast, on another machine."""
    shutil.copytree(full_run.path, full_run.path.parent / "other")
    other = Run.open("other")
    other.add_record("float", "accuracy", accuracy_metrics(0.01), started=time.time())
    latency = full_run.last_record("perf", "latency")
    assert latency is not None
    faster = {k: v / 2 if k.endswith("_ms") else v for k, v in latency["metrics"].items()}
    other.add_record("perf", "latency", faster, started=time.time())
    file = other.path / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1]["hardware"]["cpu"] = "another processor"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return full_run, Run.open("other")


def test_distances_have_a_direction(pair: tuple[Run, Run]) -> None:
    text, page = compare(["demo", "other"])
    assert page.parent.name == "demo-other"
    (mota, *_) = [line for line in text.splitlines() if line.startswith("MOTA")]
    assert mota.split()[1:] == ["81.2", "82.2", "(+1.00)"]
    (total, *_) = [line for line in text.splitlines() if line.startswith("Frame step, median")]
    assert total.endswith("(−50 %)")
    html = page.read_text()
    assert '<span class="delta better">+1.00</span>' in html
    assert '<span class="delta better">−50 %</span>' in html  # less time is better
    assert "http" not in html.replace("http-equiv", "")


def test_the_other_way_round_it_is_worse(pair: tuple[Run, Run]) -> None:
    _, page = compare(["other", "demo"])
    assert '<span class="delta worse">−1.00</span>' in page.read_text()


def test_what_makes_runs_hard_to_compare_is_said_first(pair: tuple[Run, Run]) -> None:
    text, page = compare(["demo", "other"])
    assert text.startswith("hardware differs: demo ")
    assert "other another processor" in page.read_text()


def test_config_fields_that_differ(home: Path, pair: tuple[Run, Run]) -> None:
    file = home / "runs" / "other" / "config.json"
    values = json.loads(file.read_text())
    values["train"]["lr"] = 0.5
    file.write_text(json.dumps(values))
    text, page = compare(["demo", "other"])
    assert "config differs in 1 field, listed below" in text
    assert "train.lr" in text
    assert "other: results that no longer count are left out" in text  # its records are of another config
    assert "train.lr" in page.read_text()


def test_scores_of_smoke_are_not_for_comparing(home: Path, pair: tuple[Run, Run]) -> None:
    assert "three short videos" not in compare(["demo", "other"])[0]
    for name in ("one", "two"):
        Run.open(name, "smoke")
    text, page = compare(["one", "two"])
    assert text.startswith("smoke has three short videos")
    assert "three short videos" in page.read_text()


def test_a_section_has_its_title_once(pair: tuple[Run, Run]) -> None:
    html = compare(["demo", "other"])[1].read_text()
    assert html.count(">Accuracy, protocol motchallenge<") == 2  # the heading, and the link to it


@pytest.mark.parametrize("names", [["demo"], ["demo", "demo"]])
def test_two_different_runs_are_wanted(home: Path, names: list[str]) -> None:
    with pytest.raises(UserError, match="two or more different runs"):
        compare(names)


def test_a_run_that_is_not_there(home: Path, full_run: Run) -> None:
    with pytest.raises(UserError, match="no run 'nobody'"):
        compare(["demo", "nobody"])
