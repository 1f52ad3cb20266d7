"""What a frame would take on a target with another clock, more cores or more bandwidth.

The formula of the prediction, once: a layer takes as long as its slowest part, and what it takes beside its work. The
latency page computes the same in the browser (`report/templates/page.js`); a test holds both to this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from motrlab.deploy.target import Target

FACTORS = ("clock", "cores", "on_chip", "off_chip")  # of the target's own figures, each 1 for the target as it is
PARTS = ("compute", "on_chip", "off_chip", "overhead")


def machine_facts(target: Target) -> dict[str, float]:
    """Section `machine` of a prediction: the figures that can be changed."""
    return {
        "clock_ghz": target.clock.value / 1e9,
        "cores": target.cores.value,
        "on_chip_gbs": target.on_chip.bandwidth.value / 1e9,
        "off_chip_gbs": target.off_chip.bandwidth.value / 1e9,
    }


def what_if_data(performance: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the formula needs of a prediction (JSON of `Performance`); None where its layers have no cycles.

    `layers`: a row each of milliseconds of compute, on-chip memory, off-chip memory and overhead. `graphs`: the layers'
    graphs. `rest_ms`: what of the frame no layer has, as the host's part.
    """
    machine, layers = performance.get("machine"), performance["layers"]
    if not machine or not layers or any("cycles_compute" not in row for row in layers):
        return None
    per_ms, rows = machine["clock_ghz"] * 1e6, []
    for row in layers:
        parts = [row[f"cycles_{name}"] / per_ms for name in PARTS[:3]]
        rows.append([*parts, row["latency_ms"] - max(parts)])
    rest = performance["frame"]["latency_ms"] - sum(row["latency_ms"] for row in layers)
    graphs = [row["graph"] for row in layers]
    return {"machine": dict(machine), "layers": rows, "graphs": graphs, "rest_ms": rest}


def layer_ms(
    row: Sequence[float], *, clock: float = 1, cores: float = 1, on_chip: float = 1, off_chip: float = 1
) -> float:
    """Milliseconds of a row of `what_if_data`, with `FACTORS`."""
    compute, near, far, overhead = row
    return max(compute / (clock * cores), near / on_chip, far / off_chip) + overhead


def what_if(data: Mapping[str, Any], **factors: float) -> dict[str, float]:
    """Milliseconds of `base`, `qim` and the `frame`, and `fps`, with `FACTORS`."""
    sums = dict.fromkeys(data["graphs"], 0.0)
    for graph, row in zip(data["graphs"], data["layers"], strict=True):
        sums[graph] += layer_ms(row, **factors)
    frame = sum(sums.values()) + data["rest_ms"]
    return {**sums, "frame": frame, "fps": 1e3 / frame}
