from __future__ import annotations

import math
from pathlib import Path

from motrlab.training.curve import final_means, loss_terms, read_rows, write_rows


def test_there_and_back(tmp_path: Path) -> None:
    rows = [{"step": float(i), "loss": 3.0 - i, "layer_0.l1": 0.5} for i in range(2)]
    write_rows(tmp_path / "loss.csv", rows)
    assert read_rows(tmp_path / "loss.csv", 5) == rows
    assert read_rows(tmp_path / "loss.csv", 1) == rows[:1]
    assert read_rows(tmp_path / "none.csv", 5) == []


def test_a_curve_that_was_begun_without_layers_goes_on_with_them(tmp_path: Path) -> None:
    """A training that an earlier motrlab began."""
    write_rows(tmp_path / "loss.csv", [{"step": 0.0, "loss": 3.0}, {"step": 1.0, "loss": 2.0, "layer_0.l1": 0.5}])
    first, second = read_rows(tmp_path / "loss.csv", 2)
    assert (first["loss"], second["layer_0.l1"]) == (3.0, 0.5)
    assert math.isnan(first["layer_0.l1"])


def test_layers_are_parts_of_kinds_not_terms() -> None:
    rows = [{"step": 0.0, "lr": 0.1, "loss": 2.0, "l1": 2.0, "layer_0.l1": 0.5, "grad_norm": 1.0}]
    assert loss_terms(rows[0]) == ["loss", "l1"]
    assert final_means(rows) == {"loss": 2.0, "l1": 2.0}
