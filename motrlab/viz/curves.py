"""Curves and bars. Every function returns a `matplotlib.figure.Figure`; pyplot is never used.

pyplot keeps global state that is not safe in widget callbacks of ipykernel ≥ 7. Colours are those of Okabe and Ito,
which people with any common colour blindness can tell apart; lines differ in dash as well.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from numpy.typing import ArrayLike, NDArray

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A7A00")
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
INK, GREY, _FAINT = "#22272e", "#9aa1a9", "#d5d9de"
TERM_TITLES = {"l1": "L1", "giou": "GIoU"}  # kinds of loss that are not written as they are named


def panels(
    width: float, height: float, columns: int = 1, rows: int = 1, *, grid: Literal["x", "y", ""] = "y", **shares: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of that size in inches and its axes, row by row.

    `grid`: which axis has faint lines at its ticks. `shares`: `height_ratios` or `width_ratios`.
    """
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shares).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(colors=INK, labelsize=9, length=3)
        ax.set_axisbelow(True)
        if grid:
            ax.grid(axis=grid, color=_FAINT, linewidth=0.7)
    return figure, axes


def heading(ax: Axes, text: str) -> None:
    """What a panel shows, above it."""
    ax.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK)


def legend_above(ax: Axes, **options: Any) -> None:
    """The legend over a panel, where it hides nothing."""
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), **options)


