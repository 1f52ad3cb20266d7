"""A run's records → `reports/RUN/index.html`: one page that needs nothing else.

    python -m motrlab report --run demo

A pure function of the records that count and the files they name, so that the same run gives the same page. A section
is a file of this room with a function `section`, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.names import CHAIN, STAGE_TITLES
from motrlab.report import accuracy, data, frames, layers, provenance, sensitivity, size, speed, training
from motrlab.report.blocks import Section, Source, delta
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
_TEMPLATES = Path(__file__).parent / "templates"


def render_report(run: Run, *, numbers_only: bool = False, path: Path | None = None) -> Path:
    """Write the report of `run` to `path` (default `reports/RUN/index.html`) and return where it is.

    `numbers_only` leaves out every picture made from frames: for data whose frames must not be passed on.
    """
    page = report_html(run, numbers_only=numbers_only)
    path = path or run.report / "index.html"
    write_text(path, page)
    return path


def report_html(run: Run, *, numbers_only: bool = False) -> str:
    """The page as text. Whatever has not been measured is named as missing."""
    source = Source(run, numbers_only)
    sections = {name: section(source) for name, section in SECTIONS.items()}
    return render_page(
        run.name,
        f"report · preset {run.config.preset} · {data.data_source(source)}",
        sections,
        preset=run.config.preset,
        headline=headline(source.records),
        cards=cards(source.records),
        stale=provenance.stale(run),
        missing=[text for section in sections.values() for text in section.missing],
    )


def render_page(title: str, kicker: str, sections: Mapping[str, Section], **more: Any) -> str:
    """A page of sections as text; `more` stands before them: `headline`, `cards`, `stale`, `missing`, `preset`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = {"headline": "", "cards": [], "stale": "", "missing": [], "preset": "", **more}
    return environment.get_template("report.html.j2").render(title=title, kicker=kicker, sections=sections, **values)


def headline(records: Sequence[Record]) -> str:
    """The cards as a sentence."""
    evaluated = list(scores(records, CHAIN[1:], PROTOCOLS[0]))
    if not evaluated:
        return "No accuracy has been measured in this run yet."
    told = [f"{card['label']} {card['value']} ({card['note']})" for card in cards(records)]
    return f"The {stage_word(evaluated[-1])} tracker on the test halves: {', '.join(told)}."


def cards(records: Sequence[Record]) -> list[dict[str, str]]:
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
