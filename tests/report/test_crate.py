"""A run as a Workflow Run RO-Crate."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from motrlab.__main__ import main
from motrlab.run import Run

NEEDED = pytest.mark.skipif(importlib.util.find_spec("rocrate") is None, reason="rocrate is not installed")


def test_without_the_package_one_line_says_how_to_get_it(
    full_run: Run, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rocrate.rocrate", None)
    monkeypatch.setitem(sys.modules, "rocrate", None)
    assert main(["report", "--run", "demo", "--crate"]) == 2
    assert capsys.readouterr().err.strip() == (
        "motrlab: report --crate needs the package rocrate: pip install 'motrlab[crate]'"
    )
    assert not (home / "reports").exists()  # said before anything is done


@pytest.fixture
def crate(full_run: Run, home: Path) -> Path:
    (full_run.tracks("float")).mkdir(parents=True)
    (full_run.tracks("float") / "street-01.txt").write_text("1,1,2,3,4,5,1,-1,-1,-1\n")
    assert main(["report", "--run", "demo", "--crate"]) == 0
    return home / "reports" / "demo" / "crate"


@NEEDED
def test_crate_follows_the_profile(crate: Path) -> None:
    graph: dict[str, Any] = {e["@id"]: e for e in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}
    root = graph["./"]
    assert {"@id": "https://w3id.org/ro/wfrun/workflow/0.5"} in root["conformsTo"]
    workflow = graph[root["mainEntity"]["@id"]]
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} == set(workflow["@type"])
    assert len(workflow["hasPart"]) == 8
    action = graph["#run-demo"]
    assert action["@type"] == "CreateAction"
    assert action["instrument"]["@id"] == workflow["@id"]
    assert action["startTime"] <= action["endTime"]
    assert {"@id": "config.json"} in action["object"]
    results = {entity["@id"] for entity in action["result"]}
    assert {"records.jsonl", "report/index.html", "artifact/", "tracks/"} <= results
    parameters = {p["@id"] for side in ("input", "output") for p in workflow[side]}
    for entity in (*action["object"], *action["result"]):
        assert graph[entity["@id"]]["exampleOfWork"]["@id"] in parameters
    for name, entity in graph.items():
        if "File" in entity["@type"]:
            assert (crate / name).is_file(), name


@NEEDED
def test_a_second_crate_does_not_hold_the_first(crate: Path) -> None:
    assert main(["report", "--run", "demo", "--crate"]) == 0
    assert not list(crate.rglob("crate"))
