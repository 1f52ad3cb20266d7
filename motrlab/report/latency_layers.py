"""Tables of layers and modules of the latency page."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from motrlab.report.blocks import Cell, Table, table
from motrlab.report.latency_pictures import Values
from motrlab.report.values import percent, plain

_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "graph": ("graph", str),
    "operator": ("operator", str),
    "kernel": ("compiled to", str),
    "unit": ("unit", str),
    "dtype": ("type", str),
    "bound": ("bound by", lambda v: str(v).replace("_", "-")),
    "latency_ms": ("µs", lambda v: f"{1e3 * v:.4g}"),
    "share": ("% of time", lambda v: percent(v, 2)),
    "macs": ("MACs, k", lambda v: plain(round(v / 1e3))),
    "utilisation": ("utilisation, %", lambda v: percent(v)),
    "cycles": ("cycles", lambda v: plain(round(v))),
    "cycles_compute": ("compute", lambda v: plain(round(v))),
    "cycles_on_chip": ("on-chip", lambda v: plain(round(v))),
    "cycles_off_chip": ("off-chip", lambda v: plain(round(v))),
    "bytes_read": ("read, kB", lambda v: plain(round(v / 1e3, 1))),
    "bytes_written": ("written, kB", lambda v: plain(round(v / 1e3, 1))),
    "on_chip_bytes": ("on-chip, kB", lambda v: plain(round(v / 1e3, 1))),
    "on_chip_share": ("% of peak", lambda v: percent(v, 0)),
    "tiles": ("tiles", str),
    "kept_on_chip": ("kept", lambda v: "yes" if v else "no"),
    "calls": ("calls", str),
}
_TEXTS = ("graph", "operator", "kernel", "unit", "dtype", "bound")
_NUM_PRINTED = 40
_NOTE = "In order of execution; a heading sorts, the field filters."
_BOUND_NOTE = (
    " Bound by: what decides the layer's time. The three cycle columns are what its arithmetic, the memory on the chip "
    "and the memory off the chip need; the largest counts."
)
_PRINTED_NOTE = f" On paper: the {_NUM_PRINTED} slowest."


def layer_table(values: Values) -> Table | None:
    """Every layer, the slowest on paper, too: the contract's columns, and whatever else this result has. Where layers
    were measured nothing tells what bounds them.
    """
    rows = values["layers"]
    used = {key: s for key, s in _COLUMNS.items() if any(row.get(key) not in (None, "measured") for row in rows)}
    if all(row.get("kernel") == row["operator"] for row in rows):
        used.pop("kernel", None)
    columns = {heading: _cell(key, say) for key, (heading, say) in used.items()}
    note = _NOTE + _BOUND_NOTE * ("bound" in used) + _PRINTED_NOTE * (len(rows) > _NUM_PRINTED)
    num_texts = sum(key in used for key in _TEXTS)
    found = table(rows, columns, lambda row: row["name"], corner="Layer", note=note, num_texts=num_texts)
    slowest = set(heapq.nlargest(_NUM_PRINTED, range(len(rows)), key=lambda i: rows[i]["latency_ms"]))
    return found and replace(
        found, groups=[("", [replace(row, printed=i in slowest) for i, row in enumerate(found.rows)])]
    )


def _cell(key: str, say: Callable[[Any], str]) -> Callable[[Values], str | Cell]:
    return lambda row: "–" if row.get(key) is None else say(row[key])


def module_table(values: Values) -> Table | None:
    """Sums by module, the slowest first."""
    found = [e for e in values.get("entities") or () if e["kind"] == "module"]
    found.sort(key=lambda entity: -entity["latency_ms"])
    total = sum(e["latency_ms"] for e in found) or 1.0
    columns: dict[str, Callable[[Values], str | Cell]] = {
        "layers": lambda e: str(e["num_layers"]),
        "ms": lambda e: ms(e["latency_ms"]),
        "% of time": lambda e: percent(e["latency_ms"] / total),
        "MACs, M": lambda e: f"{e['macs'] / 1e6:.3g}",
        "read and written, MB": lambda e: f"{(e['bytes_read'] + e['bytes_written']) / 1e6:.3g}",
    }
    return table(found, columns, lambda e: e["id"].replace("/", " "), corner="Module", title="By module")


def ms(value: float | None) -> str:
    """Milliseconds, to three digits."""
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
