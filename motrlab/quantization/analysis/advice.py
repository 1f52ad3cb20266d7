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
Finding = tuple[float, str]  # the lower the graver, and what to say of the tensor


def advice(rows: Sequence[LayerRow], limit: int = 8) -> list[str]:
    """At most `limit` sentences, the gravest of each kind first; empty where nothing stands out."""
    kinds = []
    for kind in (_disagreement, _saturation, _unused_range, _coarse_steps, _offset):
        found = [(*finding, row.name) for row in rows if (finding := kind(row))]
        kinds.append([f"{name}: {text}" for _, text, name in sorted(found, key=lambda f: f[0])])
    del kinds[0][1:]  # only the first in graph order: what follows inherits it
    return [text for turn in itertools.zip_longest(*kinds) for text in turn if text][:limit]


def _disagreement(row: LayerRow) -> Finding | None:
    """Both are the same integers."""
    if row.mismatch_share == 0:
        return None
    return 0, (
        f"fixed-point differs from fake-quant in {_percent(row.mismatch_share)} of the values, by up to "
        f"{row.largest_step} steps, first here: the artefact or the runtime computes something else, and all that "
        f"follows inherits it. Convert the run again."
    )


def _saturation(row: LayerRow) -> Finding | None:
    if not _saturates(row):
        return None
    scale = f"a rule's scale near {row.scale * row.range_used:.2g}{_sharing(row)} would reach it"
    otherwise = f"Observer {row.observer} chose to clip: where that costs accuracy, take min_max; {scale} too."
    wider = {
        "min_max": "Calibrate on more frames.",
        "moving_average": "Its range is a mean of frames' maxima: calibrate with observer min_max.",
        "ceiling": "That is its ReLU6: leave it.",
        "fixed": f"Its scale is fixed: {scale}.",
    }
    return row.own_sqnr_db, (
        f"saturates. {_percent(row.saturated_share)} of the values lie outside the grid and make "
        f"{_percent(row.clipped_error_share)} of its error; the largest is {row.range_used:.2f} times what the grid "
        f"reaches. {wider.get(row.observer, otherwise)}"
    )


def _unused_range(row: LayerRow) -> Finding | None:
    if not (0 < row.range_used < UNUSED_RANGE and row.own_sqnr_db < HARMLESS_SQNR_DB):
        return None
    narrower = f"A rule's scale near {row.scale * row.range_used:.2g} instead of {row.scale:.2g} would use them."
    if row.num_sharing > 1:
        narrower = f"{row.num_sharing} tensors share the grid, and another needs it: leave it, or continue with QAT."
    return row.range_used, (
        f"range used badly. The largest value is {row.range_used:.2f} of what the grid reaches, so "
        f"{-math.log2(row.range_used):.1f} bits are not used. {narrower}"
    )


def _coarse_steps(row: LayerRow) -> Finding | None:
    if not (row.own_sqnr_db < LOW_SQNR_DB and row.range_used >= UNUSED_RANGE and row.clipped_error_share <= 0.5):
        return None
    ways = []
    if row.observer in EXTREMES:
        ways.append(f"observer percentile or mse{_sharing(row)} would clip them")
    if row.equalisable:
        ways.append("calibration.equalise, if it is off, would level its channels")
    return row.own_sqnr_db, (
        f"steps too coarse. Rounding to this grid alone leaves {row.own_sqnr_db:.1f} dB although {row.range_used:.2f} "
        f"of its range is used: a few large values set the step. {'; '.join((*ways, 'QAT learns to live with it'))}."
    )


def _offset(row: LayerRow) -> Finding | None:
    """Not of clipping, which has its own advice."""
    if abs(row.offset_steps) <= OFFSET_STEPS or _saturates(row):
        return None
    level = "it has no bias to correct: more QAT steps take it back"
    if row.operator in PRODUCTS:
        level = "calibration.adaptive_rounding, if it is off, or more QAT steps take it back"
    return -abs(row.offset_steps), (
        f"offset. Fixed-point is {abs(row.offset_steps):.2f} steps too {'high' if row.offset_steps > 0 else 'low'} on "
        f"average, an error of one sign that sums up in the products behind it; {level}."
    )


def _saturates(row: LayerRow) -> bool:
    return row.saturated_share > SATURATED_SHARE and row.clipped_error_share > 0.5


def _sharing(row: LayerRow) -> str:
    return f" for all {row.num_sharing} tensors that share the grid" if row.num_sharing > 1 else ""


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
