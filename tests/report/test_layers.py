from __future__ import annotations

import math
from dataclasses import replace

import pytest

from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import LayerRow, read_rows
from motrlab.report.blocks import Listing, Source, table_text
from motrlab.report.layers import layer_table, section
from motrlab.run import Run


@pytest.fixture
def rows(filled: Run) -> list[LayerRow]:
    return read_rows(filled.assets / "layers.csv")


def test_section_of_a_full_run(filled: Run, rows: list[LayerRow]) -> None:
    found = section(Source(filled))
    table, every = found.tables
    assert found.missing == []
    assert (len(table.rows), len(every.rows)) == (10, len(rows))
    known = [row for row in rows if not math.isnan(row.fixed_sqnr_db)]
    lowest = min(known, key=lambda row: row.fixed_sqnr_db)
    assert table.rows[0].label == f"{lowest.graph} {lowest.tensor}"
    assert [block.title for block in found.blocks if isinstance(block, Listing)] == ["What to do about it"]
    assert [picture.data[:4] for picture in found.pictures] == [b"\x89PNG"] * 2
    assert lowest.name in found.pictures[0].alt


def test_no_comparison_is_missing(home: object) -> None:
    found = section(Source(Run.open("empty", "smoke")))
    assert (found.blocks, found.missing) == ((), ["the layer comparison"])


def test_lost_assets_are_named_and_the_rest_is_shown(full_run: Run) -> None:
    (full_run.assets / "layers.csv").unlink()
    (full_run.assets / "layers.png").unlink()
    found = section(Source(full_run))
    assert found.tables == []
    assert not any(isinstance(block, Listing) for block in found.blocks)
    assert len(found.pictures) == 1
    assert found.missing == [f"layers.{end} of the layer comparison (missing)" for end in ("csv", "png")]


def test_a_table_of_another_version_is_a_user_error(full_run: Run) -> None:
    (full_run.assets / "layers.csv").write_text("tensor\nrelu\n")
    with pytest.raises(UserError, match=r"layers\.csv"):
        section(Source(full_run))


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
    table = layer_table([row])
    assert table is not None
    (found,) = table.rows
    assert found.label == "base encoder.0.ffn"
    assert [cell.text for cell in found.cells] == [
        "linear", "min_max", "exact", "−1.2", "–", "0.50000", "3", "12.50 %", "0.10 %", "1.50", "−0.04",
    ]  # fmt: skip
    assert "fixed-point, dB" in table_text(table)
