"""Runs that differ in the seed alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from motrlab.report.blocks import Source, Table
from motrlab.report.compare import compare
from motrlab.report.spread import section, siblings, spread_text
from motrlab.run import Run
from tests.report.conftest import STAGE_SHIFT, accuracy_metrics


@pytest.fixture
def seeds(home: Path, full_run: Run) -> list[Run]:
    """`demo-1`, `demo-2` and `demo-3`: a point of MOTA apart in every stage; fixed-point of the last another point."""
    found = []
    for i in range(3):
        path = full_run.path.with_name(f"demo-{i + 1}")
        shutil.copytree(full_run.path, path)
        run = Run.open(path.name, fields=[f"seed={i}"])
        for stage, shift in STAGE_SHIFT.items():
            more = 0.01 * i + 0.01 * (i == 2 and stage == "fixed_point")
            _made(run, stage)
            run.add_record(stage, "accuracy", accuracy_metrics(shift + more), started=time.time())
        found.append(run)
    return found


def _made(run: Run, stage: str) -> None:
    """The stage again, as made with the run's own seed."""
    from motrlab.lineage import MAKING

    if not run.has("data"):
        run.add_record("data", "data", {}, started=0.0)
    run.add_record(stage, MAKING[stage], {}, started=0.0)


def rows(table: Table) -> dict[str, list[str]]:
    return {row.label: [cell.text for cell in row.cells] for row in table.rows}


def test_text() -> None:
    assert spread_text([0.91, 0.92, 0.93]) == "92.0 ± 1.0 (91.0 to 93.0)"
    assert spread_text([-0.01, -0.01]) == "−1.0 ± 0.0 (−1.0 to −1.0)"


def test_siblings_differ_in_the_seed_alone(seeds: list[Run]) -> None:
    assert [run.name for run in siblings(seeds[1])] == ["demo", "demo-1", "demo-2", "demo-3"]
    Run.open("demo-2", fields=["qat.lr=0.5"])
    assert [run.name for run in siblings(seeds[0])] == ["demo", "demo-1", "demo-3"]


def test_tables_of_the_report(seeds: list[Run], full_run: Run) -> None:
    shutil.rmtree(full_run.path)
    found = section(Source(seeds[0]))
    by_stage, by_sequence, *_ = found.tables
    assert rows(by_stage)["Float"][0] == "82.2 ± 1.0 (81.2 to 83.2)"
    assert rows(by_stage)["Fixed-point − Float"][0] == "−0.1 ± 0.6 (−0.4 to 0.6)"  # paired by seed
    assert [row.label for row in by_sequence.rows] == ["street-01", "street-01", "street-02.night", "street-02.night"]
    assert len(found.tables) == 4  # of both protocols


def test_a_run_alone_says_how_to_make_others(full_run: Run) -> None:
    (told,) = section(Source(full_run)).blocks
    assert "--run demo --set seed=0,1,2" in str(told)


def test_compare_has_mean_and_spread(seeds: list[Run]) -> None:
    text, page = compare([run.name for run in seeds])
    assert "Spread over 3 seeds, protocol hat" in text
    assert "82.2 ± 1.0 (81.2 to 83.2)" in text
    assert "82.2 ± 1.0 (81.2 to 83.2)" in page.read_text()
    Run.open("demo-2", fields=["qat.lr=0.5"])
    assert "Spread over" not in compare([run.name for run in seeds])[0]