def rows_downwards(ax: Axes, names: Sequence[str], label: str = "") -> None:
    """A row for each of `names`, the first at the top; what `label` says goes to the right."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)
    ax.set_xlabel(label)


def note(ax: Axes, text: str, place: tuple[float, float], distance_pt: tuple[float, float], **options: Any) -> None:
    """A few words beside a point of the data, `distance_pt` away from it."""
    options = {"fontsize": 8, "color": INK, **options}
    ax.annotate(text, place, distance_pt, textcoords="offset points", **options)


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
    figure, (ax,) = panels(7.6, 3.4)
    heading(ax, title)
    for i, (name, values) in enumerate(terms.items()):
        colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i % len(_DASHES)]
        if window > 1:
            ax.plot(step, values, color=colour, alpha=0.22, linewidth=0.8)
        label = TERM_TITLES.get(name, name)
        ax.plot(step, smooth(values, window), color=colour, linestyle=dash, linewidth=1.7, label=label)
    ax.set(xlabel="training step", ylabel="loss" + (f", mean of {window} points" if window > 1 else ""))
    if log:
        ax.set_yscale("log")
    elif terms:
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    if terms:
        ax.legend(frameon=False, fontsize=9, ncols=min(4, len(terms)))
    return figure


def loss_by_layer(terms: Mapping[str, ArrayLike]) -> Figure:
    """Bars of the loss of each decoder layer, its kinds one on the other.

    `terms`: the columns of a loss curve, such as `layer_2.giou`, of which the last tenth counts; or numbers as
    `ClipLoss.named()` names them, `frame_0.layer_2.giou` (frames are added up). Others are left out. Where no term is
    of a layer, as in the curves of an older motrlab, the picture says so.
    """
    sums: dict[str, dict[int, float]] = {}
    for name, value in terms.items():
        if found := re.fullmatch(r"(?:frame_\d+\.)?layer_(\d+)\.(\w+)", name):
            row = sums.setdefault(found[2], {})
            values = np.atleast_1d(np.asarray(value, np.float64))
            row[int(found[1])] = row.get(int(found[1]), 0.0) + float(values[-max(1, len(values) // 10) :].mean())
    layers = sorted({layer for row in sums.values() for layer in row})
    figure, (ax,) = panels(5.6, 3.4)
    heading(ax, "Loss of each decoder layer")
    if not layers:
        note(ax, "no loss by layer: this curve does not keep it", (0.5, 0.5), (0, 0), ha="center")
    below = np.zeros(len(layers))
    for (kind, row), colour in zip(sums.items(), itertools.cycle(COLOURS), strict=False):
        heights = np.array([row.get(layer, 0.0) for layer in layers])
        ax.bar(range(len(layers)), heights, bottom=below, color=colour, width=0.62, label=TERM_TITLES.get(kind, kind))
        below += heights
    for index, total in enumerate(below):
        note(ax, f"{total:.3g}", (index, total), (0, 3), ha="center")
    ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set(xlabel="decoder layer", ylabel="loss")
    if sums:
        ax.set_ylim(top=1.25 * ax.get_ylim()[1])
        ax.legend(frameon=False, fontsize=9, loc="upper center", ncols=len(sums))
    return figure


def accuracy_points(stages: Sequence[str], metrics: Mapping[str, Sequence[float]]) -> Figure:
    """One panel per metric, one point per stage with its value; beside each later one its distance from the first.

    `metrics` maps a metric's name to fractions in the order of `stages`; NaN where a stage has none. The axes, in
    percent, start at a round value below the least and span as much in all panels: differences can be seen.
    """
    points = {name: 100 * np.asarray(values, np.float64) for name, values in metrics.items()}
    figure, axes = panels(max(3.2, 2.9 * len(points)), 3.3, len(points))
    finite = {name: values[np.isfinite(values)] for name, values in points.items()}
    ends = {name: (float(v.min()), float(v.max())) if v.size else (0.0, 0.0) for name, v in finite.items()}
    reach = max(high - low for low, high in ends.values())
    step = next((size for size in (1, 2, 5, 10, 20) if reach <= 3 * size), 50)
    bottoms = {name: step * math.floor(low / step - 0.8) for name, (low, _) in ends.items()}
    span = step * max(math.ceil((ends[name][1] - bottom) / step + 0.8) for name, bottom in bottoms.items())
    for ax, (name, values) in zip(axes, points.items(), strict=True):
        ax.axhline(values[0], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.scatter(range(len(stages)), values, s=52, color=_of_each(stages), zorder=3)
        for i, (value, delta) in enumerate(zip(values, values - values[0], strict=True)):
            told = ["none" if math.isnan(value) else f"{value:.1f}"]
            told += [f"{delta:+.2f}".replace("-", "−")] if i > 0 and not math.isnan(delta) else []
            away, side = (-8, "top") if delta < 0 else (8, "bottom")
            place = i, bottoms[name] if math.isnan(value) else value
            note(ax, "\n".join(told), place, (0, away), ha="center", va=side)
        ax.set_xticks(range(len(stages)), [s.replace("-", "-\n").replace(", ", ",\n") for s in stages])
        ax.tick_params(axis="x", labelsize=8, length=0)
        ax.set(xlim=(-0.6, len(stages) - 0.4), ylim=(bottoms[name], bottoms[name] + span))
        ax.yaxis.set_major_locator(MultipleLocator(step))
        heading(ax, name)
    axes[0].set_ylabel("score, percent")
    return figure


def _of_each(names: Sequence[str]) -> list[str]:
    """A colour for each, in turn."""
    return list(itertools.islice(itertools.cycle(COLOURS), len(names)))


def latency_bars(median_ms: Mapping[str, float], *, emphasis: Sequence[str] = ()) -> Figure:
    """Horizontal bars of median latencies in milliseconds; the names in `emphasis` stand out."""
    figure, (ax,) = panels(7.6, 0.7 + 0.38 * max(1, len(median_ms)), grid="x")
    names, values = list(median_ms), np.asarray(list(median_ms.values()), np.float64)
    colours = [COLOURS[3] if name in emphasis else COLOURS[0] for name in names]
    ax.barh(range(len(names)), values, height=0.62, color=colours)
    for i, value in enumerate(values):
        note(ax, f"{value:.2f} ms", (value, i), (4, 0), va="center", fontsize=9)
    rows_downwards(ax, names, "median latency, milliseconds")
    ax.set_xlim(0, 1.18 * float(values.max(initial=1e-3)))
    return figure


def histogram(values: ArrayLike, *, label: str, bins: int | Sequence[float] = 20) -> Figure:
    """How often values fall in each bin; `label` names the quantity and its unit. Empty input gives empty axes."""
    figure, (ax,) = panels(5.6, 3.0)
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if array.size:
        ax.hist(array, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.6)
    ax.set(xlabel=label, ylabel="count")
    return figure


def read_columns(path: Path) -> dict[str, list[float]]:
    """Numeric columns of a CSV file with a header; empty cells are NaN, columns that are not numeric are left out."""
    table = np.genfromtxt(path, delimiter=",", names=True, ndmin=1, encoding="utf-8", deletechars="")
    return {name: table[name].tolist() for name in table.dtype.names or () if np.isfinite(table[name]).any()}
