"""A run's records → `reports/RUN/index.html` and the pages beside it, which need nothing else.

    python -m motrlab report --run demo

Pure functions of the records that count and the files they name, so that the same run gives the same pages. A section
is a file of this room with a function `section`, and an entry in a page's table; a page is an entry in `PAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.names import CHAIN, STAGE_TITLES
from motrlab.report import accuracy, data, frames, latency, layers, provenance, sensitivity, size, speed, training
from motrlab.report.blocks import Section, Source, delta
from motrlab.report.pages import Card, Page, page_html
from motrlab.report.values import COMPARED, METRIC_NAMES, Record, last, medians, number, percent, scores, stage_word
from motrlab.run import Run

SECTIONS: Mapping[str, Callable[[Source], Section]] = {
    "Accuracy": accuracy.section,
    "Tracks": frames.section,
    "Training": training.section,
    "Speed": speed.section,
    "Size and integers": size.section,
    "Layers": layers.section,
    "Sensitivity": sensitivity.section,
    "Data": data.section,
    "Provenance": provenance.section,
}


def render_report(run: Run, *, numbers_only: bool = False, path: Path | None = None) -> Path:
    """Write the report of `run` to `path` (default `reports/RUN/index.html`), its other pages beside it; its path.

    `numbers_only` leaves out every picture made from frames: for data whose frames must not be passed on.
    """
    path = path or run.report / INDEX.file
    source = Source(run, numbers_only)
    for page in PAGES:
        if page is not INDEX:
            write_text(path.with_name(page.file), page_html(page, source, {INDEX.title: path.name}))
    write_text(path, report_html(run, numbers_only=numbers_only))
    return path


def report_html(run: Run, *, numbers_only: bool = False) -> str:
    """The first page as text."""
    return page_html(INDEX, Source(run, numbers_only), {page.title: page.file for page in PAGES if page is not INDEX})


def headline(records: Sequence[Record]) -> str:
    """The cards as a sentence."""
    evaluated = list(scores(records, CHAIN[1:], PROTOCOLS[0]))
    if not evaluated:
        return "No accuracy has been measured in this run yet."
    told = [f"{card['label']} {card['value']} ({card['note']})" for card in cards(records)]
    return f"The {stage_word(evaluated[-1])} tracker on the test halves: {', '.join(told)}."


def cards(records: Sequence[Record]) -> list[Card]:
    """The few numbers that stand large at the top: label, value, note, tone."""
    evaluated, found = scores(records, CHAIN[1:], PROTOCOLS[0]), []

    def add(label: str, value: str, note: str, tone: str = "") -> None:
        found.append({"label": label, "value": value, "note": note, "tone": tone})

    stage, metrics = list(evaluated.items())[-1] if evaluated else ("", {})
    reference = evaluated.get("float", {}) if stage != "float" else {}
    for metric in (m for m in COMPARED if m in metrics):
        distance, tone = delta(metrics[metric], reference[metric]) if metric in reference else ("", "")
        note = f"{distance} against float" if distance else STAGE_TITLES[stage]
        add(METRIC_NAMES[metric], percent(metrics[metric]), note, tone)
    if latency := last(records, "perf", "latency"):
        base, total = medians(latency["metrics"], "base"), medians(latency["metrics"], "step").get("total")
        if total:
            add("Frame step", f"{total:.1f} ms", f"median; {latency['metrics'].get('fps', 0):.0f} frames a second")
        if base.get("fixed_point") and base.get("fp32"):
            add("Base graph", f"{base['fp32'] / base['fixed_point']:.2f} ×", "as fast as fp32")
    integer = last(records, "fixed_point", "integer")
    share = number(integer["metrics"].get("base.integer_macs_share")) if integer else None
    if share is not None:
        add("In integers", f"{percent(share)} %", "of the multiply-accumulates of the base graph's products")
    return found


INDEX = Page(
    "index.html", "Report", SECTIONS, lambda source: headline(source.records), lambda source: cards(source.records)
)
PAGES = (INDEX, latency.PAGE)
