"""Runs side by side: a table for the terminal and `reports/compare/A-B/index.html`.

    python -m motrlab compare demo demo-2

The first run is what the others are measured against. Only records that count are read; what makes the runs hard to
compare (data, config, hardware, versions) is said first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from motrlab.errors import UserError
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.names import EVALUATED, STAGE_TITLES
from motrlab.report import spread
from motrlab.report.blocks import Cell, Listing, Row, Section, Source, Table, delta, table_text
from motrlab.report.pages import render_page, script
from motrlab.report.provenance import command, flat, stale
from motrlab.report.values import COMPARED, METRIC_NAMES, Record, last, number, overall, percent, plain, signed
from motrlab.run import Run, project_root

# What a run costs beside its accuracy: record, metric, what it is called, whether more is better.
_COSTS = (
    ("perf", "latency", "base.fixed_point.p50_ms", "Base graph, median, ms", False),
    ("perf", "latency", "qim.fixed_point.p50_ms", "QIM, median, ms", False),
    ("perf", "latency", "step.total.p50_ms", "Frame step, median, ms", False),
    ("perf", "latency", "fps", "Frames a second, closed loop", True),
    ("perf", "latency", "speedup", "Base graph, times as fast as fp32", True),
    ("fixed_point", "integer", "base.size_mb", "Base graph, MB", False),
    ("fixed_point", "integer", "qim.size_mb", "QIM, MB", False),
)
_NAMES = ("preset", "data_root")  # of a config: names, not settings


def compare(names: Sequence[str]) -> tuple[str, Path]:
    """The comparison as text, and where its page is. Raises UserError: fewer than two runs, one twice, one missing."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError("compare: give two or more different runs, the others are compared with the first")
    runs = [Run.open(name, create=False) for name in names]
    sources = [Source(run) for run in runs]
    told = warnings(sources)
    tables = [t for t in (*(accuracy(sources, p) for p in PROTOCOLS), costs(sources), changes(runs)) if t.rows]
    if len(runs) > 1 and spread.seeds_alone([run.config for run in runs]):
        tables = [*(t for p in PROTOCOLS for t in spread.spread_tables(sources, p)), *tables]
    again = Listing([command(run) for run in runs], "To make the runs again")
    sections = {"Differences to know of": Section([Listing(told)])} if told else {}
    sections |= {t.title: Section([replace(t, title="")]) for t in tables} | {"Provenance": Section([again])}
    path = project_root() / "reports" / "compare" / "-".join(names) / "index.html"
    title = " against ".join(reversed(names)) if len(names) < 4 else f"{len(names)} runs against {names[0]}"
    write_text(path, render_page(title, "comparison of runs", sections, script=script("page.js")))
    return "\n\n".join([*told, *(f"{table.title}\n{table_text(table)}" for table in tables)]), path


def warnings(sources: Sequence[Source]) -> list[str]:
    """What makes the runs hard to compare, a line each."""
    runs = [source.run for source in sources]
    told = [f"{run.name}: results that no longer count are left out: {old}" for run in runs if (old := stale(run))]
    facts: dict[str, Callable[[Record], Any]] = {
        "data": lambda r: r["data_hash"],
        "hardware": lambda r: r["hardware"]["cpu"],
        "versions": lambda r: ", ".join(f"{name} {version}" for name, version in r["versions"].items()),
        "commit": lambda r: r["git_commit"][:12],
    }
    for name, value in facts.items():
        found = {s.run.name: str(value(s.records[-1])) if s.records else "" for s in sources}
        if len(set(found.values())) > 1:
            told.append(f"{name} differs: " + "; ".join(f"{run} {v or 'not recorded'}" for run, v in found.items()))
    if any(run.config.preset == "smoke" for run in runs):
        told.append(
            "smoke has three short videos: a few boxes change its scores by points, so compare on street or mot17"
        )
    changed = len(changes(runs).rows)
    fields = f"{changed} field{'s' * (changed != 1)}"
    return [*told, f"config differs in {fields}, listed below"] if changed else told


def accuracy(sources: Sequence[Source], protocol: str) -> Table:
    """MOTA, IDF1 and HOTA of every stage that any run has, with the distance from the first run's in points."""
    groups = []
    for stage in EVALUATED:
        found = [overall(last(source.records, stage, "accuracy"), protocol) for source in sources]
        rows = [
            Row(METRIC_NAMES[m], _scores([f.get(m) for f in found])) for m in COMPARED if any(m in f for f in found)
        ]
        groups += [(STAGE_TITLES[stage], rows)] if rows else []
    title = f"Accuracy, protocol {protocol}"
    return Table([s.run.name for s in sources], groups, title=title, note="Percent; distances in points.")


def _scores(values: Sequence[float | None]) -> list[Cell]:
    first, *others = values
    cells = [Cell(percent(first) if first is not None else "–")]
    for value in others:
        if value is None or first is None:
            cells.append(Cell("–" if value is None else percent(value)))
        else:
            cells.append(Cell(percent(value), *delta(value, first)))
    return cells


def costs(sources: Sequence[Source]) -> Table:
    """Latency and size, with the ratio to the first run's."""
    rows = []
    for stage, kind, metric, title, more in _COSTS:
        values = [number(source.metrics(stage, kind).get(metric)) for source in sources]
        if any(value is not None for value in values):
            rows.append(Row(title, _ratios(values, more)))
    return Table([s.run.name for s in sources], [("", rows)] if rows else [], title="Latency and size")


def _ratios(values: Sequence[float | None], more: bool) -> list[Cell]:
    first, *others = values
    cells = [Cell(plain(first) if first is not None else "–")]
    for value in others:
        if value is None or not first:
            cells.append(Cell("–" if value is None else plain(value)))
        else:
            change = 100 * (value / first - 1)
            tone = "even" if abs(change) < 0.5 else "better" if (change > 0) is more else "worse"
            cells.append(Cell(plain(value), signed(f"{change:+.0f} %"), tone))
    return cells


def changes(runs: Sequence[Run]) -> Table:
    """The fields in which the configs differ."""
    configs = [flat(run.config.to_dict()) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name not in _NAMES)
    differing = [name for name in names if len({repr(config.get(name)) for config in configs}) > 1]
    rows = [Row(name, [Cell(plain(config.get(name))) for config in configs]) for name in differing]
    return Table([run.name for run in runs], [("", rows)] if rows else [], title="Config")
