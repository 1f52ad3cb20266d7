"""Page: what a frame takes, measured and predicted, layer by layer → `reports/RUN/latency.html`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motrlab.deploy.performance import read_performance
from motrlab.deploy.whatif import FACTORS, what_if, what_if_data
from motrlab.files import write_text
from motrlab.report import debugging, speed
from motrlab.report.blocks import Block, Cell, Listing, Part, Section, Sliders, Source, Table, table
from motrlab.report.latency_pictures import Values, memory_curve, memory_split, roofline, timeline, usage
from motrlab.report.pages import Card, Page, page_html
from motrlab.report.values import GRAPHS, Record, number, percent, plain, signed
from motrlab.run import Run

DESIGN_FPS = 30  # of the cameras that the reference is built for
_MAX_PARTS, _MAX_ROWS = 6, 2600  # results, and their layers, that the page shows whole; the others have their files
_FRAME = ("preprocess", "base", "qim", "host")


@dataclass(frozen=True)
class Result:
    """What `perf` found for a target, and the record that says so."""

    record: Record
    values: Values

    @property
    def title(self) -> str:
        return f"{self.values['target']}, {self.values['kind']}"

    @property
    def measured(self) -> bool:
        return bool(self.values["kind"] == "measured")


def results(source: Source) -> list[Result]:
    """The last of each target and kind, measured ones first, then the newest; without files that are gone."""
    found: dict[tuple[str, str], Result] = {}
    for record in source.records:
        if record["stage"] == "perf" and record["kind"] in ("latency", "prediction"):
            for name, path in source.files("perf", record)[0].items():
                if name.startswith("perf_") and name.endswith(".json") and not name.endswith(".trace.json"):
                    values = read_performance(path)
                    key = values["kind"], values["target"]
                    found.pop(key, None)  # the newest comes last
                    found[key] = Result(record, values)
    newest = list(reversed(found.values()))
    return sorted(newest, key=lambda result: not result.measured)


def render_latency(run: Run) -> Path:
    """Write `reports/RUN/latency.html` from the run's records of `perf` and return where it is."""
    path = run.report / PAGE.file
    write_text(path, page_html(PAGE, Source(run), {"Report": "index.html"}))
    return path


def headline(source: Source) -> str:
    """What a frame takes, where, and whether that keeps up with a camera."""
    told = []
    for result in results(source):
        frame, kind = result.values["frame"], result.values["kind"]
        rate = frame["fps"] / DESIGN_FPS
        verdict = f"{rate:.1f} times" if rate >= 1 else f"only {percent(rate, 0)} % of"
        where = f" ({result.record['hardware']['cpu']})" if result.measured else ""
        said = f"{_ms(frame['latency_ms'])} ms a frame, {frame['fps']:.0f} frames a second"
        told.append(f"{kind} on {result.values['target']}{where}: {said}, {verdict} the {DESIGN_FPS} of a camera")
    if told:
        return "; ".join(text[0].upper() + text[1:] if i == 0 else text for i, text in enumerate(told[:3])) + "."
    metrics = source.metrics("perf", "latency")
    if total := number(metrics.get("step.total.p50_ms")):
        return f"Measured here: {_ms(total)} ms a frame, {metrics.get('fps', 1e3 / total):.0f} frames a second."
    return "Nothing has been measured or predicted in this run yet: `python -m motrlab perf --run NAME`."


def cards(source: Source) -> Sequence[Card]:
    found = []
    for result in shown(source):
        frame = result.values["frame"]
        tone = "better" if frame["fps"] >= DESIGN_FPS else "worse"
        value, note = f"{_ms(frame['latency_ms'])} ms", f"{result.values['kind']}; {frame['fps']:.0f} frames a second"
        found.append({"label": result.values["target"], "value": value, "note": note, "tone": tone})
    return found


def _ms(value: float | None) -> str:
    """Milliseconds, to three digits."""
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def summary(source: Source) -> Section:
    found = results(source)
    if not found:
        return Section(missing=["a frame, measured or predicted (`perf`)"])
    intro = (
        "A frame is two graphs and the host between them, in a closed loop: the base graph cannot start before the QIM "
        "of the frame before has made its queries. So latencies add up, and frames a second are their inverse."
    )
    columns: dict[str, Callable[[Result], str | Cell]] = {
        "frame, ms": lambda r: _ms(r.values["frame"]["latency_ms"]),
        "frames a second": lambda r: f"{r.values['frame']['fps']:.0f}",
        **{f"{name}, ms": lambda r, n=name: _frame_part(r.values, n) for name in _FRAME},  # type: ignore[misc]
        "peak memory, MB": _peak_memory,
        "off-chip traffic, MB a frame": lambda r: _mega(
            (r.values.get("traffic") or {}).get("off_chip_bytes_per_frame")
        ),
        "on": lambda r: str(r.record["hardware"]["cpu"]) if r.measured else "paper",
        "when, UTC": lambda r: r.record["started"].replace("T", " ").removesuffix("+00:00"),
    }
    frames = table(found, columns, lambda r: r.title, corner="Target", title="A frame")
    left = [r.title for r in found if r not in shown(source)]
    told = f"Their layers are in the run's assets only: {', '.join(left)}." if left else None
    return Section([intro, frames, told, beside(found), *(_remarks(result) for result in shown(source))])


