"""What to look at first in a prediction, with the module and the line of our source that it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from motrlab.deploy.performance import LayerCost
from motrlab.deploy.source import source_of
from motrlab.deploy.target import ASSUMED, Target

_SHARE = 0.02  # of both graphs' time: less is not worth a line
_WAITING = 0.2  # of both graphs' time, in layers that take longer to call than to compute: more is worth a line
_UTILISATION = 0.25  # of a unit's peak: less is worth one
_MOST = 20  # lines of each kind


def advice_of(target: Target, layers: Sequence[LayerCost]) -> list[dict[str, Any]]:
    """The most expensive first: layers that fall to the host, that wait for memory, that use little of their unit.

    Before these, in one line, the many that are too small for what a layer takes beside its work.
    """
    calls = target.graph_overhead.value * 1e3 * len({cost.layer.graph for cost in layers})
    total = max(calls + sum(cost.latency_ms for cost in layers), 1e-12)
    found: dict[str, list[dict[str, Any]]] = {"error": [], "warning": _waiting(target, layers, total), "info": []}
    for cost in sorted(layers, key=lambda c: -c.latency_ms):
        share, more = cost.latency_ms / total, cost.more
        if cost.bound == "host":
            told = f"{_fallen(target, cost)}: it goes to the host and takes {share:.1%} of both graphs"
            found["error"].append(_entry("error", cost, told))
        elif share < _SHARE:
            continue
        elif cost.bound in ("off_chip", "on_chip"):
            ways = ("load_bytes", "store_bytes") if cost.bound == "off_chip" else ("on_chip_bytes",)
            moved = sum(more.get(way, 0) for way in ways) or cost.bytes_read + cost.bytes_written
            told = (
                f"waits for memory ({cost.bound}; {moved / 1e6:.2g} MB) for {share:.1%} of both graphs; "
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


def _waiting(target: Target, layers: Sequence[LayerCost], total: float) -> list[dict[str, Any]]:
    """Of all layers that overhead bounds, at the slowest one of the part of a graph that has most of them."""
    small = [cost for cost in layers if cost.bound == "overhead"]
    share = sum(cost.latency_ms for cost in small) / total
    if share < _WAITING:
        return []
    figure, working = target.layer_overhead, sum(cost.latency_ms > 0 for cost in layers)
    each = f" ({figure.value * 1e6:.3g} µs{', assumed' * (figure.source == ASSUMED)})" if figure.value else ""
    (worst, number), *_ = Counter(map(_part, small)).most_common(1)
    slowest = max((cost for cost in small if _part(cost) == worst), key=lambda cost: cost.latency_ms)
    told = (
        f"{len(small)} of {working} layers take longer to call{each} than to compute, {share:.0%} of both graphs, "
        f"{number} of them in {worst[1]}; fewer and larger layers help, more speed or bandwidth does not"
    )
    return [_entry("warning", slowest, told)]


def _part(cost: LayerCost) -> tuple[str, str]:
    return cost.layer.graph, cost.layer.module.partition(".")[0]


def _fallen(target: Target, cost: LayerCost) -> str:
    """Why a layer is the host's."""
    known = target.operators.get(cost.layer.operator)
    if known is not None and not known.types:
        return f"no unit of {target.name} runs {cost.layer.operator}, in any type"
    has = f", only in {', '.join(known.types)}" if known is not None else ""
    return f"no unit of {target.name} runs {cost.layer.operator} in {cost.more['dtype']}{has}"


def _why(cost: LayerCost) -> str:
    if cost.bound == "overhead":
        return "the call of a layer takes longer than its work; make it part of a larger one"
    return "its dimensions fill the unit badly; use multiples of its lanes"


def _entry(severity: str, cost: LayerCost, text: str) -> dict[str, Any]:
    file, line = source_of(cost.layer.graph, cost.layer.module)
    place = {"module": cost.layer.module, "layer": cost.layer.name, "graph": cost.layer.graph}
    return {"severity": severity, **place, "file": file, "line": line, "text": text}
