"""Layer comparison: float ↔ fake-quant ↔ fixed-point, tensor by tensor, in NumPy.

Frames are added up as sums of squares, so memory stays flat. A step is the distance of two grid points (the scale).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import operator
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError
from motrlab.files import write_text

Float = NDArray[np.floating]
RowType = TypeVar("RowType")
Arrays = dict[str, NDArray[np.float32]]  # tensor → its values
Sums = dict[str, float]  # of one tensor over any number of frames; all add up but for the extremes
FORMS = ("weights", "activations", "all")  # what is quantised: the columns of `SplitRow`
_EXTREMES: dict[str, Callable[[float, float], float]] = {"largest_step": max, "lowest": min, "highest": max}


@dataclass(frozen=True)
class TapPoint:
    """A quantised activation and its grid: the multiples of `scale` from `quant_min` to `quant_max`.

    Rules know it by `path` and `operator`; `tensor` is the path, with `@1`, `@2` … where its module is called again.
    `observer` is where the range comes from: an observer, `fixed`, or `ceiling`, all that a ReLU6 lets through.
    """

    graph: str
    tensor: str
    path: str
    operator: str
    observer: str
    num_sharing: int  # tensors on this grid; its range is that of the widest
    equalisable: bool  # by `equalisation.py`
    num_values: int = field(default=0, kw_only=True)  # measured so far
    scale: float
    quant_min: int
    quant_max: int


@dataclass(frozen=True)
class QuantisedTensor:
    """One quantised activation or weight, or the grid of a function.

    `tensor` is the path of the module that makes it, as rules have it. `scale`, of weights the largest over the
    channels, is one step in real units. Tensors of one `group` share a grid.
    """

    graph: str  # base | qim; of a function: both
    tensor: str
    kind: str  # activation | weight | function
    operator: str
    bits: int
    lowest: int
    highest: int  # the grid's integers
    scale: float
    observer: str  # or `fixed`; of weights: per channel | per tensor
    rule: str
    group: int | None  # of an activation

    @property
    def reach(self) -> float:
        """What the largest integer stands for."""
        return self.highest * self.scale


@dataclass(frozen=True)
class SplitRow:
    """SQNR in dB against float of a tensor, or of an output (`operator` is `output`): infinite without any error."""

    graph: str
    tensor: str
    operator: str
    weights_db: float
    activations_db: float
    all_db: float


def measure(point: TapPoint, floating: Float, fake: Float, fixed: Float, *, before: Sums | None = None) -> Sums:
    """Compare the three values of one tensor, arrays of one size; added to `before`, the sums of earlier frames."""
    assert floating.size == fake.size == fixed.size > 0, (point.tensor, floating.shape, fake.shape, fixed.shape)
    x, a, b = (np.asarray(v, np.float64).ravel() for v in (floating, fake, fixed))
    levels = x / point.scale
    outside = (levels < point.quant_min - 0.5) | (levels > point.quant_max + 0.5)
    own = np.clip(np.rint(levels), point.quant_min, point.quant_max) * point.scale - x  # of this quantiser alone
    steps = np.rint(np.abs(a - b) / point.scale)
    error = b - x
    found: dict[str, Any] = {
        "num_values": x.size,
        "float_square": x @ x,
        "fake_square": a @ a,
        "fixed_square": b @ b,
        "fake_product": x @ a,
        "fixed_product": x @ b,
        "fake_error": (a - x) @ (a - x),
        "fixed_error": error @ error,
        "own_error": own @ own,
        "clipped_error": own[outside] @ own[outside],  # the part of it from values outside the grid
        "offset": error.sum(),
        "num_outside": outside.sum(),
        "num_mismatched": (steps > 0).sum(),
        "largest_step": steps.max(),
        "lowest": x.min(),
        "highest": x.max(),
    }
    for name, earlier in (before or {}).items():
        found[name] = _EXTREMES.get(name, operator.add)(earlier, found[name])
    return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class LayerRow(TapPoint):
    """What the comparison says of one tensor.

    Signal-to-quantisation-noise ratios are in dB against the float value: infinite without any error, NaN where that is
    0 throughout, as are cosines. `fake` and `fixed` hold all errors made so far in the graph, `own` this quantiser's.
    """

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


def layer_row(point: TapPoint, sums: Sums) -> LayerRow:
    """The row of a tensor from what was measured of it."""
    number, signal = int(sums["num_values"]), sums["float_square"]
    reach = [sums["highest"] / (point.quant_max * point.scale)]
    if point.quant_min:  # behind a ReLU nothing is below zero
        reach.append(sums["lowest"] / (point.quant_min * point.scale))
    return LayerRow(
        **{**vars(point), "num_values": number},
        fake_sqnr_db=sqnr_db(signal, sums["fake_error"]),
        fixed_sqnr_db=sqnr_db(signal, sums["fixed_error"]),
        own_sqnr_db=sqnr_db(signal, sums["own_error"]),
        fake_cosine=_ratio(sums["fake_product"], math.sqrt(signal * sums["fake_square"]), math.nan),
        fixed_cosine=_ratio(sums["fixed_product"], math.sqrt(signal * sums["fixed_square"]), math.nan),
        largest_step=int(sums["largest_step"]),
        mismatch_share=sums["num_mismatched"] / number,
        saturated_share=sums["num_outside"] / number,
        clipped_error_share=_ratio(sums["clipped_error"], sums["own_error"], 0.0),
        range_used=max(0.0, *reach),
        offset_steps=sums["offset"] / number / point.scale,
    )


@dataclass(frozen=True)
class FrameRow:
    """One frame of one stage in closed loop, against float: SQNR of the outputs in dB.

    Of all detect slots, and of the tracks that live on both sides, born in the same frame from the same detect slot.
    `shared_tracks_share`: of the tracks that live on either side, how many live on both (0 to 1; 1 if there are none).
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


