"""What `perf` says, measured or predicted: one form for both, so that they can stand side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motrlab.deploy.layers import Layer

SCHEMA = 1


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

    def json(self) -> dict[str, Any]:
        """The contract of `perf --json`: `schema`, `target`, `kind`, `graphs`, `frame`, `layers`; then the sections."""
        head = {"schema": SCHEMA, "target": self.target, "kind": self.kind, "graphs": dict(self.graphs)}
        return {**head, "frame": dict(self.frame), "layers": [cost.row() for cost in self.layers], **self.sections}

    def csv(self) -> str:
        """All layers, a row each."""
        rows = [cost.row() for cost in self.layers]
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
        for cost in sorted(self.layers, key=lambda cost: -cost.latency_ms)[:10]:
            layer = cost.layer
            lines.append(
                f"{cost.latency_ms:10.4f} ms  {layer.graph:<5}{layer.operator:<22}{cost.bound:<10}{layer.module}"
            )
        return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
