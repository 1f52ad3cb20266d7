"""Pictures of the sensitivity analysis and of the calibration sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.quantization.analysis.sensitivity_tables import (
    AS_CONFIGURED,
    OUTPUTS,
    GroupRow,
    PathPoint,
    SweepRow,
    pareto_front,
)
from motrlab.viz.curves import COLOURS, GREY, legend_above, note, panels, rows_downwards

_MAX_GROUPS = 24
_SCORES = (("MOTA", "mota", "o", COLOURS[2]), ("IDF1", "idf1", "D", COLOURS[3]))


def group_ranking(rows: Sequence[GroupRow]) -> Figure:
    """Bars of what each group costs, most noise first, at most 24 groups.

    Noise of the group alone and what goes when it alone is float, both in percent of all groups' noise; and MOTA and
    IDF1 of the group alone, where they were measured.
    """
    shown = list(rows)[:_MAX_GROUPS]
    figure, axes = panels(10.0, 1.2 + 0.27 * max(1, len(shown)), 1 + _scored(shown), grid="x")
    place = np.arange(len(shown))
    alone, removed = _percent(shown, "alone_noise_share"), 100 - _percent(shown, "rest_noise_share")
    axes[0].barh(place - 0.19, alone, height=0.36, color=COLOURS[0], label="int8 alone")
    axes[0].barh(place + 0.19, removed, height=0.36, color=COLOURS[1], label="taken away when it alone is float")
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    rows_downwards(axes[0], [row.group for row in shown], "output noise, percent of that of all groups")
    for ax in axes[1:]:
        _score_dots(ax, shown, "short clips, this group alone in int8, percent")
    for ax in axes if shown else ():
        legend_above(ax, ncols=2)
    return figure


def _percent(rows: Sequence[Any], column: str) -> np.ndarray:
    return 100 * np.array([getattr(row, column) for row in rows], np.float64)


def _scored(rows: Sequence[Any]) -> bool:
    return bool(np.isfinite(_percent(rows, "mota")).any())


def _score_dots(ax: Axes, rows: Sequence[GroupRow | SweepRow], label: str) -> None:
    """MOTA and IDF1 of each row, in a panel beside the one with the rows' names."""
    for score, name, marker, colour in _SCORES:
        ax.plot(_percent(rows, name), range(len(rows)), marker, color=colour, markersize=5, label=score)
    rows_downwards(ax, [""] * len(rows), label)


def pareto_plot(
    path: Sequence[PathPoint], rows: Sequence[GroupRow], max_float_share: float, reference: Mapping[str, float]
) -> Figure:
    """Output noise, and MOTA and IDF1 where measured, over the share of operations that are not int8.

    The line is the greedy path, its dots on the Pareto front are filled; small grey dots are single groups of `rows` in
    float. `reference`: `mota` and `idf1` of float on the same clips, dashed; empty if they were not measured.
    """
    figure, (ax, *others) = panels(10.0, 3.8, 1 + _scored(path))
    shares, noise = _percent(path, "float_share"), _percent(path, "noise_share")
    costs, left = _percent(rows, "macs_share"), _percent(rows, "rest_noise_share")
    ax.scatter(shares[0] + costs, left, s=14, color=GREY, label="one group in float")
    ax.plot(shares, noise, color=COLOURS[0], linewidth=1.5, label="greedy path")
    front = pareto_front([(point.float_share, point.noise_share) for point in path])
    faces = [COLOURS[0] if i in front else "white" for i in range(len(path))]
    ax.scatter(shares, noise, s=36, color=faces, edgecolors=COLOURS[0], zorder=3)
    _name_rounds(ax, path, shares, noise)
    ax.set_ylabel("output noise, percent of all-int8")
    ax.set_ylim(bottom=0, top=max([105.0, *noise, *left]) + 3)
    for scores in others:
        _score_lines(scores, path, shares, reference)
    for each in (ax, *others):
        each.set_xlabel("multiply-accumulates not in int8, percent")
        each.margins(x=0.06)
        each.axvline(100 * max_float_share, color=GREY, linewidth=1, linestyle=(0, (1, 1)), label="limit")
        legend_above(each, ncols=4)
    return figure


def _name_rounds(ax: Axes, path: Sequence[PathPoint], shares: np.ndarray, noise: np.ndarray) -> None:
    """The group raised, beside its point, where that is not on top of another name."""
    height = max(1.0, float(noise.max(initial=1.0)))
    last = math.inf
    for point, x, y in zip(path, shares, noise, strict=True):
        if abs(last - y) >= 0.05 * height:
            last = y
            note(ax, f"+ {point.raised}" if point.raised else "all int8", (x, y), (7, 4))


def _score_lines(ax: Axes, path: Sequence[PathPoint], shares: np.ndarray, reference: Mapping[str, float]) -> None:
    for label, name, marker, colour in _SCORES:
        values = _percent(path, name)
        known = np.isfinite(values)
        ax.plot(shares[known], values[known], color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
        if reference:
            ax.axhline(100 * reference[name], color=colour, linewidth=1, linestyle=(0, (5, 2)))
    ax.set_ylabel("short clips, percent (dashed: float)" if reference else "short clips, percent")


def calibration_bars(rows: Sequence[SweepRow]) -> Figure:
    """SQNR of each output, share of saturated values, and MOTA and IDF1, for each way to calibrate."""
    figure, axes = panels(11.0, 1.3 + 0.3 * max(1, len(rows)), 2 + _scored(rows))
    place = np.arange(len(rows))
    for (output, words), marker, colour in zip(OUTPUTS.items(), "osD^", COLOURS, strict=False):
        values = np.array([getattr(row, f"{output}_db") for row in rows], np.float64)
        values[~np.isfinite(values)] = np.nan
        axes[0].plot(values, place, marker, color=colour, markersize=5, label=words)
    rows_downwards(axes[0], [_name(row) for row in rows], "SQNR against float, dB")
    axes[1].barh(place, _percent(rows, "saturated_share"), height=0.6, color=COLOURS[5])
    rows_downwards(axes[1], [""] * len(rows), "saturated values, percent")
    for ax in axes[2:]:
        _score_dots(ax, rows, "short clips, percent")
    for ax in axes[::2]:
        legend_above(ax, ncols=4, handletextpad=0)
    return figure


def _name(row: SweepRow) -> str:
    text = row.variant.replace("_", " ")
    return f"{text} (now)" if row.variant == AS_CONFIGURED else text
