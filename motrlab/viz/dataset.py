"""Figures of a `DataSummary`: how much there is of each sequence, and how boxes and tracks are spread."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.data.summary import LABELS, DataSummary, bin_names
from motrlab.viz.curves import COLOURS

_INK = "#22272e"
_AMOUNTS = {"num_frames": "frames", "num_people": "people", "num_boxes": "boxes"}


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=_INK, labelsize=8, length=2)
        ax.set_axisbelow(True)
    return figure, axes


def _colours(summary: DataSummary) -> dict[str, str]:
    parts = dict.fromkeys(s.part for s in summary.sequences)
    return {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}


def amounts(summary: DataSummary) -> Figure:
    """Frames, people and boxes (flag 1, class 1) of every sequence, a bar for each of its parts."""
    names = list(dict.fromkeys(s.name for s in summary.sequences))
    colours = _colours(summary)
    figure, axes = _panels(1, len(_AMOUNTS), 9.6, 1.0 + 0.28 * len(names))
    for ax, (field, title) in zip(axes, _AMOUNTS.items(), strict=True):
        start = dict.fromkeys(names, 0)
        for part, colour in colours.items():
            for s in (s for s in summary.sequences if s.part == part):
                value = getattr(s, field)
                ax.barh(names.index(s.name), value, left=start[s.name], height=0.7, color=colour)
                start[s.name] += value
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [""] * len(names))
        ax.invert_yaxis()
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    for part, colour in colours.items():
        axes[0].barh(0, 0, color=colour, label=part)  # for the legend alone
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def distributions(summary: DataSummary) -> Figure:
    """Boxes by visibility and height, tracks by length, frames by people: the share of each part in percent.

    The numbers are those of `DataSummary.histogram`.
    """
    colours = _colours(summary)
    figure, axes = _panels(2, 2, 9.6, 5.6)
    for ax, (quantity, label) in zip(axes, LABELS.items(), strict=True):
        found = summary.histogram(quantity)
        width = 0.8 / max(1, len(found))
        for i, (part, counts) in enumerate(found.items()):
            total = max(1, sum(counts))
            where = [k + (i - (len(found) - 1) / 2) * width for k in range(len(counts))]
            ax.bar(
                where, [100 * c / total for c in counts], width, color=colours[part], label=f"{part} ({sum(counts)})"
            )
        bins = [name.replace(" and more", "+") for name in bin_names(quantity)]
        ax.set_xticks(range(len(bins)), bins, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_xlabel(label, fontsize=9)
        ax.set_ylabel("percent", fontsize=9)
        if found:
            ax.legend(frameon=False, fontsize=8)
        else:
            ax.text(0.5, 0.5, "not in this gt", transform=ax.transAxes, ha="center", fontsize=9, color=_INK)
    return figure
