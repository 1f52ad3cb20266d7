"""The layer comparison's assets → its table, pictures and advice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motrlab.quantization.analysis.advice import advice
from motrlab.quantization.analysis.layers import LayerRow, read_rows, worst
from motrlab.report.pictures import Picture
from motrlab.report.tables import Cell, Record, Row, Table, last

_COLUMNS = (
    "fake-quant, dB", "fixed-point, dB", "own, dB", "cosine", "largest step", "mismatched", "saturated", "range used",
    "offset, steps",
)  # fmt: skip


@dataclass(frozen=True)
class LayersSection:
    """What a report shows of the comparison; `missing` names assets that are gone."""

    table: Table | None
    pictures: Sequence[Picture]
    advice: Sequence[str]
    missing: Sequence[str]


def layers_section(records: Sequence[Record], run_folder: Path) -> LayersSection | None:
    """None where no layers have been compared."""
    record = last(records, "fixed_point", "layers")
    if record is None:
        return None
    files = {Path(name).name: run_folder / name for name in record["assets"]}
    missing = [f"{name} of the layer comparison (gone)" for name, path in files.items() if not path.is_file()]
    rows = read_rows(files["layers.csv"]) if _is_there(files, "layers.csv") else []
    captions = {
        "layers.png": "SQNR of every quantised activation on the float run's inputs. Rings and dots hold all errors up "
        "to that tensor, the short grey lines only what its own grid costs.",
        "layers_frames.png": "SQNR of the outputs when float, fake-quant and fixed-point each track on their own "
        "state, mean of the videos: a curve that falls is an error that comes back through the tracks.",
    }
    pictures = [
        Picture(files[name].read_bytes(), _alt(name, rows), text)
        for name, text in captions.items()
        if _is_there(files, name)
    ]
    return LayersSection(layer_table(worst(rows)) if rows else None, pictures, advice(rows), missing)


def _is_there(files: dict[str, Path], name: str) -> bool:
    return name in files and files[name].is_file()


def _alt(name: str, rows: Sequence[LayerRow]) -> str:
    if name == "layers_frames.png":
        return "Curves of SQNR over the frames for class logits, boxes and embeddings, fake-quant and fixed-point."
    low = worst(rows, 1)
    told = f" Lowest: {low[0].name}, {_db(low[0].fixed_sqnr_db)} dB." if low else ""
    return f"Points of SQNR for every tensor, fake-quant and fixed-point, in graph order.{told}"


def layer_table(rows: Sequence[LayerRow]) -> Table:
    """One row for each tensor; shares in percent."""
    return Table(list(_COLUMNS), [("", [_row(row) for row in rows])], corner="Tensor")


def _row(row: LayerRow) -> Row:
    cells = (
        _db(row.fake_sqnr_db),
        _db(row.fixed_sqnr_db),
        _db(row.own_sqnr_db),
        "–" if math.isnan(row.fixed_cosine) else f"{row.fixed_cosine:.5f}",
        str(row.largest_step),
        f"{100 * row.mismatch_share:.2f} %",
        f"{100 * row.saturated_share:.2f} %",
        f"{row.range_used:.2f}",
        f"{row.offset_steps:+.2f}".replace("-", "−"),
    )
    return Row(f"{row.graph} {row.tensor}", [Cell(text) for text in cells], note=f"{row.operator}, {row.observer}")


def _db(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "exact" if math.isinf(value) else f"{value:.1f}".replace("-", "−")
