"""Page: what a frame takes, measured and predicted, layer by layer → `reports/RUN/latency.html`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motrlab.deploy.performance import how_measured, read_performance
from motrlab.deploy.whatif import FACTORS, what_if, what_if_data
from motrlab.files import write_text
from motrlab.report import debugging, speed
from motrlab.report.blocks import Block, Cell, Listing, Part, Section, Sliders, Source, Table, table
from motrlab.report.latency_layers import layer_table, module_table, ms
from motrlab.report.latency_pictures import Values, memory_curve, memory_split, roofline, timeline, usage
from motrlab.report.pages import Card, Page, page_html
from motrlab.report.values import GRAPHS, Record, number, percent, plain, signed, value_line, words
from motrlab.run import Run

MEASURED = "onnxruntime-cpu"  # the target whose kernels micro-benchmarks describe
DESIGN_FPS = 30  # of the cameras that the reference is built for
_MAX_PARTS, _MAX_ROWS = 6, 2000  # results, and their layers, that the page shows whole; the others have their files
_FRAME = ("preprocess", "base", "qim", "host")
_PACED = (
    "From a frame's arrival to its tracks. Between two frames the processor sleeps: the time to wake up and to fill "
    "its caches again counts here. In “A frame” each frame follows the one before without a pause."
)


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
    """The last of each target and kind, measured ones first, then the newest; without missing files."""
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
    made = {"Report": "index.html", "Quantisation": "quantization.html"}
    links = {title: file for title, file in made.items() if (run.report / file).exists()}
    write_text(path, page_html(PAGE, Source(run), links))
    return path


def headline(source: Source) -> str:
    """What a frame takes, where, and whether that keeps up with a camera."""
    told = []
    for result in results(source):
        frame, kind = result.values["frame"], result.values["kind"]
        rate = frame["fps"] / DESIGN_FPS
        verdict = f"{rate:.1f} times" if rate >= 1 else f"only {percent(rate, 0)} % of"
        where = f" ({result.record['hardware']['cpu']})" if result.measured else ""
        said = f"{ms(frame['latency_ms'])} ms a frame, {frame['fps']:.0f} frames a second"
        basis = f" ({'; '.join(told_of)})" if (told_of := _basis(result)) else ""
        camera = f"{verdict} a camera's {DESIGN_FPS} frames a second"
        told.append(f"{kind} on {result.values['target']}{where}: {said}, {camera}{basis}")
    if told:
        return "; ".join(text[0].upper() + text[1:] if i == 0 else text for i, text in enumerate(told[:3])) + "."
    metrics = source.metrics("perf", "latency")
    if total := number(metrics.get("step.total.p50_ms")):
        return f"Measured here: {ms(total)} ms a frame, {metrics.get('fps', 1e3 / total):.0f} frames a second."
    return "Nothing has been measured or predicted in this run yet: `python -m motrlab perf --run NAME`."


def _basis(result: Result) -> list[str]:
    """What a prediction rests on that is no fact about its target."""
    frame, found = result.values["frame"], []
    if assumed := _assumed(result):
        found.append(f"{assumed} figures of this target are assumed")
    if result.values.get("foreign_host"):
        outside = frame.get("preprocess_ms", 0.0) + frame["host_ms"]
        found.append(f"{ms(outside)} ms of it, outside the graphs, were measured on this computer")
    return found


def _assumed(result: Result) -> str:
    """`23 of 25`, of the figures that a prediction is based on; empty where it is none, or an old file does not say."""
    figures = result.values.get("figures")
    return f"{figures['assumed']} of {figures['number']}" if figures else ""


def cards(source: Source) -> Sequence[Card]:
    found = []
    for result in shown(source):
        frame = result.values["frame"]
        tone = "better" if frame["fps"] >= DESIGN_FPS else "worse"
        value, note = f"{ms(frame['latency_ms'])} ms", f"{result.values['kind']}; {frame['fps']:.0f} frames a second"
        found.append({"label": result.values["target"], "value": value, "note": note, "tone": tone})
    return found


def summary(source: Source) -> Section:
    found = results(source)
    if not found:
        return Section(missing=["a frame, measured or predicted (`perf`)"])
    intro = (
        "A frame is two graphs and the host between them, in a closed loop: the base graph cannot start before the QIM "
        "of the frame before has made its queries. So latencies add up, and frames a second are their inverse. "
        "Measured milliseconds are medians, frames a second are over all frames."
    )
    columns: dict[str, Callable[[Result], str | Cell]] = {
        "frame, ms": lambda r: ms(r.values["frame"]["latency_ms"]),
        "frames a second": lambda r: f"{r.values['frame']['fps']:.0f}",
        **{words(f"{name}_ms"): lambda r, n=name: _frame_part(r.values, n) for name in _FRAME},  # type: ignore[misc]
        "peak memory, MB": _peak_memory,
        "off-chip, MB a frame": lambda r: _mega((r.values.get("traffic") or {}).get("off_chip_bytes_per_frame")),
        "figures assumed": lambda r: _assumed(r) or "–",
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
    return ms(number(part))


def _mega(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found / 1e6:.3g}"


def _peak_memory(result: Result) -> str:
    if (peak := number(result.values.get("peak_memory_mb"))) is not None:
        return f"{peak:.0f} (process)"
    peaks = [m["peak_bytes"] for m in (result.values.get("memory") or {}).values() if isinstance(m, Mapping)]
    return _mega(max(peaks, default=None))


def beside(found: Sequence[Result]) -> Table | None:
    """Graphs as measured here and as predicted for a host that was described (its prediction has no `machine` to play
    with), and how well the order of its layers was predicted; None where either is missing.
    """
    here = next((r.values for r in found if r.measured and r.values["target"] == MEASURED), None)
    if here is None:
        return None
    hosts = [r.values for r in found if not r.measured and not r.values.get("machine")]
    rows: list[tuple[str, str, str, str]] = []
    for host in hosts:
        for graph, title in GRAPHS.items():
            real, told = (side["graphs"][graph]["latency_ms"] for side in (here, host))
            error = signed(f"{100 * (told / real - 1):+.0f} %")
            rows.append((f"{host['target']}, {title}", ms(real), ms(told), f"{error}; {_rank_text(here, host, graph)}"))
    columns: dict[str, Callable[[Any], str | Cell]] = {
        name: functools.partial(lambda i, row: row[i], i)
        for i, name in enumerate(("measured, ms", "predicted, ms", "error; order of layers"), 1)
    }
    return table(rows, columns, lambda row: row[0], corner="Described host", title="Measured beside predicted")


def _rank_text(here: Values, host: Values, graph: str) -> str:
    """Rank correlation of the layers that both have."""
    sides = [{r["name"]: r["latency_ms"] for r in v["layers"] if r["graph"] == graph} for v in (here, host)]
    names = [name for name in sides[0] if name in sides[1]]
    if len(names) < 3:
        return "layers have other names"
    from scipy.stats import spearmanr  # half a second to import, and only described hosts ask

    rank = spearmanr([sides[0][n] for n in names], [sides[1][n] for n in names]).statistic
    return f"rank correlation {rank:.2f} of {len(names)} layers"


def _remarks(result: Result) -> Part | None:
    values = result.values
    blocks: list[Block | None] = [bounds(values)]
    if how := how_measured({**values, "rate_limited": None}):
        blocks.append(Listing(how, "How it was measured"))
    if limited := values.get("rate_limited"):
        said = [value_line(name, value) for name, value in limited.items() if number(value) is not None]
        blocks.append(Listing(said, "At the camera's rate", note=_PACED))
    advice = [
        f"{a.get('severity', 'note')}: {a.get('layer') or a.get('module') or ''}: {a['text']}"
        + (f" ({a['file']}:{a['line']})" if a.get("file") else "")
        for a in values.get("advice") or ()
    ]
    blocks.append(Listing(advice, "What to do") if advice else None)
    blocks.append(Listing(values["assumptions"], "What is assumed") if values.get("assumptions") else None)
    return Part(result.title, blocks) if any(blocks) else None


def bounds(values: Values) -> Table | None:
    """How much of the graphs' time each bound decides; None where layers were measured, which tells no bound."""
    times: Counter[tuple[str, str]] = Counter()
    numbers: Counter[tuple[str, str]] = Counter()
    for row in values["layers"]:
        times[row["graph"], row["bound"]] += row["latency_ms"]
        numbers[row["graph"], row["bound"]] += 1
    if {bound for _, bound in times} <= {"measured"}:
        return None
    for graph, told in values["graphs"].items():
        call = told["latency_ms"] - sum(took for (name, _), took in times.items() if name == graph)
        if call > 1e-6:
            times[graph, "call"] = call
    total = sum(times.values()) or 1.0
    columns: dict[str, Callable[[tuple[str, str]], str | Cell]] = {
        "layers": lambda key: str(numbers[key] or "–"),
        "ms": lambda key: ms(times[key]),
        "share of both graphs' time": lambda key: f"{percent(times[key] / total)} %",
    }
    keys = [key for key, _ in times.most_common()]
    return table(
        keys, columns, lambda k: f"{words(k[0])}, {k[1].replace('_', '-')}", corner="Bound by", title="What bounds it"
    )