def _ratio(a: float, b: float, otherwise: float) -> float:
    return a / b if b else otherwise


def worst(rows: Iterable[LayerRow], number: int = 10) -> list[LayerRow]:
    """The tensors of lowest fixed-point SQNR, worst first; those without a signal are left out."""
    known = [row for row in rows if not math.isnan(row.fixed_sqnr_db)]
    return sorted(known, key=lambda row: row.fixed_sqnr_db)[:number]


def summary(rows: Sequence[LayerRow]) -> dict[str, float]:
    """Flat metrics for a record: worst and median SQNR of each graph, agreement of fake-quant and fixed-point."""
    metrics: dict[str, float] = {"num_tensors": len(rows)}
    for graph in dict.fromkeys(row.graph for row in rows):
        own = [row for row in rows if row.graph == graph]
        for kind in ("fake_sqnr_db", "fixed_sqnr_db"):
            if found := [value for row in own if math.isfinite(value := getattr(row, kind))]:
                metrics |= {f"{graph}.worst_{kind}": min(found), f"{graph}.median_{kind}": statistics.median(found)}
        metrics[f"{graph}.largest_step"] = max(row.largest_step for row in own)
        for kind in ("mismatch_share", "saturated_share"):
            metrics[f"{graph}.worst_{kind}"] = max(getattr(row, kind) for row in own)
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
    readers: dict[Any, Any] = {"str": str, "int": int, "float": float, "bool": "True".__eq__}
    readers["int | None"] = lambda text: int(text) if text else None
    make: Any = kind
    columns = {f.name: readers[f.type] for f in dataclasses.fields(make)}
    with path.open(newline="", encoding="utf-8") as stream:
        try:
            return [make(**{n: read(line[n]) for n, read in columns.items()}) for line in csv.DictReader(stream)]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a table of this motrlab ({error}); compare the layers again") from error
