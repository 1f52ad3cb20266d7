"""What `perf` says, measured or predicted: one form for both, so that they can stand side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motrlab.deploy.layers import Layer
from motrlab.errors import UserError

SCHEMA = 1
UNITS = {  # of the columns of layers and entities
    "macs": "multiply-accumulates", "bytes_read": "bytes", "bytes_written": "bytes", "latency_ms": "milliseconds",
    "share": "fraction of the frame's layers", "cycles": "cycles", "cycles_compute": "cycles",
    "cycles_on_chip": "cycles", "cycles_off_chip": "cycles", "utilisation": "fraction of the unit's peak",
    "on_chip_bytes": "bytes", "on_chip_share": "fraction of the largest",
}  # fmt: skip
_CYCLES = ("cycles_compute", "cycles_on_chip", "cycles_off_chip")
_SUMMED = ("macs", "bytes_read", "bytes_written", "latency_ms")


@dataclass(frozen=True)
class LayerCost:
    """A layer and what it costs. `bound`: what decides its time, `matrix`, `vector`, …, `on_chip`, `off_chip`,
    `overhead`, or `measured`. `more`: further columns, units in their names.
    """

    layer: Layer
    latency_ms: float
    bytes_read: int
    bytes_written: int
    bound: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Flat, the contract's columns first."""
        layer = self.layer
        return {
            "graph": layer.graph, "name": layer.name, "module": layer.module, "operator": layer.operator,
            "macs": layer.macs, "bytes_read": self.bytes_read, "bytes_written": self.bytes_written,
            "latency_ms": self.latency_ms, "bound": self.bound, **self.more,
        }  # fmt: skip


@dataclass(frozen=True)
class Performance:
    """A frame on a target. `kind`: `measured` or `predicted`; `graphs`: `base` and `qim`, each with `latency_ms`;
    `frame`: `latency_ms`, `fps`, and the parts of the frame step; `layers` in order of execution; `sections`: what
    else the page shows (`memory`, `timeline`, `roofline`, `advice`, …), JSON values.
    """

    target: str
    kind: str
    graphs: Mapping[str, Mapping[str, Any]]
    frame: Mapping[str, Any]
    layers: Sequence[LayerCost]
    sections: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """A layer each: its own columns, then what follows from all: `share` of the layers' time, `cycles` of the
        slowest part, `on_chip_share` of the layer that keeps most on the chip.
        """
        rows = [cost.row() for cost in self.layers]
        total = sum(row["latency_ms"] for row in rows) or 1.0
        most = max((row.get("on_chip_bytes", 0) for row in rows), default=0) or 1
        for row in rows:
            row["share"] = row["latency_ms"] / total
            if all(name in row for name in _CYCLES):
                row["cycles"] = max(row[name] for name in _CYCLES)
            if "on_chip_bytes" in row:
                row["on_chip_share"] = row["on_chip_bytes"] / most
        return rows

    def json(self) -> dict[str, Any]:
        """The contract of `perf --json`: `schema`, `target`, `kind`, `graphs`, `frame`, `layers`; then `units` of the
        columns, `entities` (sums by graph and by module, two names deep), and the sections.
        """
        rows = self.rows()
        head = {"schema": SCHEMA, "target": self.target, "kind": self.kind, "graphs": dict(self.graphs)}
        told = {"frame": dict(self.frame), "layers": rows, "units": UNITS, "entities": entities(rows)}
        return {**head, **told, **self.sections}

    def csv(self) -> str:
        """All layers, a row each."""
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def table(self) -> str:
        """For a terminal: both graphs, the frame and the ten most expensive layers."""
        lines = [f"{self.target}, {self.kind}"]
        for name, graph in (*self.graphs.items(), ("frame", self.frame)):
            told = ", ".join(f"{key} {_short(value)}" for key, value in graph.items())
            lines.append(f"{name:<6} {told}")
        for form, graphs in self.sections.get("distribution", {}).items():
            told = ", ".join(f"{name} {_short(row['p50_ms'])}" for name, row in graphs.items())
            lines.append(f"{form:<22} median ms: {told}")
        lines += how_measured({"graphs": self.graphs, "frame": self.frame, **self.sections})
        for cost in sorted(self.layers, key=lambda cost: -cost.latency_ms)[:10]:
            layer = cost.layer
            lines.append(
                f"{cost.latency_ms:10.4f} ms  {layer.graph:<5}{layer.operator:<22} {cost.bound:<10} {layer.module}"
            )
        return "\n".join(lines)


def how_measured(values: Mapping[str, Any]) -> list[str]:
    """Of `Performance.json()`, measured: conditions, rates, integer kernels and memory, a line each; else nothing."""
    lines = []
    if (threads := values.get("threads")) is not None:
        where = f" pinned to processor {values['pinned_to']}" if values["pinned_to"] else ", not pinned"
        lines.append(f"threads: {threads},{where}; {values['warm_up']} calls of everything before the clock starts")
    if throughput := values.get("throughput"):
        lines.append(
            f"closed loop, one video: {values['frame']['fps']:.1f} frames a second over all frames, slow ones too; "
            f"throughput of {throughput['streams']} videos at once: {throughput['fps']:.1f}"
        )
    if paced := values.get("rate_limited"):
        lines.append("frames at a fixed rate: " + ", ".join(f"{name} {_short(value)}" for name, value in paced.items()))
    shares = {name: graph.get("integer_time_share") for name, graph in values["graphs"].items()}
    if told := ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None):
        lines.append(f"share of the time in integer kernels: {told}")
    if memory := values.get("process_memory"):
        told = ", ".join(f"{name.removesuffix('_mb')} {value:.0f}" for name, value in memory.items())
        lines.append(f"memory of the process, MB: {told}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return " + ".join(f"{name} {_short(part)}" for name, part in value.items() if part)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def entities(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sums of layers' rows: each graph, each of its modules, each part of these; `parent` is the `id` above."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        names = [row["graph"], *row["module"].split(".")[:2]]
        for depth, kind in enumerate(("graph", "module", "part")[: len(names)]):
            identity, parent = "/".join(names[: depth + 1]), "/".join(names[:depth])
            first = {"id": identity, "kind": kind, "parent": parent, "num_layers": 0, **dict.fromkeys(_SUMMED, 0)}
            entity = found.setdefault(identity, first)
            entity["num_layers"] += 1
            for name in _SUMMED:
                entity[name] += row[name]
    return list(found.values())


def read_performance(path: Path) -> dict[str, Any]:
    """`Performance.json()` from its file. Raises UserError where the file is none, or of another schema."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a result of `perf` ({error}); run it again") from error
    keys = {"schema", "target", "kind", "graphs", "frame", "layers"}
    if not isinstance(values, dict) or not keys <= values.keys():
        raise UserError(f"{path}: not a result of `perf`; run it again")
    if values["schema"] != SCHEMA:
        raise UserError(f"{path}: schema {values['schema']}, this motrlab reads {SCHEMA}; run `perf` again")
    return values
