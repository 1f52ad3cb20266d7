"""Section: what the data stage counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motrlab.report.blocks import Section, Source, Table, pivot
from motrlab.report.values import value_text, words


def section(source: Source) -> Section:
    tables = plain_tables(source.metrics("data", "data"))
    return Section([f"{data_source(source)}.", *tables]) if tables else Section(missing=["counts of the data"])


def data_source(source: Source) -> str:
    return source.run.config.data_root or "street, the embedded synthetic videos"


def plain_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Any flat metrics: `A.B` keys as a table of A against B, the others as name and value."""
    parts = {key: key.rpartition(".") for key in metrics}
    cells = {key: value_text(key, value) for key, value in metrics.items()}
    dotted = pivot({(head, words(tail)): cells[key] for key, (head, _, tail) in parts.items() if head}, str)
    single = pivot({(words(key), ""): cells[key] for key, (head, _, _) in parts.items() if not head}, str)
    return [found for found in (dotted, single) if found]
