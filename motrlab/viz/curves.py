"""Curves and bars. Every function returns a `matplotlib.figure.Figure`; pyplot is never used.

pyplot keeps global state that is not safe in widget callbacks of ipykernel ≥ 7. Colours are those of Okabe and Ito,
which people with any common colour blindness can tell apart; lines differ in dash as well.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A7A00")
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_INK, _FAINT = "#22272e", "#d5d9de"


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    grid = figure.subplots(1, columns, squeeze=False)
    axes = list(grid[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#9aa1a9")
        ax.tick_params(colors=_INK, labelsize=9, length=3)
        ax.grid(axis="y", color=_FAINT, linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def figure_png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def smooth(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Trailing mean over up to `window` values; same length as `values`, NaNs left out of the mean."""
    array = np.asarray(values, np.float64)
    known = np.isfinite(array)
    sums, counts = np.cumsum(np.where(known, array, 0.0)), np.cumsum(known)
    window = max(1, window)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def loss_curves(
    step: ArrayLike, terms: Mapping[str, ArrayLike], *, title: str = "", window: int = 1, log: bool = False
) -> Figure:
    """Loss terms over training steps; with `window` > 1 the raw curve is faint behind its trailing mean."""
    figure, (ax,) = _figure(7.6, 3.4)
    x = np.asarray(step, np.float64)
    for i, (name, values) in enumerate(terms.items()):
        colour = COLOURS[i % len(COLOURS)]
        if window > 1:
            ax.plot(x, np.asarray(values, np.float64), color=colour, alpha=0.22, linewidth=0.8)
        ax.plot(x, smooth(values, window), color=colour, linestyle=_DASHES[i % len(_DASHES)], linewidth=1.7, label=name)
    ax.set_xlabel("training step")
    ax.set_ylabel("loss" + (f", mean of {window} points" if window > 1 else ""))
    if log:
        ax.set_yscale("log")
    elif terms:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    if terms:
        ax.legend(frameon=False, fontsize=9, ncols=min(4, len(terms)))
    return figure


def accuracy_bars(stages: Sequence[str], metrics: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """One panel per metric, one bar per stage; under each later bar its distance from the first in points.

    `metrics` maps a metric's name to fractions in the order of `stages`; NaN where a stage has none.
    """
    names = list(metrics)
    figure, axes = _figure(max(3.2, 2.9 * len(names)), 3.3, len(names))
    for ax, name in zip(axes, names, strict=True):
        points = 100 * np.asarray(metrics[name], np.float64)
        known = np.nan_to_num(points)
        ax.bar(range(len(stages)), known, width=0.68, color=[COLOURS[i % len(COLOURS)] for i in range(len(stages))])
        _label_bars(ax, points)
        ax.set_xticks(range(len(stages)), [s.replace("_", "-\n") for s in stages])
        ax.tick_params(axis="x", labelsize=8, length=0)
        ax.set_ylim(min(0.0, float(known.min()) * 1.15), max(100.0, float(known.max()) * 1.05))
        ax.set_title(name, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes[0].set_ylabel("score, percent")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _label_bars(ax: Axes, points: NDArray[np.float64]) -> None:
    for i, value in enumerate(points):
        if math.isnan(value):
            ax.annotate("none", (i, 0), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=_INK)
            continue
        delta = value - points[0]
        text = f"{value:.1f}" + ("" if i == 0 or math.isnan(delta) else f"\n{delta:+.2f}".replace("-", "−"))
        top = max(value, 0.0)
        ax.annotate(text, (i, top), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=_INK)
    ax.margins(y=0.2)


def latency_bars(median_ms: Mapping[str, float], *, title: str = "", emphasis: Sequence[str] = ()) -> Figure:
    """Horizontal bars of median latencies in milliseconds; the names in `emphasis` stand out."""
    figure, (ax,) = _figure(7.6, 0.7 + 0.38 * max(1, len(median_ms)))
    names, values = list(median_ms), np.asarray(list(median_ms.values()), np.float64)
    colours = [COLOURS[3] if name in emphasis else COLOURS[0] for name in names]
    ax.barh(range(len(names)), values, height=0.62, color=colours)
    for i, value in enumerate(values):
        ax.annotate(
            f"{value:.2f} ms", (value, i), (4, 0), textcoords="offset points", va="center", fontsize=9, color=_INK
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=_FAINT, linewidth=0.7)
    ax.set_xlim(0, 1.18 * float(values.max(initial=1e-3)))
    ax.set_xlabel("median latency, milliseconds")
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    return figure


def histogram(values: ArrayLike, *, label: str, bins: int | Sequence[float] = 20, title: str = "") -> Figure:
    """How often values fall in each bin; `label` names the quantity and its unit. Empty input gives empty axes."""
    figure, (ax,) = _figure(5.6, 3.0)
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if array.size:
        ax.hist(array, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.6)
    ax.set_xlabel(label)
    ax.set_ylabel("count")
    if title:
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    return figure


def read_columns(path: Path) -> dict[str, list[float]]:
    """Numeric columns of a CSV file with a header; empty cells are NaN, columns that are not numeric are left out."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns: dict[str, list[float]] = {}
    for name in rows[0] if rows else ():
        try:
            columns[name] = [float(row[name]) if row[name] else float("nan") for row in rows]
        except (TypeError, ValueError):
            continue
    return columns
