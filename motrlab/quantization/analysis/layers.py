"""Layer comparison: float ↔ fake-quant ↔ fixed-point, tensor by tensor.

Pure numerics on NumPy arrays. Frames are added up as sums of squares, so memory stays flat. `x` is a tensor's float
value, a step is the distance of two neighbouring grid points (the scale).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError
from motrlab.files import write_text

Float = NDArray[np.floating]
RowType = TypeVar("RowType")
Arrays = dict[str, NDArray[np.float32]]  # tensor → its values


@dataclass(frozen=True)
class TapPoint:
    """A quantised activation and its grid: the multiples of `scale` from `quant_min` to `quant_max`.

    `path` and `operator` are what rules know it by. `tensor` is the path, with `@1`, `@2` … where its module is called
    again. `observer` is where the range comes from: an observer, `fixed`, or `ceiling` where a grid reaches all that a
    ReLU6 lets through.
    """

    graph: str
    tensor: str
    path: str
    operator: str
    observer: str
    num_sharing: int  # tensors on this grid; its range is that of the widest
    equalisable: bool  # by `equalisation.py`
    scale: float
    quant_min: int
    quant_max: int


@dataclass(frozen=True)
class TensorSums:
    """One tensor over any number of frames. Sums add up, `largest_step`, `lowest` and `highest` are extremes."""

    num_values: int
    float_square: float  # Σ x²
    fake_square: float
    fixed_square: float
    fake_product: float  # Σ x · fake
    fixed_product: float
    fake_error: float  # Σ (fake − x)²
    fixed_error: float
    own_error: float  # Σ (x on the grid − x)²: of this quantiser alone
    clipped_error: float  # the part of it from values outside the grid
    offset: float  # Σ (fixed − x)
    num_outside: int
    num_mismatched: int
    largest_step: int
    lowest: float
    highest: float

    def __add__(self, other: TensorSums) -> TensorSums:
        extremes: dict[str, Any] = {
            "largest_step": max(self.largest_step, other.largest_step),
            "lowest": min(self.lowest, other.lowest),
            "highest": max(self.highest, other.highest),
        }
        names = [f.name for f in dataclasses.fields(self) if f.name not in extremes]
        return TensorSums(**{n: getattr(self, n) + getattr(other, n) for n in names}, **extremes)


def measure(point: TapPoint, floating: Float, fake: Float, fixed: Float) -> TensorSums:
    """Compare the three values of one tensor; arrays of one size, shapes may differ by dimensions of size 1."""
    assert floating.size == fake.size == fixed.size > 0, (point.tensor, floating.shape, fake.shape, fixed.shape)
    x, a, b = (np.asarray(v, np.float64).ravel() for v in (floating, fake, fixed))
    levels = x / point.scale
    outside = (levels < point.quant_min - 0.5) | (levels > point.quant_max + 0.5)
    own = np.clip(np.rint(levels), point.quant_min, point.quant_max) * point.scale - x
    steps = np.rint(np.abs(a - b) / point.scale)
    error = b - x
    return TensorSums(
        num_values=x.size,
        float_square=float(x @ x),
        fake_square=float(a @ a),
        fixed_square=float(b @ b),
        fake_product=float(x @ a),
        fixed_product=float(x @ b),
        fake_error=float((a - x) @ (a - x)),
        fixed_error=float(error @ error),
        own_error=float(own @ own),
        clipped_error=float(own[outside] @ own[outside]),
        offset=float(error.sum()),
        num_outside=int(outside.sum()),
        num_mismatched=int((steps > 0).sum()),
        largest_step=int(steps.max()),
        lowest=float(x.min()),
        highest=float(x.max()),
    )


@dataclass(frozen=True)
class LayerRow:
    """What the comparison says of one tensor.

    Signal-to-quantisation-noise ratios are in dB against the float value: infinite without any error, NaN where the
    float value is 0 throughout. `fake` and `fixed` hold all errors made so far in the graph, `own` the rounding of this
    one quantiser. Cosines are NaN where a side is 0 throughout.
    """

    graph: str
    tensor: str
    path: str
    operator: str
    observer: str
    num_sharing: int
    equalisable: bool
    num_values: int
    scale: float
    quant_min: int
    quant_max: int
    fake_sqnr_db: float
    fixed_sqnr_db: float
    own_sqnr_db: float
    fake_cosine: float
    fixed_cosine: float
    largest_step: int  # largest |fake − fixed|, in steps
    mismatch_share: float  # of the values, how many differ between fake and fixed (0 to 1)
    saturated_share: float  # of the float values, how many lie outside the grid and are clipped (0 to 1)
    clipped_error_share: float  # of the quantiser's own squared error, how much is clipping (0 to 1)
    range_used: float  # largest float magnitude / what the grid reaches on that side; over 1: clipped
    offset_steps: float  # mean of fixed − float, in steps

    @property
    def name(self) -> str:
        """Such as `base decoder.0.norm1 (norm)`."""
        return f"{self.graph} {self.tensor} ({self.operator})"


def layer_row(point: TapPoint, sums: TensorSums) -> LayerRow:
    """The row of a tensor from what was measured of it."""
    reach = [sums.highest / (point.quant_max * point.scale)]
    if point.quant_min:  # behind a ReLU nothing is below zero
        reach.append(sums.lowest / (point.quant_min * point.scale))
    return LayerRow(
        **dataclasses.asdict(point),
        num_values=sums.num_values,
        fake_sqnr_db=sqnr_db(sums.float_square, sums.fake_error),
        fixed_sqnr_db=sqnr_db(sums.float_square, sums.fixed_error),
        own_sqnr_db=sqnr_db(sums.float_square, sums.own_error),
        fake_cosine=_ratio(sums.fake_product, math.sqrt(sums.float_square * sums.fake_square)),
        fixed_cosine=_ratio(sums.fixed_product, math.sqrt(sums.float_square * sums.fixed_square)),
        largest_step=sums.largest_step,
        mismatch_share=sums.num_mismatched / sums.num_values,
        saturated_share=sums.num_outside / sums.num_values,
        clipped_error_share=sums.clipped_error / sums.own_error if sums.own_error else 0.0,
        range_used=max(0.0, *reach),
        offset_steps=sums.offset / sums.num_values / point.scale,
    )


@dataclass(frozen=True)
class FrameRow:
    """One frame of one stage in closed loop, against float: SQNR of the outputs in dB.

    Of the slots that mean the same on both sides: all detect slots, and the tracks that live on both, whatever slot
    each has. A track is the same if it was born in the same frame from the same detect slot. `shared_tracks_share`: of
    the tracks that live on either side, how many live on both (0 to 1; 1 where there are none).
    """

    video: str
    frame: int
    stage: str
    class_logits_db: float
    boxes_db: float
    embedding_db: float
    shared_tracks_share: float


def sqnr_db(signal: float, error: float) -> float:
    """10 log10(signal / error) of sums of squares; infinite without error, NaN without signal."""
    if signal == 0:
        return math.nan
    return 10 * math.log10(signal / error) if error else math.inf


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def worst(rows: Iterable[LayerRow], number: int = 10) -> list[LayerRow]:
    """The tensors of lowest fixed-point SQNR, worst first; those without a signal are left out."""
    known = [row for row in rows if not math.isnan(row.fixed_sqnr_db)]
    return sorted(known, key=lambda row: row.fixed_sqnr_db)[:number]


def summary(rows: Sequence[LayerRow]) -> dict[str, float]:
    """Flat metrics for a record: worst and median SQNR of each graph, agreement of fake-quant and fixed-point."""
    metrics: dict[str, float] = {"num_tensors": len(rows)}
    for graph in dict.fromkeys(row.graph for row in rows):
        own = [row for row in rows if row.graph == graph]
        for kind in ("fake", "fixed"):
            found = np.array([getattr(row, f"{kind}_sqnr_db") for row in own])
            found = found[np.isfinite(found)]
            if found.size:
                metrics[f"{graph}.worst_{kind}_sqnr_db"] = float(found.min())
                metrics[f"{graph}.median_{kind}_sqnr_db"] = float(np.median(found))
        metrics[f"{graph}.largest_step"] = max(row.largest_step for row in own)
        metrics[f"{graph}.worst_mismatch_share"] = max(row.mismatch_share for row in own)
        metrics[f"{graph}.worst_saturated_share"] = max(row.saturated_share for row in own)
        rounded = [row.range_used for row in own if math.isfinite(row.own_sqnr_db)]  # exact ones need no range
        if rounded:
            metrics[f"{graph}.least_range_used"] = min(rounded)
    return metrics


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """Any frozen dataclasses of numbers and text, one a line under a header of their fields."""
    assert rows, "no rows"
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(rows[0])], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    write_text(path, stream.getvalue())


def read_rows(path: Path) -> list[LayerRow]:
    """The inverse of `write_csv` for layer rows. Raises UserError on a file of other columns."""
    return read_table(path, LayerRow)


def read_table(path: Path, kind: type[RowType]) -> list[RowType]:
    """The inverse of `write_csv` for rows of one `kind`. Raises UserError on a file of other columns."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [_parsed(kind, line, path) for line in csv.DictReader(stream)]


def _parsed(kind: type[Any], line: Mapping[str, str], path: Path) -> Any:
    readers: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": "True".__eq__}
    try:
        return kind(**{f.name: readers[str(f.type)](line[f.name]) for f in dataclasses.fields(kind)})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a table of this motrlab ({error}); compare the layers again") from error
