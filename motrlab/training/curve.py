"""The loss curve of a training: a CSV file with one row per optimiser update.

Its columns: `step`, `lr`, `grad_norm`, `loss`, the kinds of loss, and of each kind the part of each decoder layer, such
as `layer_0.giou`.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from motrlab.files import atomic_path

Rows = list[dict[str, float]]
_NO_TERMS = ("step", "lr", "grad_norm")


def read_rows(curve: Path, num_rows: int) -> Rows:
    """The first `num_rows` updates of a curve, fewer if it is shorter; none if there is no file."""
    if not num_rows or not curve.is_file():
        return []
    with curve.open(newline="", encoding="utf-8") as stream:
        return [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(stream)][:num_rows]


def write_rows(curve: Path, rows: Rows) -> None:
    """Six digits of every value; the file is moved into place. Columns that earlier rows lack are empty there."""
    with atomic_path(curve) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def loss_terms(columns: Iterable[str]) -> list[str]:
    """Of a curve's columns the loss and its kinds, which add up to it."""
    return [name for name in columns if name not in _NO_TERMS and "." not in name]


def final_means(rows: Rows) -> dict[str, float]:
    """Loss and all its terms: means over the last tenth of the updates."""
    tail = rows[-max(1, len(rows) // 10) :]
    return {name: float(np.mean([row[name] for row in tail])) for name in loss_terms(tail[-1])}
