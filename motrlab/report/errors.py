"""Section: where misses and switches come from, with pictures of the worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from motrlab.evaluation.errors import ErrorRow, Event
from motrlab.names import EVALUATED
from motrlab.quantization.analysis.layers import read_table
from motrlab.report.blocks import Block, Cell, Drawing, Picture, Row, Section, Source, Table, table
from motrlab.report.frames import shrunk
from motrlab.report.values import percent, plain, stage_word
from motrlab.viz.svg import Plot

_WIDTH, _STEP, _LABELS = 920.0, 19.0, 260.0  # pixels: all, a bar's room, the room for levels' names
_PICTURE_BYTES = 200_000
_INTRO = (
    "Every ground truth box of the test halves under protocol motchallenge, by what the annotations say of it. A level "
    "whose share of the misses is far above its share of the boxes is where the tracker loses most."
)
_CAPTIONS = {
    "miss": "The worst misses: people seen well, for long. Red corners mark the person, at the frame where it is seen "
    "best; boxes and numbers are the tracks there.",
    "switch": "The worst switches: people seen well before and after. The track's number on the marked person changes "
    "from the left crop to the right one.",
}


def section(source: Source) -> Section:
    """Of the last stage that has it."""
    record = next((r for s in reversed(EVALUATED) if (r := source.last(s, "errors"))), None)
    if record is None:
        return Section(missing=["where misses and switches come from (notebook 06)"])
    files, gone = source.files("the errors", record)
    stem = f"errors_{record['stage']}"
    rows = read_table(files[f"{stem}.csv"], ErrorRow) if f"{stem}.csv" in files else []
    blocks: list[Block | None] = [f"{_INTRO} Shown: {stage_word(record['stage'])}."]
    blocks += [error_drawing(rows), error_table(rows)] if rows else []
    if not source.numbers_only:
        for kind, caption in _CAPTIONS.items():
            if file := files.get(f"{stem}_{kind}.jpg"):
                image = np.asarray(cv2.imread(str(file)), np.uint8)
                alt = f"{caption.partition('.')[0]}."
                blocks.append(Picture(shrunk(image, _PICTURE_BYTES), alt, caption, "frames"))
    events = read_table(files[f"{stem}_worst.csv"], Event) if f"{stem}_worst.csv" in files else []
    return Section([*blocks, event_table(events)], gone)


def error_table(rows: Sequence[ErrorRow]) -> Table:
    """A group for each factor; rates of the boxes, and shares of all of a kind."""
    first = [row for row in rows if row.factor == rows[0].factor]
    boxes, missed, switches = (max(1, sum(getattr(r, n) for r in first)) for n in ("boxes", "missed", "switches"))

    def cells(row: ErrorRow) -> list[Cell]:
        told = (
            plain(row.boxes), f"{percent(row.boxes / boxes)} %",
            plain(row.missed), f"{percent(row.missed / row.boxes)} %", f"{percent(row.missed / missed)} %",
            plain(row.switches), f"{1000 * row.switches / row.boxes:.1f}", f"{percent(row.switches / switches)} %",
        )  # fmt: skip
        return [Cell(text) for text in told]

    columns = ["boxes", "of all boxes", "missed", "of these boxes", "of all misses"]
    columns += ["switches", "per 1000 boxes", "of all switches"]
    groups = {row.factor: [Row(r.level, cells(r)) for r in rows if r.factor == row.factor] for row in rows}
    return Table(columns, list(groups.items()), "Level", "Where errors come from")


def error_drawing(rows: Sequence[ErrorRow]) -> Drawing:
    """Bars of the share of boxes that is missed, a level below the other."""
    factors = list(dict.fromkeys(row.factor for row in rows))
    most = max(0.01, *(row.missed / row.boxes for row in rows))
    height, at = _STEP * (len(rows) + 1.4 * len(factors)) + 16, 4.0
    plot, scale = Plot(_WIDTH, height, (0, 1), (0, 1)), (_WIDTH - _LABELS - 70) / most
    for factor in factors:
        at += 1.4 * _STEP
        plot.text(8, at - 6, factor, "name")
        for row in (row for row in rows if row.factor == factor):
            share = row.missed / row.boxes
            told = f"{row.level}: {percent(share)} % of {plain(row.boxes)} boxes missed, {row.switches} switches"
            plot.text(_LABELS - 8, at + 13, row.level, anchor="end")
            plot.rect(_LABELS, at + 3, share * scale, _STEP - 6, "k3", told)
            plot.text(_LABELS + 6 + share * scale, at + 13, f"{percent(share)} %")
            at += _STEP
    plot.line([(_LABELS, 12), (_LABELS, height - 8)], "axis")
    worst = max(rows, key=lambda row: row.missed / row.boxes)
    told = f"most at {worst.factor.lower()}: {worst.level}, {percent(worst.missed / worst.boxes)} %"
    told = f"Share of boxes that is missed, by level; {told}."
    return Drawing(plot.svg(told), told)


def event_table(events: Sequence[Event]) -> Table | None:
    columns: dict[str, Callable[[Event], str | Cell]] = {
        "sequence": lambda e: e.sequence,
        "frame": lambda e: str(e.frame),
        "person": lambda e: str(e.person),
        "boxes in a row": lambda e: str(e.length) if e.kind == "miss" else "–",
        "frames since its last track": lambda e: str(e.length) if e.kind == "switch" else "–",
        "visibility": lambda e: f"{e.visibility:.2f}",
    }
    told = {"title": "The worst, as numbers", "num_texts": 1}
    return table(events, columns, lambda e: e.kind, corner="What", **told)
