"""What is in records, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from motrlab.names import STAGE_TITLES

Record = Mapping[str, Any]

COMPARED = ("mota", "idf1", "hota")  # shown with their distance from float
COUNTS = ("fp", "fn", "idsw", "frag", "mt", "pt", "ml", "num_gt")
METRICS = (*COMPARED, "deta", "assa", "idp", "idr", "motp", *COUNTS)
METRIC_NAMES = {m: m.upper() for m in METRICS} | {"deta": "DetA", "assa": "AssA", "frag": "Frag", "num_gt": "boxes"}
GRAPHS = {"base": "Base graph", "qim": "QIM"}


def last(records: Iterable[Record], stage: str, kind: str) -> Record | None:
    """The last record of a stage and kind counts."""
    found = [r for r in records if r["stage"] == stage and r["kind"] == kind]
    return found[-1] if found else None


def stage_word(stage: str) -> str:
    """A stage's title within a sentence."""
    return STAGE_TITLES[stage].lower().replace("qat", "QAT")


def number(value: Any) -> float | None:
    """The value if it is a number (a bool is none)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def overall(record: Record | None, head: str) -> dict[str, float]:
    """Metrics `HEAD.mota`, `HEAD.idf1`, ... by their last names; `head`: a protocol, or PROTOCOL.SEQUENCE."""
    metrics = record["metrics"] if record else {}
    found = {m: number(metrics.get(f"{head}.{m}")) for m in METRICS}
    return {m: value for m, value in found.items() if value is not None}


def scores(records: Iterable[Record], stages: Iterable[str], head: str, kind: str = "accuracy") -> dict[str, Any]:
    """Stage → `overall` of its last record, of those that have one."""
    records = list(records)
    return {s: found for s in stages if (found := overall(last(records, s, kind), head))}


def medians(metrics: Mapping[str, Any], head: str) -> dict[str, float]:
    """Median milliseconds of the parts of `head` (`base`, `qim`, `step`), in recorded order."""
    parts = {tuple(key.split(".")): value for key, value in metrics.items() if number(value) is not None}
    return {key[1]: float(v) for key, v in parts.items() if len(key) == 3 and (key[0], key[2]) == (head, "p50_ms")}


def signed(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "−")


def percent(value: float, decimals: int = 1) -> str:
    """A fraction as percent; "–" for NaN."""
    return "–" if math.isnan(value) else signed(f"{100 * value:.{decimals}f}")


def decibels(value: float) -> str:
    """SQNR; infinite where nothing was lost, NaN where there is no value."""
    return "–" if math.isnan(value) else "exact" if math.isinf(value) else signed(f"{value:.1f}")


def plain(value: Any) -> str:
    """Any metric as short text: thousands separated, floats to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int):
        return signed(f"{value:,}").replace(",", "\u202f")
    if isinstance(value, float):
        return signed(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}").replace(",", "\u202f")
    return "" if value is None else str(value)


def words(name: str) -> str:
    """A metric's name as a heading: `p90_ms` → `p90, ms`."""
    stem, _, unit = name.rpartition("_")
    if stem and unit in ("ms", "mb", "us", "s", "px"):
        return f"{ {'p50': 'median'}.get(stem, stem.replace('_', ' ')) }, {unit.replace('mb', 'MB')}"
    return name.replace("_", " ")
