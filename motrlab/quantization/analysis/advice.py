"""What the layer comparison suggests to do, each with its reason in numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from motrlab.quantization.analysis.layers import LayerRow

# A full-range uniform signal has 48 dB on an int8 grid, a normal one that just fits about 40. Below 30 dB the rounding
# error is more than 3 % of the signal.
LOW_SQNR_DB = 30.0
HARMLESS_SQNR_DB = 40.0
SATURATED_SHARE = 1e-3
UNUSED_RANGE = 0.5  # half of the grid is one bit
OFFSET_STEPS = 0.25
DISAGREEMENT = 0.5  # share of values; rounding ties that spread stay far below (tests/deploy/test_taps.py)


def advice(rows: Sequence[LayerRow], limit: int = 8) -> list[str]:
    """At most `limit` sentences, the gravest of each kind first; empty where nothing stands out."""
    kinds = (_disagreement(rows), _saturation(rows), _unused_range(rows), _int16(rows), _offset(rows))
    turns = itertools.zip_longest(*kinds)
    return [text for turn in turns for text in turn if text is not None][:limit]


def _disagreement(rows: Sequence[LayerRow]) -> list[str]:
    """Only the first in graph order: what follows inherits it. On an int16 grid the last bit differs anyway."""
    for row in rows:
        if row.mismatch_share > DISAGREEMENT and not _is_int16(row):
            return [
                f"{row.name}: fixed-point differs from fake-quant in {_percent(row.mismatch_share)} of the values, by "
                f"up to {row.largest_step} steps, first here: the artefact or the runtime computes something else, and "
                f"all that follows inherits it."
            ]
    return []


def _saturation(rows: Sequence[LayerRow]) -> list[str]:
    found = [r for r in rows if _saturates(r)]
    return [
        f"{r.name}: saturates. {_percent(r.saturated_share)} of the values lie outside the grid and make "
        f"{_percent(r.clipped_error_share)} of its error; the largest is {r.range_used:.2f} times what the grid "
        f"reaches. Calibrate on more frames or with observer min_max."
        for r in sorted(found, key=lambda r: r.own_sqnr_db)
    ]


def _unused_range(rows: Sequence[LayerRow]) -> list[str]:
    found = [r for r in rows if 0 < r.range_used < UNUSED_RANGE and r.own_sqnr_db < HARMLESS_SQNR_DB]
    return [
        f"{r.name}: range used badly. The largest value is {r.range_used:.2f} of what the grid reaches, so "
        f"{-math.log2(r.range_used):.1f} bits lie idle; a scale near {r.scale * r.range_used:.2g} instead of "
        f"{r.scale:.2g} would use them."
        for r in sorted(found, key=lambda r: r.range_used)
    ]


def _int16(rows: Sequence[LayerRow]) -> list[str]:
    found = [
        r
        for r in rows
        if r.own_sqnr_db < LOW_SQNR_DB
        and r.range_used >= UNUSED_RANGE
        and r.clipped_error_share <= 0.5
        and not _is_int16(r)
    ]
    return [
        f"{r.name}: int16 would help. Rounding to this grid alone leaves {r.own_sqnr_db:.1f} dB although "
        f"{r.range_used:.2f} of its range is used: a few large values set the step. A rule may give int16 to "
        f"what no product reads; leave a product in float."
        for r in sorted(found, key=lambda r: r.own_sqnr_db)
    ]


def _offset(rows: Sequence[LayerRow]) -> list[str]:
    """Not of clipping, which has its own advice. On an int16 grid even a small inherited error is many steps."""
    found = [r for r in rows if abs(r.offset_steps) > OFFSET_STEPS and not _saturates(r) and not _is_int16(r)]
    return [
        f"{r.name}: offset. Fixed-point is {abs(r.offset_steps):.2f} steps too {_side(r)} on average, an error of one "
        f"sign that sums up in the products behind it; bias correction or more QAT steps take it back."
        for r in sorted(found, key=lambda r: -abs(r.offset_steps))
    ]


def _saturates(row: LayerRow) -> bool:
    return row.saturated_share > SATURATED_SHARE and row.clipped_error_share > 0.5


def _is_int16(row: LayerRow) -> bool:
    return row.quant_max >= 2**15 - 1


def _side(row: LayerRow) -> str:
    return "high" if row.offset_steps > 0 else "low"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
