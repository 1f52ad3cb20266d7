"""Pictures of the layer comparison: SQNR of every tensor, and of the outputs frame by frame."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from motrlab.quantization.analysis.layers import FrameRow, LayerRow, worst
from motrlab.quantization.analysis.sensitivity_tables import OUTPUTS
from motrlab.viz.curves import COLOURS, GREY, INK, heading, legend_above, note, panels, rows_downwards

_GRAPHS = {"base": ("base graph", COLOURS[0]), "qim": ("QIM", COLOURS[3])}
_STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "fake": ("fake-quant", {"marker": "o", "markerfacecolor": "none", "linestyle": (0, (5, 2))}),
    "fixed_point": ("fixed-point", {"marker": ".", "linestyle": "-"}),
}
FRAME_OUTPUTS = {f"{name}_db": words for name, words in OUTPUTS.items() if name != "qim"}  # columns of frames
_NUM_NAMED, _NAME_DB = 5, 3.2  # names in the picture, and the room of one
_TOP_DB = 60.0  # int8 at its best has 50; int16 would press all else together


def tensor_sqnr(rows: Sequence[LayerRow]) -> Figure:
    """SQNR of every tensor in graph order; the worst are named.

    Rings are fake-quant, dots fixed-point, short grey lines the rounding of that quantiser alone. What is
    better than 60 dB, or without any error, is at the upper edge; tensors without a signal are left out.
    """
    figure, (ax,) = panels(10.0, 4.0)
    finite = [v for r in rows for v in (r.fake_sqnr_db, r.fixed_sqnr_db, r.own_sqnr_db) if math.isfinite(v)]
    top = min(max(finite, default=_TOP_DB), _TOP_DB) + 3
    place = np.arange(len(rows))

    def heights(kind: str) -> np.ndarray:
        return np.minimum([getattr(row, f"{kind}_sqnr_db") for row in rows], top)

    colours = [_GRAPHS[row.graph][1] for row in rows]
    ax.scatter(place, heights("own"), marker="_", s=36, color=GREY, linewidths=1.6)
    ax.scatter(place, heights("fake"), s=42, facecolors="none", edgecolors=colours, linewidths=1.1)
    ax.scatter(place, heights("fixed"), s=9, color=colours)
    _name_worst(ax, rows)
    ax.set(xlabel="quantised activation, in graph order", ylabel="SQNR against float, dB")
    ax.set_ylim(min(0.0, min(finite, default=0.0) - _NAME_DB * (_NUM_NAMED + 1)), top + 2)
    ax.margins(x=0.02)
    graphs = [("s", *_GRAPHS[graph]) for graph in dict.fromkeys(row.graph for row in rows)]
    kinds = [("o", "fake-quant", INK), (".", "fixed-point", INK), ("_", "its own rounding alone", GREY)]
    handles = [Line2D([], [], marker=m, linestyle="", color=c, label=name) for m, name, c in (*graphs, *kinds)]
    handles[-3].set_fillstyle("none")
    legend_above(ax, handles=handles, ncols=len(handles))
    return figure


def _name_worst(ax: Axes, rows: Sequence[LayerRow]) -> None:
    """The names of the worst points, each lower than the one before, under all points, with a line to its own."""
    named = [(rows.index(row), row) for row in worst(rows, _NUM_NAMED) if math.isfinite(row.fixed_sqnr_db)]
    late = [place for place in named if 2 * place[0] > len(rows)]
    early = [place for place in named if place not in late]
    lowest = min((row.fixed_sqnr_db for _, row in named), default=0.0)
    # Names go from their point towards the middle; in this order no line crosses a name of its own half.
    places = [*sorted(early, key=lambda place: -place[0]), *sorted(late, key=lambda place: place[0])]
    for number, (index, row) in enumerate(places, 1):
        side, below = "left" if number <= len(early) else "right", lowest - _NAME_DB * number
        ax.plot([index, index], [below, row.fixed_sqnr_db], color=GREY, linewidth=0.7, zorder=0)
        note(ax, row.tensor, (index, below), (3 if side == "left" else -3, 0), ha=side, va="center")


def layers_by_error(rows: Sequence[LayerRow], most: int = 24) -> Figure:
    """The tensors of lowest fixed-point SQNR, worst first: bars, and a mark for the rounding of the tensor alone."""
    shown = worst(rows, most)
    figure, (ax,) = panels(8.0, 1.0 + 0.24 * max(1, len(shown)), grid="x")
    place, colours = range(len(shown)), [_GRAPHS[row.graph][1] for row in shown]
    ax.barh(place, [min(row.fixed_sqnr_db, _TOP_DB) for row in shown], height=0.66, color=colours)
    ax.plot(
        [min(row.own_sqnr_db, _TOP_DB) for row in shown],
        place,
        "|",
        color=INK,
        markersize=9,
        label="its own rounding alone",
    )
    cut = any(max(row.fixed_sqnr_db, row.own_sqnr_db) > _TOP_DB for row in shown)
    limit = f" (at most {_TOP_DB:.0f} shown)" if cut else ""
    rows_downwards(ax, [row.name for row in shown], f"SQNR against float with all errors so far, dB{limit}")
    ax.tick_params(axis="y", labelsize=7)
    if shown:
        legend_above(ax)
    return figure


def frame_sqnr(frames: Sequence[FrameRow]) -> Figure:
    """SQNR of class logits, boxes and embeddings over the frames: mean of the videos, a line for each stage."""
    figure, axes = panels(10.0, 3.2, len(FRAME_OUTPUTS))
    stages = list(dict.fromkeys(row.stage for row in frames))
    numbers = sorted({row.frame for row in frames})
    for ax, (name, output) in zip(axes, FRAME_OUTPUTS.items(), strict=True):
        for index, stage in enumerate(stages):
            label, style = _STAGES.get(stage, (stage, {"marker": ".", "linestyle": ":"}))
            heights = [mean_db(frames, stage, number, name) for number in numbers]
            ax.plot(numbers, heights, label=label, color=COLOURS[index], linewidth=1.6, **style)
        heading(ax, output)
        low, high = ax.get_ylim()
        ax.set(xlabel="frame", ylim=(min(0.0, low), 1.05 * high))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes[0].set_ylabel("SQNR against float, dB")
    if stages:
        axes[-1].legend(frameon=False, fontsize=9)
    return figure


def mean_db(frames: Sequence[FrameRow], stage: str, number: int, output: str) -> float:
    """Mean over the videos of `output` (such as `boxes_db`) of a stage at frame `number`; NaN where nothing differs."""
    found = [getattr(row, output) for row in frames if (row.stage, row.frame) == (stage, number)]
    finite = [value for value in found if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