def _frame_part(values: Values, name: str) -> str:
    """Of the frame step; the graphs' own latency where the frame does not list them."""
    part = values["frame"].get(f"{name}_ms", values["graphs"].get(name, {}).get("latency_ms"))
    return _ms(number(part))


def _mega(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found / 1e6:.3g}"


def _peak_memory(result: Result) -> str:
    if (peak := number(result.values.get("peak_memory_mb"))) is not None:
        return f"{peak:.0f} (process)"
    peaks = [m["peak_bytes"] for m in (result.values.get("memory") or {}).values() if isinstance(m, Mapping)]
    return _mega(max(peaks, default=None))


def beside(found: Sequence[Result]) -> Table | None:
    """Graphs of the targets that were both measured and predicted, side by side; None where there is none."""
    pairs = []
    by_kind = {(r.values["target"], r.values["kind"]): r.values["graphs"] for r in found}
    for (target, kind), graphs in by_kind.items():
        predicted = by_kind.get((target, "predicted"))
        if kind == "measured" and predicted:
            both = [
                (f"{target}, {GRAPHS[g]}", graphs[g], predicted[g]) for g in GRAPHS if g in graphs and g in predicted
            ]
            pairs += [(name, a["latency_ms"], b["latency_ms"]) for name, a, b in both]
    columns: dict[str, Callable[[tuple[str, float, float]], str | Cell]] = {
        "measured, ms": lambda p: _ms(p[1]),
        "predicted, ms": lambda p: _ms(p[2]),
        "error": lambda p: signed(f"{100 * (p[2] / p[1] - 1):+.0f} %"),
    }
    return table(pairs, columns, lambda p: p[0], corner="Graph", title="Measured beside predicted")


def _remarks(result: Result) -> Part | None:
    values = result.values
    blocks: list[Block | None] = [bounds(values)]
    if distribution := values.get("distribution"):
        blocks.append(_distribution(distribution))
    if limited := values.get("rate_limited"):
        told = [
            f"{name.replace('_', ' ')}: {plain(value)}" for name, value in limited.items() if number(value) is not None
        ]
        blocks.append(Listing(told, "At the camera's rate"))
    advice = [
        f"{a.get('severity', 'note')}: {a.get('layer') or a.get('module') or ''}: {a['text']}"
        + (f" ({a['file']}:{a['line']})" if a.get("file") else "")
        for a in values.get("advice") or ()
    ]
    blocks.append(Listing(advice, "What to do") if advice else None)
    blocks.append(Listing(values["assumptions"], "What is assumed") if values.get("assumptions") else None)
    return Part(result.title, blocks) if any(blocks) else None


def bounds(values: Values) -> Table | None:
    """How much of the layers' time each bound decides; None where layers were measured, which tells no bound."""
    times: Counter[tuple[str, str]] = Counter()
    numbers: Counter[tuple[str, str]] = Counter()
    for row in values["layers"]:
        times[row["graph"], row["bound"]] += row["latency_ms"]
        numbers[row["graph"], row["bound"]] += 1
    if {bound for _, bound in times} <= {"measured"}:
        return None
    total = sum(times.values()) or 1.0
    columns: dict[str, Callable[[tuple[str, str]], str | Cell]] = {
        "layers": lambda key: str(numbers[key]),
        "ms": lambda key: _ms(times[key]),
        "share of the layers' time": lambda key: f"{percent(times[key] / total)} %",
    }
    keys = [key for key, _ in times.most_common()]
    return table(
        keys, columns, lambda k: f"{k[0]}, {k[1].replace('_', '-')}", corner="Bound by", title="What bounds it"
    )


