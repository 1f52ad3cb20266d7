"""What the layer comparison suggests to do, each with its reason in numbers.

Only what can be done: converted tensors are int8, so a grid gets better by another range, by equalisation or by
training, not by more bits; and more frames help where an observer follows the extremes of those that it sees.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from motrlab.config.scheme import PRODUCTS
from motrlab.quantization.analysis.layers import LayerRow

# A full-range uniform signal has 48 dB on an int8 grid, a normal one that just fits about 40. Below 30 dB the rounding
# error is more than 3 % of the signal.
LOW_SQNR_DB = 30.0
HARMLESS_SQNR_DB = 40.0
SATURATED_SHARE = 1e-3
UNUSED_RANGE = 0.5  # half of the grid is one bit
OFFSET_STEPS = 0.25
EXTREMES = ("min_max", "moving_average")  # observers that follow the largest values; others choose what to clip


def advice(rows: Sequence[LayerRow], limit: int = 8) -> list[str]:
    """At most `limit` sentences, the gravest of each kind first; empty where nothing stands out."""
    kinds = (_disagreement(rows), _saturation(rows), _unused_range(rows), _coarse_steps(rows), _offset(rows))
    turns = itertools.zip_longest(*kinds)
    return [text for turn in turns for text in turn if text is not None][:limit]


def _disagreement(rows: Sequence[LayerRow]) -> list[str]:
    """Both are the same integers. Only the first in graph order: what follows inherits it."""
    for row in rows:
        if row.mismatch_share > 0:
            return [
                f"{row.name}: fixed-point differs from fake-quant in {_percent(row.mismatch_share)} of the values, by "
                f"up to {row.largest_step} steps, first here: the artefact or the runtime computes something else, and "
                f"all that follows inherits it. Convert the run again."
            ]
    return []


def _saturation(rows: Sequence[LayerRow]) -> list[str]:
    found = [r for r in rows if _saturates(r)]
    return [
        f"{r.name}: saturates. {_percent(r.saturated_share)} of the values lie outside the grid and make "
        f"{_percent(r.clipped_error_share)} of its error; the largest is {r.range_used:.2f} times what the grid "
        f"reaches. {_wider(r)}"
        for r in sorted(found, key=lambda r: r.own_sqnr_db)
    ]


def _wider(row: LayerRow) -> str:
    if row.observer == "min_max":
        return "Calibrate on more frames."
    if row.observer == "moving_average":
        return "Its range is a mean of frames' maxima: calibrate with observer min_max."
    if row.observer == "ceiling":
        return "That is its ReLU6: leave it."
    scale = f"a rule's scale near {row.scale * row.range_used:.2g} would reach it"
    if row.observer == "fixed":
        return f"Its scale is fixed: {scale}."
    return f"Observer {row.observer} chose to clip: where that costs accuracy, take min_max; {scale} too."


def _unused_range(rows: Sequence[LayerRow]) -> list[str]:
    found = [r for r in rows if 0 < r.range_used < UNUSED_RANGE and r.own_sqnr_db < HARMLESS_SQNR_DB]
    return [
        f"{r.name}: range used badly. The largest value is {r.range_used:.2f} of what the grid reaches, so "
        f"{-math.log2(r.range_used):.1f} bits lie idle. {_narrower(r)}"
        for r in sorted(found, key=lambda r: r.range_used)
    ]


def _narrower(row: LayerRow) -> str:
    if row.num_sharing > 1:
        return f"{row.num_sharing} tensors share the grid, and another needs it: leave it, or train on (QAT)."
    return f"A rule's scale near {row.scale * row.range_used:.2g} instead of {row.scale:.2g} would use them."


def _coarse_steps(rows: Sequence[LayerRow]) -> list[str]:
    found = [
        r for r in rows if r.own_sqnr_db < LOW_SQNR_DB and r.range_used >= UNUSED_RANGE and r.clipped_error_share <= 0.5
    ]
    return [
        f"{r.name}: steps too coarse. Rounding to this grid alone leaves {r.own_sqnr_db:.1f} dB although "
        f"{r.range_used:.2f} of its range is used: a few large values set the step. {_finer(r)}"
        for r in sorted(found, key=lambda r: r.own_sqnr_db)
    ]


def _finer(row: LayerRow) -> str:
    ways = []
    if row.observer in EXTREMES:
        shared = f" for all {row.num_sharing} tensors that share the grid" if row.num_sharing > 1 else ""
        ways.append(f"observer percentile or mse{shared} would clip them")
    if row.equalisable:
        ways.append("calibration.equalise, if it is off, would level its channels")
    return "; ".join((*ways, "QAT learns to live with it")) + "."


def _offset(rows: Sequence[LayerRow]) -> list[str]:
    """Not of clipping, which has its own advice."""
    found = [r for r in rows if abs(r.offset_steps) > OFFSET_STEPS and not _saturates(r)]
    return [
        f"{r.name}: offset. Fixed-point is {abs(r.offset_steps):.2f} steps too {_side(r)} on average, an error of one "
        f"sign that sums up in the products behind it; {_level(r)}."
        for r in sorted(found, key=lambda r: -abs(r.offset_steps))
    ]


def _level(row: LayerRow) -> str:
    if row.operator in PRODUCTS:
        return "calibration.adaptive_rounding, if it is off, or more QAT steps take it back"
    return "it has no bias to correct: more QAT steps take it back"


def _saturates(row: LayerRow) -> bool:
    return row.saturated_share > SATURATED_SHARE and row.clipped_error_share > 0.5


def _side(row: LayerRow) -> str:
    return "high" if row.offset_steps > 0 else "low"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