def _distribution(forms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table | None:
    rows = {
        f"{words(form)}, {words(graph)}": stats for form, graphs in forms.items() for graph, stats in graphs.items()
    }
    names = dict.fromkeys(name for stats in rows.values() for name in stats)
    columns = {words(name): _stat(rows, name) for name in names}
    return table(rows, columns, str, corner="Form, graph", title="Distribution")


def _stat(rows: Mapping[str, Mapping[str, float]], name: str) -> Callable[[str], str | Cell]:
    return lambda row: plain(rows[row].get(name))


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
    data["chains"] = [
        [float(f"{part:.7g}") for part in chain] for chain in data["chains"]
    ]  # no longer than they must be
    machine = data["machine"]
    cores = ("cores that share a layer", f"(the target has {machine['cores']:g})")
    names = {"clock": ("clock", "GHz"), "cores": cores, "on_chip": ("bandwidth on the chip", "GB/s")}
    names |= {"off_chip": ("bandwidth off the chip", "GB/s"), "overhead": ("overhead of a layer", "µs (calls alike)")}
    names |= {"host": ("outside the graphs", "ms")}
    figures = {"clock": machine["clock_ghz"], "cores": 1, "on_chip": machine["on_chip_gbs"]}
    figures |= {"off_chip": machine["off_chip_gbs"], "overhead": machine.get("layer_overhead_us", 0)}
    figures["host"] = round(data["rest_ms"], 4)
    used = [name for name in FACTORS if figures[name]]  # nothing times two is nothing
    given = [(name, *names[name], figures[name]) for name in used]
    choices = [(f"{factor:g} × {names[name][0]}", {name: factor}) for name in used for factor in (0.5, 2)]
    choices.remove((f"0.5 × {cores[0]}", {"cores": 0.5}))
    rows = [("as it is", what_if(data)), *((told, what_if(data, **factors)) for told, factors in choices)]
    columns: dict[str, Callable[[tuple[str, Mapping[str, float]]], str | Cell]] = {
        "frame, ms": lambda row: ms(row[1]["frame"]),
        "frames a second": lambda row: f"{row[1]['fps']:.0f}",
        "times as fast": lambda row: f"{rows[0][1]['frame'] / row[1]['frame']:.2f}",
    }
    intro = (
        "Every layer again as max(compute ÷ (clock × cores), bytes ÷ bandwidth) + overhead, as the prediction computes "
        "it. Beside the graphs, the host's part is added. The tiles stay as they are."
    )
    return [intro, Sliders(given, data), table(rows, columns, lambda row: row[0], corner="With")]


def measured_forms(source: Source) -> Section:
    """Precisions and runtimes on this machine, and how far their calls scatter."""
    found = speed.section(source)
    scatter = [(r.title, _distribution(r.values.get("distribution") or {})) for r in shown(source) if r.measured]
    return Section([*found.blocks, *(Part(title, [told]) for title, told in scatter if told)], found.missing)


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
