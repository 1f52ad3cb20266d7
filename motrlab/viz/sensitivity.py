"""Pictures of the sensitivity analysis and of the calibration sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
_OUTPUT_NAMES = {"class_logits": "class logits", "boxes": "boxes", "embedding": "embedding", "qim": "QIM"}


def group_ranking(rows: Sequence[GroupRow]) -> Figure:
    """Bars of what each group costs, most noise first, at most 24 groups.

    Noise of the group alone and what goes when it alone is float, both in percent of all groups' noise; and MOTA and
    IDF1 of the group alone, where they were measured.
    """
    shown = list(rows)[:_MAX_GROUPS]
    scored = _scored(shown)
    figure, axes = panels(10.0, 1.2 + 0.27 * max(1, len(shown)), 1 + scored, grid="x")
    place = np.arange(len(shown))
    alone = 100 * np.array([row.alone_noise_share for row in shown])
    removed = 100 * np.array([1 - row.rest_noise_share for row in shown])
    axes[0].barh(place - 0.19, alone, height=0.36, color=COLOURS[0], label="int8 alone")
    axes[0].barh(place + 0.19, removed, height=0.36, color=COLOURS[1], label="taken away when it alone is float")
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    rows_downwards(axes[0], [row.group for row in shown], "output noise, percent of that of all groups")
    if scored:
        _score_dots(axes[1], shown, "short clips, this group alone in int8, percent")
    for ax in axes if shown else ():
        legend_above(ax, ncols=2)
    return figure


def _scored(rows: Sequence[GroupRow | PathPoint | SweepRow]) -> bool:
    return any(not math.isnan(row.mota) for row in rows)


def _score_dots(ax: Axes, rows: Sequence[GroupRow | SweepRow], label: str) -> None:
    """MOTA and IDF1 of each row, in a panel that stands beside the one with the rows' names."""
    for score, name, marker, colour in _SCORES:
        values = [100 * getattr(row, name) for row in rows]
        ax.plot(values, range(len(rows)), marker, color=colour, markersize=5, label=score)
    rows_downwards(ax, [""] * len(rows), label)


def pareto_plot(
    path: Sequence[PathPoint],
    rows: Sequence[GroupRow] = (),
    *,
    max_float_share: float | None = None,
    reference: tuple[float, float] | None = None,
) -> Figure:
    """Output noise, and MOTA and IDF1 where measured, over the share of operations that are not int8.

    The line is the greedy path, its dots on the Pareto front are filled; small grey dots are single groups of `rows` in
    float. `reference`: MOTA and IDF1 of float on the same clips, dashed.
    """
    scored = _scored(path)
    figure, axes = panels(10.0, 3.8, 1 + scored)
    shares = 100 * np.array([point.float_share for point in path])
    noise = 100 * np.array([point.noise_share for point in path])
    ax = axes[0]
    if rows:
        start = shares[0] if len(path) else 0.0
        costs, left = [start + 100 * r.macs_share for r in rows], [100 * r.rest_noise_share for r in rows]
        ax.scatter(costs, left, s=14, color=GREY, label="one group in float")
    ax.plot(shares, noise, color=COLOURS[0], linewidth=1.5, label="greedy path")
    front = pareto_front([(point.float_share, point.noise_share) for point in path])
    faces = [COLOURS[0] if i in front else "white" for i in range(len(path))]
    ax.scatter(shares, noise, s=36, color=faces, edgecolors=COLOURS[0], zorder=3)
    _name_rounds(ax, path, shares, noise)
    ax.set_ylabel("output noise, percent of all-int8")
    ax.set_ylim(bottom=0, top=max([105.0, *noise, *(100 * row.rest_noise_share for row in rows)]) + 3)
    if scored:
        _score_lines(axes[1], path, shares, reference)
    for ax in axes:
        ax.set_xlabel("multiply-accumulates not in int8, percent")
        ax.margins(x=0.06)
        if max_float_share is not None:
            ax.axvline(100 * max_float_share, color=GREY, linewidth=1, linestyle=(0, (1, 1)), label="limit")
        legend_above(ax, ncols=4)
    return figure


def _name_rounds(ax: Axes, path: Sequence[PathPoint], shares: np.ndarray, noise: np.ndarray) -> None:
    """The group raised, beside its point, where that is not on top of another name."""
    height = max(1.0, float(noise.max(initial=1.0)))
    last = math.inf
    for point, x, y in zip(path, shares, noise, strict=True):
        if abs(last - y) < 0.05 * height:
            continue
        last = y
        text = f"+ {point.raised}" if point.raised else "all int8"
        note(ax, text, (x, y), (7, 4))


def _score_lines(
    ax: Axes, path: Sequence[PathPoint], shares: np.ndarray, reference: tuple[float, float] | None
) -> None:
    for index, (label, name, marker, colour) in enumerate(_SCORES):
        values = 100 * np.array([getattr(point, name) for point in path])
        known = np.isfinite(values)
        ax.plot(shares[known], values[known], color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
        if reference is not None:
            ax.axhline(100 * reference[index], color=colour, linewidth=1, linestyle=(0, (5, 2)))
    ax.set_ylabel("short clips, percent (dashed: float)" if reference else "short clips, percent")


def calibration_bars(rows: Sequence[SweepRow]) -> Figure:
    """SQNR of each output, share of saturated values, and MOTA and IDF1, for each way to calibrate."""
    scored = _scored(rows)
    figure, axes = panels(11.0, 1.3 + 0.3 * max(1, len(rows)), 2 + scored)
    place = np.arange(len(rows))
    for output, marker, colour in zip(OUTPUTS, "osD^", COLOURS, strict=False):
        values = np.array([getattr(row, f"{output}_db") for row in rows], np.float64)
        values[~np.isfinite(values)] = np.nan
        axes[0].plot(values, place, marker, color=colour, markersize=5, label=_OUTPUT_NAMES[output])
    rows_downwards(axes[0], [_name(row) for row in rows], "SQNR against float, dB")
    axes[1].barh(place, [100 * row.saturated_share for row in rows], height=0.6, color=COLOURS[5])
    rows_downwards(axes[1], [""] * len(rows), "saturated values, percent")
    if scored:
        _score_dots(axes[2], rows, "short clips, percent")
    for ax in axes[::2]:
        legend_above(ax, ncols=4, handletextpad=0)
    return figure


def _name(row: SweepRow) -> str:
    text = row.variant.replace("_", " ")
    return f"{text} (now)" if row.variant == AS_CONFIGURED else text
