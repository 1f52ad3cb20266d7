"""What to look at first in a prediction, with the module and the line of our source that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from motrlab.deploy.performance import LayerCost
from motrlab.deploy.source import source_of
from motrlab.deploy.target import Target

_SHARE = 0.02  # of both graphs' time: less is not worth a line
_UTILISATION = 0.25  # of a unit's peak: less is worth one
_MOST = 20  # lines of each kind


def advice_of(target: Target, layers: Sequence[LayerCost]) -> list[dict[str, Any]]:
    """The most expensive first: layers that fall to the host, that wait for memory, that use little of their unit."""
    total = max(sum(cost.latency_ms for cost in layers), 1e-12)
    found: dict[str, list[dict[str, Any]]] = {"error": [], "warning": [], "info": []}
    for cost in sorted(layers, key=lambda c: -c.latency_ms):
        share, more = cost.latency_ms / total, cost.more
        if cost.bound == "host":
            told = (
                f"{cost.layer.operator} in {more['dtype']} is nothing that a unit of {target.name} computes: it goes "
                f"to the host and takes {share:.1%} of both graphs; give it another type or operator"
            )
            found["error"].append(_entry("error", cost, told))
        elif share < _SHARE:
            continue
        elif cost.bound in ("off_chip", "on_chip"):
            moved = (
                sum(more.get(way, 0) for way in ("load_bytes", "store_bytes")) or cost.bytes_read + cost.bytes_written
            )
            told = (
                f"waits for memory ({cost.bound}; {moved / 1e6:.2f} MB) for {share:.1%} of both graphs; "
                "fewer channels or a smaller map here"
            )
            found["warning"].append(_entry("warning", cost, told))
        elif more["utilisation"] < _UTILISATION:
            told = (
                f"uses {more['utilisation']:.0%} of the {more['unit']} unit for {share:.1%} of both graphs: "
                f"{_why(cost)}"
            )
            found["info"].append(_entry("info", cost, told))
    return [entry for entries in found.values() for entry in entries[:_MOST]]


def _why(cost: LayerCost) -> str:
    if cost.bound == "overhead":
        return "the call of a layer takes longer than its work; make it part of a larger one"
    return "its dimensions fill the unit badly; use multiples of its lanes"


def _entry(severity: str, cost: LayerCost, text: str) -> dict[str, Any]:
    file, line = source_of(cost.layer.graph, cost.layer.module)
    place = {"module": cost.layer.module, "layer": cost.layer.name, "graph": cost.layer.graph}
    return {"severity": severity, **place, "file": file, "line": line, "text": text}
