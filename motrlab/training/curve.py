"""The loss curve of a training: a CSV file with one row per optimiser update."""

import csv
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
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)][:num_rows]


def write_rows(curve: Path, rows: Rows) -> None:
    """Six digits of every value; the file is moved into place."""
    with atomic_path(curve) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def final_means(rows: Rows) -> dict[str, float]:
    """Loss and all its terms: means over the last tenth of the updates."""
    tail = rows[-max(1, len(rows) // 10) :]
    return {name: float(np.mean([row[name] for row in tail])) for name in tail[-1] if name not in _NO_TERMS}
