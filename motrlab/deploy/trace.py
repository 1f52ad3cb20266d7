"""A frame as Chrome trace events, for Perfetto or `chrome://tracing`; and all files that a result of `perf` leaves.

Format: "Trace Event Format" (Google), a JSON object: `X` events with `ts` and `dur` in microseconds, lanes as threads
with their names in `M` events, live memory in `C` events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from motrlab.deploy.performance import Performance
from motrlab.files import write_text

_PID = 1
_ARGS = ("graph", "module", "operator", "bound", "macs", "bytes_read", "bytes_written", "utilisation")


def chrome_trace(performance: Performance) -> dict[str, Any]:
    """The time line of a frame. Spans of a lane that overlap, as of fused layers, get lanes of their own beside it."""
    timeline, rows = performance.sections.get("timeline", {}), performance.rows()
    title = f"{performance.target}, {performance.kind}"
    events: list[dict[str, Any]] = [_named("process_name", 0, title)]
    starts: dict[int, float] = {}
    tid = 0
    for lane in timeline.get("lanes", ()):
        spans = sorted((span for span in timeline["spans"] if span[0] == lane), key=lambda span: span[1])
        for number, row in enumerate(_apart(spans), 1):
            tid += 1
            events.append(_named("thread_name", tid, lane if number == 1 else f"{lane} ({number})"))
            events.append(
                {"ph": "M", "name": "thread_sort_index", "pid": _PID, "tid": tid, "args": {"sort_index": tid}}
            )
            for _, start, end, index in row:
                layer = rows[index] if index is not None and 0 <= index < len(rows) else {}
                starts.setdefault(index, start)
                events.append(
                    {"ph": "X", "name": layer.get("name", lane), "cat": performance.kind, "pid": _PID, "tid": tid,
                     "ts": 1e3 * start, "dur": 1e3 * (end - start), "args": {k: layer[k] for k in _ARGS if k in layer}}
                )  # fmt: skip
    events += _memory(performance, starts)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"target": performance.target, "kind": performance.kind},
        "traceEvents": events,
    }


def _named(name: str, tid: int, text: str) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": _PID, "tid": tid, "args": {"name": text}}


def _apart(spans: Sequence[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """Spans in order of their start, in as few rows as they need not to overlap."""
    rows: list[list[Sequence[Any]]] = []
    for span in spans:
        free = next((row for row in rows if row[-1][2] <= span[1]), None)
        if free is None:
            rows.append([span])
        else:
            free.append(span)
    return rows


def _memory(performance: Performance, starts: Mapping[int, float]) -> Iterator[dict[str, Any]]:
    """What lives while each layer runs; curves count the layers of their own graph."""
    first = 0
    for graph, memory in performance.sections.get("memory", {}).items():
        for index, size in memory.get("curve", ()):
            if first + index in starts:
                args = {graph: size}
                yield {
                    "ph": "C",
                    "name": "live bytes",
                    "pid": _PID,
                    "tid": 0,
                    "ts": 1e3 * starts[first + index],
                    "args": args,
                }
        first += sum(cost.layer.graph == graph for cost in performance.layers)


def save_performance(performance: Performance, folder: Path) -> list[Path]:
    """Write `perf_TARGET.KIND.json`, `.csv` and `.trace.json` into `folder`; their paths. TARGET is safe as a file's
    name, KIND `measured` or `predicted`: one target may have both.
    """
    stem = f"perf_{re.sub(r'[^A-Za-z0-9._-]', '_', performance.target)}.{performance.kind}"
    texts = {
        "json": json.dumps(performance.json(), indent=1) + "\n",
        "csv": performance.csv(),
        "trace.json": json.dumps(chrome_trace(performance)) + "\n",
    }
    for ending, text in texts.items():
        write_text(folder / f"{stem}.{ending}", text)
    return [folder / f"{stem}.{ending}" for ending in texts]
