from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from motrlab.__main__ import _parser
from motrlab.quantization.analysis.layers import write_csv
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.report.blocks import Row, Source, Table
from motrlab.report.sensitivity import group_table, path_table, section, sweep_table
from motrlab.run import Run
from motrlab.viz.curves import figure_png
from motrlab.viz.sensitivity import calibration_bars, group_ranking, pareto_plot

ROOT = Path(__file__).parents[2]
GROUPS = [
    GroupRow("encoder 0", 12, 0.2, 25.0, 40.0, math.inf, math.nan, 0.7, 0.4, 0.5, 0.45),
    GroupRow("inputs", 3, 0.0, math.inf, math.inf, math.inf, math.nan, 0.0, 1.0, math.nan, math.nan),
]
PATH = [
    PathPoint(0, "", 0.01, 1.0, 20.0, 30.0, 21.0, -1.25, 0.4, 0.3),
    PathPoint(1, "encoder 0", 0.05, 0.4, 25.0, 35.0, 26.0, 22.0, 0.45, 0.29),
]
SWEEP = [
    SweepRow("as_configured", 20.0, 30.0, 21.0, 22.0, 23.25, 0.00012, 5.0, 2.0, mota=0.4, idf1=0.3),
    SweepRow("single_frames", 19.0, 30.0, 20.0, 4.0, 18.25, 0.01, 4.0, 2.0, mota=0.3, idf1=0.3),
]


@pytest.fixture
def measured(made_run: Run) -> Run:
    run = made_run
    tables = {"sensitivity.csv": GROUPS, "sensitivity_path.csv": PATH, "calibration_sweep.csv": SWEEP}
    figures = {
        "sensitivity.png": group_ranking(GROUPS),
        "sensitivity_path.png": pareto_plot(PATH, GROUPS, 0.2, {}),
        "calibration_sweep.png": calibration_bars(SWEEP),
    }
    for name, rows in tables.items():
        write_csv(run.assets / name, rows)  # type: ignore[arg-type]
    for name, figure in figures.items():
        (run.assets / name).write_bytes(figure_png(figure))
    assets = [run.assets / name for name in (*tables, *figures)]
    run.add_record("calibration", "sensitivity", {}, started=0, assets=[a for a in assets if "sens" in a.name])
    run.add_record("calibration", "calibration_sweep", {}, started=0, assets=[a for a in assets if "cal" in a.name])
    return run


def test_section(measured: Run) -> None:
    found = section(Source(measured))
    assert found.missing == []
    assert len(found.pictures) == len(found.tables) == 3
    assert "Most: encoder 0, 70.0 percent" in found.pictures[0].alt


def test_nothing_measured_says_how(new_run: Callable[..., Run]) -> None:
    run = new_run("demo", "smoke")
    (told,) = section(Source(run)).blocks
    assert isinstance(told, str)
    options = _parser().parse_args(shlex.split(told.split("`")[1])[3:])
    assert (options.run, options.first, options.last) == ("demo", "03", "03")
    cells = nbformat.read(ROOT / "notebooks" / "03_calibration.ipynb", as_version=4).cells
    parameters = next(cell.source for cell in cells if cell.cell_type == "code")
    assert options.parameters == ["sweep=true", "sensitivity=true"]
    assert "sweep: bool" in parameters
    assert "sensitivity: bool" in parameters


def test_lost_assets_are_named_and_the_rest_is_shown(measured: Run) -> None:
    (measured.assets / "sensitivity.csv").unlink()
    (measured.assets / "calibration_sweep.png").unlink()
    found = section(Source(measured))
    assert [table.title for table in found.tables] == ["Mixed precision", "Ways to calibrate"]
    assert len(found.pictures) == 2
    assert len(found.missing) == 2


def rows(table: Table | None) -> list[Row]:
    assert table is not None
    return table.rows


def test_cells() -> None:
    first, last = rows(group_table(GROUPS))
    assert [cell.text for cell in first.cells] == [
        "12", "20.0 %", "70.0 %", "40.0 %", "25.0", "40.0", "exact", "–", "50.00", "45.00", "1",
    ]  # fmt: skip
    assert [cell.text for cell in last.cells[-2:]] == ["–", "–"]
    start, raised = rows(path_table(PATH))
    assert (start.label, raised.label) == ("all int8", "+ encoder 0")
    assert start.cells[5].text == "−1.2"
    assert [(c.text, c.delta, c.tone) for c in raised.cells[-2:]] == [
        ("45.00", "+5.00", "better"), ("29.00", "−1.00", "worse"),
    ]  # fmt: skip
    own, single = rows(sweep_table(SWEEP))
    assert own.cells[-1].delta == ""
    assert own.cells[5].text == "0.012 %"
    assert single.label == "single frames"
    assert (single.cells[-2].delta, single.cells[-1].delta) == ("−10.00", "±0.00")
