"""A run's records → `reports/RUN/index.html` and the pages beside it, which need nothing else.

    python -m motrlab report --run demo

Pure functions of the records that count and the files they name, so that the same run gives the same pages. A section
is a file of this room with a function `section`, and an entry in a page's table; a page is an entry in `PAGES`. Every
page ends with where its numbers come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.names import CHAIN, STAGE_TITLES
from motrlab.report import (
    accuracy,
    data,
    debugging,
    errors,
    frames,
    latency,
    layers,
    notebooks,
    numbers,
    ranges,
    sensitivity,
    size,
    spread,
    training,
    verdict,
)  # fmt: skip
from motrlab.report.blocks import Source, delta
from motrlab.report.pages import Card, Page, page_html
from motrlab.report.values import COMPARED, METRIC_NAMES, Record, last, medians, number, percent, scores, stage_word
from motrlab.run import Run


def render_report(run: Run, *, numbers_only: bool = False, path: Path | None = None) -> Path:
    """Write the report of `run` to `path` (default `reports/RUN/index.html`) and all files beside it; its path.

    `numbers_only` leaves out every picture made from frames, and the notebooks: for data whose frames must not be
    passed on.
    """
    path = path or run.report / INDEX.file
    source = Source(run, numbers_only)
    shown = {} if numbers_only else notebooks.render(run, path.parent / notebooks.FOLDER)
    for page in PAGES:
        write_text(path if page is INDEX else path.with_name(page.file), page_html(page, source, _links(page), shown))
    write_text(path.with_name(numbers.FILE), numbers.text(source))
    return path


def report_html(run: Run, *, numbers_only: bool = False, page: Page | None = None) -> str:
    """One page as text, the first by default; without links to notebooks."""
    return page_html(page or INDEX, Source(run, numbers_only), _links(page or INDEX))


def _links(page: Page) -> dict[str, str]:
    return {other.title: other.file for other in PAGES if other is not page}


def headline(records: Sequence[Record]) -> str:
    """The cards as a sentence."""
    evaluated = list(scores(records, CHAIN[1:], PROTOCOLS[0]))
    if not evaluated:
        return "No accuracy has been measured in this run yet."
    told = [f"{card['label']} {card['value']} ({card['note']})" for card in cards(records)]
    return f"The {stage_word(evaluated[-1])} tracker on the test halves: {', '.join(told)}."


def cards(records: Sequence[Record]) -> list[Card]:
    """The few numbers shown large at the top: label, value, note, tone."""
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


def _verdict(source: Source) -> str:
    """Budgets and scores, or the cards as a sentence where no budget is declared."""
    found = verdict.headline(verdict.verdicts(source))
    told = list(scores(source.records, CHAIN[1:], PROTOCOLS[0]).items())[-1:]
    if not found or not told:
        return found + headline(source.records)
    values = ", ".join(f"{METRIC_NAMES[m]} {percent(told[0][1][m])}" for m in COMPARED if m in told[0][1])
    return f"{found} {STAGE_TITLES[told[0][0]]} on the test halves: {values}."


def _budgets(source: Source) -> list[Card]:
    return verdict.cards(verdict.verdicts(source)) or cards(source.records)


INDEX = Page(
    "index.html",
    "Report",
    {"Tracks": frames.first, "Verdict": verdict.section},
    _verdict,
    _budgets,
    compact=True,
)
ACCURACY = Page(
    "accuracy.html",
    "Accuracy",
    {
        "By stage": accuracy.section,
        "By sequence": accuracy.sequences,
        "Spread over seeds": spread.section,
        "Where errors come from": errors.section,
        "Tracks": frames.section,
    },
    accuracy.headline,
    lambda source: cards(source.records)[: len(COMPARED)],
    script="page.js",
)
QUANTIZATION = Page(
    "quantization.html",
    "Quantisation",
    {
        "Size and integers": size.section,
        "Layers": layers.section,
        "Accuracy by layer": debugging.section,
        "Ranges": ranges.section,
        "Sensitivity": sensitivity.section,
    },
    layers.headline,
    lambda source: [],
    script="page.js",
)
TRAINING = Page(
    "training.html",
    "Training",
    {"Curves": training.section, "Data": data.section},
    training.headline,
    lambda source: [],
    script="page.js",
)
PAGES = (INDEX, ACCURACY, latency.PAGE, QUANTIZATION, TRAINING)
