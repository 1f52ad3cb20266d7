from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from motrlab.quantization.analysis.layers import FrameRow, LayerRow, TapPoint, layer_row, measure, worst
from motrlab.viz.curves import figure_png
from motrlab.viz.layers import frame_sqnr, layers_by_error, mean_db, tensor_sqnr


def rows() -> list[LayerRow]:
    """Nine tensors of falling quality, the last two of the QIM."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(9):
        point = TapPoint("base" if i < 7 else "qim", f"relu_{i}", "ffn", "linear", "min_max", 1, True, 0.1, -128, 127)
        x = rng.normal(size=200) * 3
        fake = x + 0.01 * (i + 1) * rng.normal(size=200)
        found.append(layer_row(point, measure(point, x, fake, fake)))
    return found


def test_every_tensor_is_a_point_and_the_worst_are_named() -> None:
    figure = tensor_sqnr(rows())
    (ax,) = figure.axes
    own, fake, fixed = ax.collections
    for points, kind in ((own, "own"), (fake, "fake"), (fixed, "fixed")):
        heights = np.asarray(points.get_offsets())[:, 1]
        np.testing.assert_allclose(heights, [getattr(row, f"{kind}_sqnr_db") for row in rows()])
    assert len({tuple(c) for c in fixed.get_facecolor()}) == 2, "a colour for each graph"
    assert worst(rows())[0].tensor in [text.get_text() for text in ax.texts]
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()][:2] == ["base graph", "QIM"]
    assert figure_png(figure).startswith(b"\x89PNG")


def long_names() -> list[LayerRow]:
    """The worst on both sides of the middle, with names that reach across it."""
    worst_at = {36: 5.0, 40: 5.5, 58: 6.0, 67: 6.5, 99: 7.0}
    return [
        replace(rows()[0], tensor=f"decoder.{i}.cross_attention.mixed", fixed_sqnr_db=worst_at.get(i, 40.0))
        for i in range(110)
    ]


@pytest.mark.parametrize("make", [rows, long_names])
def test_names_lie_inside_the_axes_under_all_points(make: Callable[[], list[LayerRow]]) -> None:
    figure = tensor_sqnr(make())
    (ax,) = figure.axes
    FigureCanvasAgg(figure).draw()
    lowest = min(row.fixed_sqnr_db for row in make())
    assert len(ax.texts) == 5
    for text in ax.texts:
        assert text.xy[1] < lowest
        box, frame = text.get_window_extent(), ax.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
    for one, other in itertools.combinations(ax.texts, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())


def test_exact_and_silent_tensors_are_drawn_too() -> None:
    first, second, third = rows()[:3]
    exact = replace(first, fake_sqnr_db=math.inf, fixed_sqnr_db=math.inf, own_sqnr_db=math.inf)
    silent = replace(second, fake_sqnr_db=math.nan, fixed_sqnr_db=math.nan, own_sqnr_db=math.nan)
    figure = tensor_sqnr([exact, silent, third])
    (ax,) = figure.axes
    heights = np.asarray(ax.collections[2].get_offsets())
    assert heights[0, 1] > max(third.fixed_sqnr_db, third.own_sqnr_db)
    assert heights[0, 1] < ax.get_ylim()[1]
    assert "relu_0" not in [text.get_text() for text in ax.texts]
    for bare in ([], [exact], [silent]):
        assert figure_png(tensor_sqnr(bare)).startswith(b"\x89PNG")


def frames() -> list[FrameRow]:
    found = []
    for video, extra in (("a", 0.0), ("b", 2.0)):
        for frame in (1, 2, 3):
            for stage, less in (("fake", 0.0), ("fixed_point", 1.0)):
                level = 40 - 5 * frame + extra - less
                found.append(FrameRow(video, frame, stage, level, level + 10, level + 20, 1.0))
    return found


def test_a_curve_for_each_stage_and_output() -> None:
    figure = frame_sqnr(frames())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["class logits", "boxes", "embedding"]
    fake, fixed = figure.axes[0].lines
    np.testing.assert_allclose(fake.get_ydata(), [36, 31, 26])
    np.testing.assert_allclose(fixed.get_ydata(), [35, 30, 25])
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["fake-quant", "fixed-point"]
    assert figure_png(frame_sqnr([])).startswith(b"\x89PNG")


def test_mean_over_videos_leaves_exact_frames_out() -> None:
    exact = FrameRow("c", 1, "fake", math.inf, math.inf, math.nan, 1.0)
    assert mean_db([*frames(), exact], "fake", 1, "boxes_db") == pytest.approx(46)
    assert math.isnan(mean_db([exact], "fake", 1, "class_logits_db"))


def test_bars_of_the_worst() -> None:
    figure = layers_by_error(rows(), most=2)
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert bars == [row.fixed_sqnr_db for row in worst(rows(), 2)]
    assert "shown" not in figure.axes[0].get_xlabel()
    high = replace(rows()[0], own_sqnr_db=99.0)
    assert "at most 60 shown" in layers_by_error([high]).axes[0].get_xlabel()
    assert figure_png(layers_by_error([]))
