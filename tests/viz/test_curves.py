from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from motrlab.viz.curves import (
    accuracy_points,
    figure_png,
    histogram,
    latency_bars,
    loss_by_layer,
    loss_curves,
    read_columns,
    smooth,
)


@pytest.mark.parametrize(
    ("values", "window", "expected"),
    [
        ([1, 2, 3, 4], 1, [1, 2, 3, 4]),
        ([1, 2, 3, 4], 2, [1, 1.5, 2.5, 3.5]),
        ([1, 2, 3], 9, [1, 1.5, 2]),
        ([1, np.nan, 3], 2, [1, 1, 3]),
        ([np.nan, 2], 2, [np.nan, 2]),
        ([], 3, []),
    ],
)
def test_smooth(values: list[float], window: int, expected: list[float]) -> None:
    np.testing.assert_allclose(smooth(values, window), expected)


def shown(figure: Figure) -> str:
    """Every text of the figure."""
    axes = figure.axes
    texts = [t.get_text() for ax in axes for t in (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)]
    texts += [ax.get_title(loc="left") for ax in axes]
    texts += [t.get_text() for ax in axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    return " | ".join(texts)


def test_loss_curves_show_every_term() -> None:
    figure = loss_curves([0, 1, 2], {"loss": [3, 2, 1], "l1": [1, 1, np.nan]}, title="Float", window=2)
    (ax,) = figure.axes
    assert len(ax.lines) == 4  # raw and smoothed
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [3, 2.5, 1.5])
    assert "training step" in shown(figure)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["loss", "L1"]


def test_accuracy_points_tell_values_and_distances() -> None:
    figure = accuracy_points(["Float", "QAT", "None"], {"MOTA": [0.8, 0.775, np.nan], "IDF1": [0.5, 0.51, 0.5]})
    text = shown(figure)
    assert "80.0" in text
    assert "77.5\n−2.50" in text
    assert "51.0\n+1.00" in text
    assert "none" in text
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(points[:2], [[0, 80], [1, 77.5]])
    assert [ax.get_ylim() for ax in figure.axes] == [(76, 81), (49, 54)]


@pytest.mark.parametrize(("scores", "span"), [([-0.6], (-65, -55)), ([0.2, 0.9], (-50, 150)), ([np.nan], (-5, 5))])
def test_scores_are_inside_the_axes(scores: list[float], span: tuple[float, float]) -> None:
    """With room above for their numbers, whatever they are."""
    (ax,) = accuracy_points([f"stage {i}" for i in range(len(scores))], {"MOTA": scores}).axes
    low, high = ax.get_ylim()
    assert span[0] <= low < high <= span[1]
    assert all(low < 100 * score < high for score in scores if np.isfinite(score))


def test_latency_bars() -> None:
    figure = latency_bars({"base": 6.1, "qim": 0.42}, emphasis=["base"])
    assert "6.10 ms" in shown(figure)
    assert "milliseconds" in shown(figure)
    assert figure.axes[0].patches[0].get_facecolor() != figure.axes[0].patches[1].get_facecolor()


def test_histogram_leaves_out_what_is_not_finite() -> None:
    figure = histogram([0.1, 0.2, np.nan, 0.9, np.inf], label="visibility, fraction", bins=[0, 0.5, 1])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 1]
    assert "visibility, fraction" in shown(figure)


@pytest.mark.parametrize(
    "figure", [loss_curves([], {}), histogram([], label="none"), latency_bars({})], ids=["loss", "histogram", "latency"]
)
def test_empty_input_draws(figure: Figure) -> None:
    image = cv2.imdecode(np.frombuffer(figure_png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.size > 0


def test_csv_columns(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    path.write_text("step,loss,stage,layer_0.l1\n0,2.5,float,1\n1,,float,2\n")
    columns = read_columns(path)
    assert list(columns) == ["step", "loss", "layer_0.l1"]
    np.testing.assert_equal(columns["loss"], [2.5, np.nan])
    path.write_text("step,loss\n")
    assert read_columns(path) == {}


def test_loss_by_layer_adds_up_frames() -> None:
    terms = {"frame_0.layer_0.giou": 2.0, "frame_1.layer_0.giou": 1.0, "frame_0.layer_1.giou": 1.0, "layer_1.l1": 0.5}
    figure = loss_by_layer({**terms, "denoising": 9.0})
    heights = [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]
    assert heights == [[3.0, 1.0], [0.0, 0.5]]
    assert figure.axes[0].get_title(loc="left") == "Loss of each decoder layer"
    of_a_curve = loss_by_layer({"loss": [9.0] * 20, "layer_0.l1": [8.0] * 18 + [1.0, 2.0]})  # the last tenth counts
    assert of_a_curve.axes[0].containers[0][0].get_height() == 1.5
    assert "no loss by layer" in loss_by_layer({"loss": [9.0]}).axes[0].texts[0].get_text()
