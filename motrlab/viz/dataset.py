"""Figures of a `DataSummary`: how much there is of each sequence, and how boxes and tracks are spread."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from motrlab.data.summary import LABELS, DataSummary, bin_names
from motrlab.viz.curves import COLOURS, INK, heading, panels, rows_downwards

_AMOUNTS = {"num_frames": "frames", "num_people": "people", "num_boxes": "boxes"}


def _colours(summary: DataSummary) -> dict[str, str]:
    parts = dict.fromkeys(s.part for s in summary.sequences)
    return {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}


def amounts(summary: DataSummary) -> Figure:
    """Frames, people and boxes (flag 1, class 1) of every sequence, a bar for each of its parts."""
    names = list(dict.fromkeys(s.name for s in summary.sequences))
    colours = _colours(summary)
    figure, axes = panels(9.6, 1.0 + 0.28 * len(names), len(_AMOUNTS), grid="")
    for ax, (field, title) in zip(axes, _AMOUNTS.items(), strict=True):
        start = dict.fromkeys(names, 0)
        for part, colour in colours.items():
            for s in (s for s in summary.sequences if s.part == part):
                value = s.values[field]
                ax.barh(names.index(s.name), value, left=start[s.name], height=0.7, color=colour)
                start[s.name] += value
        rows_downwards(ax, names if ax is axes[0] else [""] * len(names))
        heading(ax, title)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    for part, colour in colours.items():
        axes[0].barh(0, 0, color=colour, label=part)  # for the legend alone
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def distributions(summary: DataSummary) -> Figure:
    """Boxes by visibility and height, tracks by length, frames by people: the share of each part in percent.

    The numbers are those of `DataSummary.histogram`, from the first bin with something in it to the last.
    """
    colours = _colours(summary)
    figure, axes = panels(9.6, 5.6, 2, 2, grid="")
    for ax, (quantity, label) in zip(axes, LABELS.items(), strict=True):
        found = summary.histogram(quantity)
        filled = [k for k, counts in enumerate(zip(*found.values(), strict=True)) if any(counts)] or [0]
        bins = [name.replace(" and more", "+") for name in bin_names(quantity)][filled[0] : filled[-1] + 1]
        width = 0.8 / max(1, len(found))
        for i, (part, counts) in enumerate(found.items()):
            total = max(1, sum(counts))
            where = [k + (i - (len(found) - 1) / 2) * width for k in range(len(bins))]
            shares = [100 * c / total for c in counts[filled[0] : filled[-1] + 1]]
            ax.bar(where, shares, width, color=colours[part], label=f"{part} ({sum(counts)})")
        ax.set_xticks(range(len(bins)), bins, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_xlabel(label, fontsize=9)
        ax.set_ylabel("percent", fontsize=9)
        if found:
            ax.legend(frameon=False, fontsize=8)
        else:
            ax.text(0.5, 0.5, "not in this gt", transform=ax.transAxes, ha="center", fontsize=9, color=INK)
    return figure