def _distribution(forms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table | None:
    rows = {
        f"{form.replace('_', ' ')}, {graph}": stats for form, graphs in forms.items() for graph, stats in graphs.items()
    }
    names = dict.fromkeys(name for stats in rows.values() for name in stats)
    columns = {_words(name): _stat(rows, name) for name in names}
    return table(rows, columns, str, corner="Form, graph", title="Distribution")


def _stat(rows: Mapping[str, Mapping[str, float]], name: str) -> Callable[[str], str | Cell]:
    return lambda row: plain(rows[row].get(name))


def _words(name: str) -> str:
    return name.removesuffix("_ms").replace("p50", "median") + (", ms" if name.endswith("_ms") else "")


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
_NOTE = (
    "In order of execution; a heading sorts, the field filters. Bound: what decides the layer's time. The three cycle "
    "columns are what its arithmetic, the memory on the chip and the memory off the chip need; the largest counts."
)


def layer_table(values: Values) -> Table | None:
    """Every layer: the contract's columns, and whatever else this result has."""
    rows = values["layers"]
    used = {key: said for key, said in _COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    columns = {heading: _cell(key, say) for key, (heading, say) in used.items()}
    num_texts = sum(key in used for key in _TEXTS)
    return table(rows, columns, lambda row: row["name"], corner="Layer", note=_NOTE, sortable=True, num_texts=num_texts)


def _cell(key: str, say: Callable[[Any], str]) -> Callable[[Values], str | Cell]:
    return lambda row: "–" if row.get(key) is None else say(row[key])


def module_table(values: Values) -> Table | None:
    """Sums by module, the slowest first."""
    found = [e for e in values.get("entities") or () if e["kind"] == "module"]
    found.sort(key=lambda entity: -entity["latency_ms"])
    total = sum(e["latency_ms"] for e in found) or 1.0
    columns: dict[str, Callable[[Values], str | Cell]] = {
        "layers": lambda e: str(e["num_layers"]),
        "ms": lambda e: _ms(e["latency_ms"]),
        "% of time": lambda e: percent(e["latency_ms"] / total),
        "MACs, M": lambda e: f"{e['macs'] / 1e6:.3g}",
        "read and written, MB": lambda e: f"{(e['bytes_read'] + e['bytes_written']) / 1e6:.3g}",
    }
    return table(found, columns, lambda e: e["id"].replace("/", " "), corner="Module", title="By module")


def shown(source: Source) -> list[Result]:
    """The results that the page has room for."""
    found: list[Result] = []
    rows = 0
    for result in results(source)[:_MAX_PARTS]:
        rows += len(result.values["layers"])
        if rows <= _MAX_ROWS or not found:
            found.append(result)
    return found


def _each(build: Callable[[Values], Sequence[Block | None]], missing: str) -> Callable[[Source], Section]:
    """A section with a part for every result that has what it shows."""

    def section(source: Source) -> Section:
        parts = [Part(r.title, blocks) for r in shown(source) if any(blocks := build(r.values))]
        return Section(parts, [] if parts else [missing])

    return section


def sliders(values: Values) -> list[Block | None]:
    """The sliders, and for paper a table of some answers."""
    data = what_if_data(values)
    if data is None:
        return []
    machine = data["machine"]
    cores = ("cores that share a layer", f"(the target has {machine['cores']:g})")
    names = {"clock": ("clock", "GHz"), "cores": cores, "on_chip": ("bandwidth on the chip", "GB/s")}
    names |= {"off_chip": ("bandwidth off the chip", "GB/s")}
    figures = {"clock": "clock_ghz", "on_chip": "on_chip_gbs", "off_chip": "off_chip_gbs"}
    given = [(name, *names[name], machine[figures[name]] if name in figures else 1) for name in FACTORS]
    choices = [(f"{factor:g} × {names[name][0]}", {name: factor}) for name in FACTORS for factor in (0.5, 2)]
    choices.remove((f"0.5 × {cores[0]}", {"cores": 0.5}))
    rows = [("as it is", what_if(data)), *((told, what_if(data, **factors)) for told, factors in choices)]
    columns: dict[str, Callable[[tuple[str, Mapping[str, float]]], str | Cell]] = {
        "frame, ms": lambda row: _ms(row[1]["frame"]),
        "frames a second": lambda row: f"{row[1]['fps']:.0f}",
        "times as fast": lambda row: f"{rows[0][1]['frame'] / row[1]['frame']:.2f}",
    }
    intro = (
        "Every layer again as max(compute ÷ (clock × cores), bytes ÷ bandwidth) + overhead, as the prediction computes "
        "it. What no layer has, the host's part, stays, and so do the tiles."
    )
    return [intro, Sliders(given, data), table(rows, columns, lambda row: row[0], corner="With")]


def measured_forms(source: Source) -> Section:
    """Precisions and runtimes on this machine."""
    return speed.section(source)


PAGE = Page(
    "latency.html",
    "Latency",
    {
        "Summary": summary,
        "Measured": measured_forms,
        "Layers": _each(lambda values: [module_table(values), layer_table(values)], "costs of layers"),
        "Timeline": _each(lambda values: [timeline(values), usage(values)], "the time line of a frame"),
        "Memory": _each(lambda values: [memory_split(values), memory_curve(values)], "what memory holds"),
        "Roofline": _each(lambda values: [roofline(values)], "the roofs of a target"),
        "What-if": _each(sliders, "a prediction to change (`perf --target`)"),
        "Accuracy by layer": debugging.section,
    },
    headline,
    cards,
    script="page.js",
)
