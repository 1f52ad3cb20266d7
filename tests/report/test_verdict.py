"""Budgets: met or not, and by how much; what is not measured is said so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from motrlab.config import BudgetConfig
from motrlab.errors import UserError
from motrlab.report.blocks import Source
from motrlab.report.verdict import cards, headline, section, verdicts
from motrlab.run import Run
from tests.report.conftest import accuracy_metrics

MakeStage = Callable[..., None]


def reopened(name: str, *fields: str) -> Source:
    return Source(Run.open(name, fields=[f"budgets.{field}" for field in fields]))


def test_points_are_lost_against_the_better_float(full_run: Run, make_stage: MakeStage) -> None:
    found = {v.name: v for v in verdicts(Source(full_run))}
    assert found["MOTA lost"].value == 0.42
    assert found["MOTA lost"].told == "80.81; float 81.23 (−0.42)"
    make_stage(full_run, "float_extra")
    full_run.add_record("float_extra", "accuracy", accuracy_metrics(0.008), started=time.time())
    found = {v.name: v for v in verdicts(Source(full_run))}
    assert found["MOTA lost"].value == 1.22
    assert found["MOTA lost"].told == "80.81; float 81.23 (−0.42), float trained longer 82.03 (−1.22)"
    assert found["MOTA lost"].margin == "0.22 points too much"
    assert found["IDF1 lost"].margin == "0.78 points to spare"


@pytest.mark.parametrize(
    ("budget", "met", "margin"), [(8.8, False, "0.10 ms too much"), (8.9, True, "0.00 ms to spare")]
)
def test_a_frame_has_its_milliseconds(full_run: Run, budget: float, met: bool, margin: str) -> None:
    (frame,) = [v for v in verdicts(reopened("demo", f"frame_ms={budget}")) if v.unit == "ms"]
    assert (frame.value, frame.met, frame.margin) == (8.9, met, margin)


def test_another_target_is_not_measured(full_run: Run) -> None:
    source = reopened("demo", "target=horizon-j6m", "mota_points=0.1")
    found = verdicts(source)
    (frame,) = [v for v in found if v.unit == "ms"]
    assert (frame.met, frame.told) == (None, "`python -m motrlab perf --run demo --target horizon-j6m`")
    assert headline(found) == (
        "1 of 4 budgets missed: MOTA lost (0.32 points too much); not measured: A frame on horizon-j6m, Both graphs."
    )
    assert [card["tone"] for card in cards(found)] == ["worse", "better", "even", "even"]


def test_megabytes_are_of_both_graphs(full_run: Run) -> None:
    sizes = {"base.size_mb": 1.5, "qim.size_mb": 0.25, "base.fp32_size_mb": 3.0, "qim.fp32_size_mb": 0.5}
    full_run.add_record("fixed_point", "integer", sizes, started=time.time())
    found = verdicts(Source(full_run))
    assert (found[-1].value, found[-1].told) == (1.75, "base 1.5, QIM 0.25; fp32 3.5")
    assert headline(found) == "All 4 budgets are met."


def test_no_budgets_no_verdict(full_run: Run) -> None:
    limits = ("mota_points", "idf1_points", "frame_ms", "megabytes")
    source = reopened("demo", *(f"{name}=null" for name in limits))
    assert verdicts(source) == []
    assert headline([]) == ""
    assert "declares no budgets" in str(section(source).blocks[0])


def test_budgets_change_no_result(full_run: Run, home: Path) -> None:
    """Records count whatever the budgets are, and provenance does not list them as parameters of stages."""
    number = len(full_run.records())
    source = reopened("demo", "mota_points=5")
    assert len(source.records) == number
    assert source.run.records(stale=True) == []


@pytest.mark.parametrize("field", ["mota_points", "idf1_points", "frame_ms", "megabytes"])
def test_a_budget_is_not_negative(field: str) -> None:
    with pytest.raises(UserError, match=f"budgets: {field} must not be negative"):
        BudgetConfig(**{field: -1.0})
