"""What a prepared data set holds: frames, people, how well they are seen, how large they are, how long they stay."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.data.motchallenge import Annotations, SequenceInfo

_HEADINGS = {
    "name": "sequence", "part": "part", "num_frames": "frames", "num_people": "people", "num_boxes": "boxes",
    "boxes_per_frame": "boxes/frame", "empty_frames": "empty", "fraction_below_03": "vis<.3",
    "fraction_below_07": "vis<.7", "median_height_px": "height px", "median_track_frames": "track frames",
    "boxes_outside": "outside", "boxes_ignored": "ignored",
}  # fmt: skip

# Histograms: what is counted, and the edges of the bins, each with its lower edge and without its upper one.
LABELS = {
    "visibility": "visible share of a box", "height_px": "height of a box, pixels",
    "track_frames": "frames with a box, per person", "people_per_frame": "people in a frame",
}  # fmt: skip
EDGES: dict[str, tuple[float, ...]] = {
    "visibility": (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),  # the last one with its upper edge: fully seen
    "height_px": (0, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, math.inf),
    "track_frames": (1, 5, 10, 20, 50, 100, 200, 500, math.inf),
    "people_per_frame": (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, math.inf),
}


_SUMS = ("num_frames", "num_people", "num_boxes", "empty_frames", "boxes_outside", "boxes_ignored")


@dataclass(frozen=True)
class SequenceSummary:
    """One sequence of one part (`train`, `test`, `unseen`); boxes are those with flag 1 and class 1.

    `values` go by the names of the table's columns. `fraction_below_03`, `_07`: share of boxes with a visibility below,
    None where the gt has no visibility. `boxes_outside` reach over the image's border; `boxes_ignored` have flag 0 or
    another class. Medians are None without boxes. `histograms`: counts by quantity (of `EDGES`); without visibility
    there is none of that.
    """

    name: str
    part: str
    values: dict[str, Any]
    histograms: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """`sequences` by part, then name; `left_out`: sequences without gt, usable for `track` only; `notes`: lines on
    what a user may not expect of the data.
    """

    sequences: tuple[SequenceSummary, ...]
    left_out: tuple[str, ...]
    data_hash: str
    notes: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, dict[str, float]]:
        """Per part: sequences, frames, people, boxes, and the shares of boxes of low visibility."""
        parts = dict.fromkeys(s.part for s in self.sequences)
        return {part: _total([s for s in self.sequences if s.part == part]) for part in parts}

    def metrics(self) -> dict[str, float]:
        """Flat, for a record: `train.num_frames`, `test.fraction_below_07`, ..."""
        return {f"{part}.{key}": value for part, total in self.totals.items() for key, value in total.items()}

    def histogram(self, quantity: str) -> dict[str, list[int]]:
        """Counts in the bins of `EDGES[quantity]`, by part; parts without that quantity are left out."""
        found: dict[str, Any] = {}
        for s in self.sequences:
            if quantity in s.histograms:
                found[s.part] = found.get(s.part, 0) + np.array(s.histograms[quantity])
        return {part: counts.tolist() for part, counts in found.items()}

    def histogram_table(self, quantity: str) -> str:
        """Aligned text: a row per bin, a column per part, from the first bin with something in it to the last."""
        found = self.histogram(quantity)
        bins: list[list[Any]] = [[name, *(c[i] for c in found.values())] for i, name in enumerate(bin_names(quantity))]
        filled = [i for i, row in enumerate(bins) if any(row[1:])] or [0]
        shown: list[list[Any]] = [[LABELS[quantity], *found], *bins[filled[0] : filled[-1] + 1]]
        return aligned([[str(cell) for cell in row] for row in shown], left=1)

    def table(self) -> str:
        """Aligned text: a row per sequence and part, then the totals, then what was left out."""
        rows: list[dict[str, Any]] = [{"name": s.name, "part": s.part, **s.values} for s in self.sequences]
        rows += [{"name": f"all {t['num_sequences']}", "part": part, **t} for part, t in self.totals.items()]
        cells = [[_cell(row.get(key)) for key in _HEADINGS] for row in rows]
        lines = [aligned([list(_HEADINGS.values()), *cells], left=2)]
        if self.left_out:
            lines.append(f"without gt, left out (usable for `track` only): {', '.join(self.left_out)}")
        return "\n".join([*lines, *self.notes])


def bin_names(quantity: str) -> list[str]:
    """`0.3-0.4`, `4-5` for whole numbers, `512 and more`: a name for each bin of `EDGES[quantity]`."""
    names = []
    for low, high in itertools.pairwise(EDGES[quantity]):
        last = high if quantity in ("visibility", "height_px") else high - 1
        shown = f"{low:g}" if last == low else f"{low:g}-{last:g}"
        names.append(f"{low:g} and more" if math.isinf(high) else shown)
    return names


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """The first `left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = ["<" if i < left else ">" for i in range(len(widths))]
    lines = ["  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, signs, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def summarise(part: str, info: SequenceInfo, annotations: Annotations) -> SequenceSummary:
    """Measure one sequence of one part."""
    people = annotations.counted(info.tracked)
    left, top, width, height = people.ltwh.T
    outside = (left < 0) | (top < 0) | (left + width > info.width) | (top + height > info.height)
    ids, lengths = np.unique(people.track_id, return_counts=True)
    counted: dict[str, NDArray[Any]] = {
        "height_px": height,
        "track_frames": lengths,
        "people_per_frame": np.bincount(people.frame, minlength=info.num_frames + 1)[1:],
    }
    if people.has_class:
        counted["visibility"] = people.visibility
    values = {
        "num_frames": info.num_frames,
        "num_people": len(ids),
        "num_boxes": len(people),
        "boxes_per_frame": len(people) / info.num_frames,
        "empty_frames": info.num_frames - len(np.unique(people.frame)),
        "fraction_below_03": _of(people.visibility < 0.3, np.mean) if people.has_class else None,
        "fraction_below_07": _of(people.visibility < 0.7, np.mean) if people.has_class else None,
        "median_height_px": _of(height, np.median),
        "median_track_frames": _of(lengths, np.median),
        "boxes_outside": int(outside.sum()),
        "boxes_ignored": len(annotations) - len(people),
    }
    histograms = {name: np.histogram(v, EDGES[name])[0].tolist() for name, v in counted.items()}
    return SequenceSummary(info.name, part, values, histograms)


def _of(values: NDArray[Any], measure: Callable[[NDArray[Any]], Any]) -> float | None:
    return float(measure(values)) if len(values) else None


def _total(sequences: list[SequenceSummary]) -> dict[str, float]:
    values = [s.values for s in sequences]
    result: dict[str, float] = {"num_sequences": len(values), **{key: sum(v[key] for v in values) for key in _SUMS}}
    result["boxes_per_frame"] = result["num_boxes"] / result["num_frames"]
    for key in ("fraction_below_03", "fraction_below_07"):
        known = [(v[key], v["num_boxes"]) for v in values if v[key] is not None]
        if known:
            shares, weights = zip(*known, strict=True)
            result[key] = float(np.average(shares, weights=weights))
    return result


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
