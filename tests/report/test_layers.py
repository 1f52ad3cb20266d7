from __future__ import annotations

import math
from dataclasses import replace

import pytest

from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import LayerRow, read_rows
from motrlab.report.layers import layer_table, layers_section
from motrlab.report.text import table_text
from motrlab.run import Run


@pytest.fixture
def rows(filled: Run) -> list[LayerRow]:
    return read_rows(filled.assets / "layers.csv")


def test_section_of_a_full_run(filled: Run, rows: list[LayerRow]) -> None:
    section = layers_section(filled.records(), filled.path)
    assert section is not None
    assert section.table is not None
    assert section.missing == []
    assert len(section.table.rows) == 10
    known = [row for row in rows if not math.isnan(row.fixed_sqnr_db)]
    lowest = min(known, key=lambda row: row.fixed_sqnr_db)
    assert section.table.rows[0].label == f"{lowest.graph} {lowest.tensor}"
    assert section.advice
    assert [picture.data[:4] for picture in section.pictures] == [b"\x89PNG"] * 2
    assert lowest.name in section.pictures[0].alt


def test_no_comparison_no_section(home: object) -> None:
    assert layers_section(Run.open("empty", "smoke").records(), Run.open("empty").path) is None


def test_lost_assets_are_named_and_the_rest_is_shown(full_run: Run) -> None:
    (full_run.assets / "layers.csv").unlink()
    (full_run.assets / "layers.png").unlink()
    section = layers_section(full_run.records(), full_run.path)
    assert section is not None
    assert section.table is None
    assert section.advice == []
    assert len(section.pictures) == 1
    assert list(section.missing) == [f"layers.{end} of the layer comparison (gone)" for end in ("csv", "png")]


def test_a_table_of_another_version_is_a_user_error(full_run: Run) -> None:
    (full_run.assets / "layers.csv").write_text("tensor\nrelu\n")
    with pytest.raises(UserError, match=r"layers\.csv"):
        layers_section(full_run.records(), full_run.path)


def test_cells(rows: list[LayerRow]) -> None:
    row = replace(
        rows[0],
        fake_sqnr_db=math.inf,
        fixed_sqnr_db=-1.25,
        own_sqnr_db=math.nan,
        fixed_cosine=0.5,
        largest_step=3,
        mismatch_share=0.125,
        saturated_share=0.001,
        range_used=1.5,
        offset_steps=-0.04,
    )
    (found,) = layer_table([row]).rows
    assert [cell.text for cell in found.cells] == [
        "exact", "−1.2", "–", "0.50000", "3", "12.50 %", "0.10 %", "1.50", "−0.04",
    ]  # fmt: skip
    assert (found.label, found.note) == ("base encoder.0.ffn", "linear, min_max")
    assert "fixed-point, dB" in table_text(layer_table([row]))
