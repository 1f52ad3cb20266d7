"""A tensor's values against the grids that it is put on, such as before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from motrlab.quantization.analysis.whatif import Grid
from motrlab.viz.curves import COLOURS, legend_above, panels

_BINS, _TOLD_APART = 160, 40


def grid_histogram(values: NDArray[np.float32], grids: Mapping[str, Grid], title: str = "") -> Figure:
    """How often values of each size occur, on a log scale, and the ends of some grids, such as before and after
    calibration: what lies outside is clipped. Of a coarse grid every value is marked. The legend gives each
    grid's step, range, clipped share and SQNR.
    """
    figure, (ax,) = panels(8.0, 3.6)
    draw_histogram(ax, values)
    reach = 1.25 * float(np.abs(values).max(initial=0)) or 1.0
    ax.set_xlim(-reach if values.min(initial=0) < 0 else -0.03 * reach, reach)
    for (name, grid), colour, dash in zip(grids.items(), COLOURS[1:], ("-", "--", ":"), strict=False):
        marked = grid.scale * np.arange(grid.low, grid.high + 1)
        marked = marked[np.abs(marked) <= reach]
        for index, place in enumerate(marked if len(marked) < _TOLD_APART else grid.reach):
            label = "" if index else f"{name}: {grid_words(grid, values)}"
            ax.axvline(place, color=colour, linestyle=dash, linewidth=1.6, label=label)
    ax.set_xlabel(f"value of {title}" if title else "value")
    legend_above(ax, ncols=1)
    return figure


def grid_words(grid: Grid | None, values: NDArray[np.float32]) -> str:
    """A grid's step, range, clipped share and SQNR, in words."""
    if grid is None:
        return "float"
    low, high = grid.reach
    share, db = 100 * grid.clipped_share(values), grid.sqnr_db(values)
    return f"step {grid.scale:.4g}, {low:.4g} to {high:.4g}, {share:.3g} % clipped, SQNR {db:.1f} dB"


def draw_histogram(ax: Axes, values: NDArray[np.float32]) -> None:
    """Bars of how often values occur, on a log scale."""
    ax.stairs(*np.histogram(values, _BINS), fill=True, color=COLOURS[0])
    ax.set(xlabel="value", ylabel="how often", yscale="log", ylim=(0.7, None))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter("{x:g}")
