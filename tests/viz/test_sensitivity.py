from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.viz.curves import figure_png
from motrlab.viz.sensitivity import calibration_bars, group_ranking, pareto_plot


def group(name: str, noise: float, mota: float = math.nan) -> GroupRow:
    return GroupRow(name, 4, 0.1, math.inf, 30.0, 31.0, math.nan, noise, 1 - noise / 2, mota, mota)


def point(number: int, raised: str, share: float, noise: float, mota: float = math.nan) -> PathPoint:
    return PathPoint(number, raised, share, noise, 30.0, 31.0, 32.0, math.nan, mota, mota)


def sweep_row(name: str, mota: float = math.nan) -> SweepRow:
    return SweepRow(name, 30.0, 40.0, 35.0, math.nan, 33.0, 0.001, 4.0, 1.0, mota=mota, idf1=mota)


def texts(figure: Figure) -> str:
    found = []
    for ax in figure.axes:
        found += [t.get_text() for t in (*ax.texts, *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label)]
        legend = ax.get_legend()
        found += [t.get_text() for t in legend.get_texts()] if legend else []
    return " | ".join(found)


@pytest.mark.parametrize("mota", [math.nan, 0.5])
def test_ranking(mota: float) -> None:
    rows = [group("encoder 0", 0.7, mota), group("QIM attention", 0.2, mota), group("inputs", 0.0, mota)]
    figure = group_ranking(rows)
    assert len(figure.axes) == (1 if math.isnan(mota) else 2)
    assert "encoder 0" in texts(figure)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([70, 20, 0, 35, 10, 0])
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first row is the topmost
    assert figure_png(figure).startswith(b"\x89PNG")


def test_ranking_keeps_a_bound() -> None:
    figure = group_ranking([group(f"g{i}", 1 / 40) for i in range(40)])
    assert len(figure.axes[0].patches) == 48


@pytest.mark.parametrize("reference", [{}, {"mota": 0.7, "idf1": 0.6}])
def test_pareto(reference: dict[str, float]) -> None:
    path = [point(0, "", 0.0, 1.0, 0.4), point(1, "encoder 0", 0.04, 0.5), point(2, "box heads", 0.06, 0.3, 0.6)]
    figure = pareto_plot(path, [group("encoder 0", 0.7)], 0.1, reference)
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == pytest.approx([0, 4, 6])
    assert list(line.get_ydata()) == pytest.approx([100, 50, 30])
    assert "all int8" in texts(figure)
    assert "+ encoder 0" in texts(figure)
    scores = figure.axes[1].lines[0]
    assert list(scores.get_xdata()) == pytest.approx([0, 6])  # what was not measured is no point
    assert figure_png(figure).startswith(b"\x89PNG")


def test_a_path_of_its_start_alone() -> None:
    figure = pareto_plot([point(0, "", 0.0, 1.0)], [], 0.1, {})
    assert len(figure.axes) == 1
    assert figure_png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("mota", [math.nan, 0.5])
def test_calibrations(mota: float) -> None:
    figure = calibration_bars([sweep_row("as_configured", mota), sweep_row("single_frames", mota)])
    assert len(figure.axes) == (2 if math.isnan(mota) else 3)
    assert "as configured (now)" in texts(figure)
    assert "single frames" in texts(figure)
    assert figure_png(figure).startswith(b"\x89PNG")
