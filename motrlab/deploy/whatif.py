"""What a frame would take on a chip with another clock, more cores or bandwidth, less overhead, another host.

The formula of the prediction (`deploy/predict/`), once: a layer, or a chain of layers that run as one, takes as long as
its slowest part, and what it takes beside its work. The latency page computes the same in the browser
(`report/templates/page.js`); tests hold both to this file, and this file to a prediction for a changed target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from motrlab.deploy.target import Target

# Of the target's own figures, each 1 for the target as it is; `cores`: how many share a layer. A frame at a time is the
# work of one core, because the next needs its result: the others serve other streams. `overhead`: of layers and calls;
# `host`: what of the frame no graph has.
FACTORS = ("clock", "cores", "on_chip", "off_chip", "overhead", "host")


def machine_facts(target: Target) -> dict[str, float]:
    """Section `machine` of a chip's prediction: the figures that can be changed, and what the formula needs beside."""
    return {
        "clock_ghz": target.clock.value / 1e9,
        "cores": target.cores.value,
        "on_chip_gbs": target.on_chip.bandwidth.value / 1e9,
        "off_chip_gbs": target.off_chip.bandwidth.value / 1e9,
        "off_chip_wait_ms": target.off_chip.latency.value * 1e3,
        "layer_overhead_us": target.layer_overhead.value * 1e6,
    }


def what_if_data(performance: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the formula needs of a prediction (JSON of `Performance`); None where there is no section `machine`.

    `chains`: a row each, of layers with one `chain` (a layer without one is alone): milliseconds of its units, of the
    host, of on-chip and off-chip memory, of waiting for the latter, and beside its work; the share of what nothing
    overlaps, milliseconds of scales and biases, and of passes (`predict/chip.py`). `graphs`: theirs. `call_ms`:
    what a graph takes beside its layers. `rest_ms`: what of the frame no graph has, the tracker's part.
    """
    machine, layers = performance.get("machine"), performance["layers"]
    if not machine:
        return None
    per_ms = machine["clock_ghz"] * 1e6
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for index, row in enumerate(layers):
        if "cycles_compute" in row:  # a view takes nothing
            groups.setdefault((row["graph"], row.get("chain", index)), []).append(row)
    chains = []
    for rows in groups.values():
        units: dict[str, float] = {}
        for row in rows:
            units[row["unit"]] = units.get(row["unit"], 0.0) + row["cycles_compute"] / per_ms
        host = units.pop("host", 0.0)
        near, far = (sum(row[f"cycles_{level}"] for row in rows) / per_ms for level in ("on_chip", "off_chip"))
        wait = machine["off_chip_wait_ms"] * sum(row["cycles_off_chip"] > 0 for row in rows)
        beside = [sum(row.get(f"cycles_{name}", 0.0) for row in rows) / per_ms for name in ("channels", "passes")]
        parts = [
            max(units.values(), default=0.0),
            host,
            near,
            far - wait,
            wait,
            0.0,
            rows[0].get("waited", 0.0),
            *beside,
        ]
        parts[5] = sum(row["latency_ms"] for row in rows) - chain_ms(parts)
        chains.append(parts)
    call = {name: graph["latency_ms"] for name, graph in performance["graphs"].items()}
    rest = performance["frame"]["latency_ms"] - sum(call.values())
    for row in layers:
        call[row["graph"]] -= row["latency_ms"]
    found = {"machine": dict(machine), "chains": chains, "graphs": [graph for graph, _ in groups]}
    return {**found, "call_ms": call, "rest_ms": rest}


def chain_ms(
    row: Sequence[float],
    *,
    clock: float = 1,
    cores: float = 1,
    on_chip: float = 1,
    off_chip: float = 1,
    overhead: float = 1,
) -> float:
    """Milliseconds of a row of `what_if_data`, with all `FACTORS` but the host's."""
    units, host, near, far, wait, beside, share, channels, passes = row
    stages = units / (clock * cores), near / on_chip, channels
    inside = max(stages) + share * (sum(stages) - max(stages)) + passes
    return max(inside, host / clock, far / off_chip + wait) + beside * overhead


def what_if(data: Mapping[str, Any], *, host: float = 1, **factors: float) -> dict[str, float]:
    """Milliseconds of `base`, `qim` and the `frame`, and `fps`, with `FACTORS`."""
    sums = {graph: call * factors.get("overhead", 1) for graph, call in data["call_ms"].items()}
    for graph, row in zip(data["graphs"], data["chains"], strict=True):
        sums[graph] += chain_ms(row, **factors)
    frame = sum(sums.values()) + data["rest_ms"] * host
    return {**sums, "frame": frame, "fps": 1e3 / frame}
