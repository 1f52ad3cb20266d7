"""Section: where each training went, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from motrlab.names import STAGE_TITLES
from motrlab.report.blocks import Cell, Picture, Row, Section, Source, Table
from motrlab.report.values import Record, last, plain, stage_word, value_text, words
from motrlab.training.curve import loss_terms
from motrlab.viz.curves import figure_png, loss_curves, read_columns

TRAINED = ("float", "qat", "float_extra")


def section(source: Source) -> Section:
    pictures, missing = [], []
    for stage in TRAINED:
        record = _last(source.records, stage)
        missing += [f"training of {stage_word(stage)}"] * (record is None and stage != "float_extra")
        files, gone = source.files(f"the losses of {STAGE_TITLES[stage]}", record)
        missing += gone
        pictures += [picture for file in files.values() if (picture := _picture(stage, file, record))]
    found = training_table(source.records)
    return Section([*pictures, "Where each training ended.", found] if found else [], missing)


def headline(source: Source) -> str:
    """What was trained, for how long."""
    told = []
    for stage in TRAINED:
        if (record := _last(source.records, stage)) and "steps" in record["metrics"]:
            steps, minutes = plain(record["metrics"]["steps"]), record["duration_s"] / 60
            told.append(f"{stage_word(stage)} {steps} steps in {minutes:.1f} minutes")
    return f"Trained: {', '.join(told)}." if told else "Nothing has been trained in this run yet."


def training_table(records: Sequence[Record]) -> Table | None:
    """Last values of every training, a block for each: their losses have other terms, and do not compare."""
    groups = []
    for stage in TRAINED:
        if record := _last(records, stage):
            values = {**record["metrics"], "duration_s": round(record["duration_s"])}
            groups.append((STAGE_TITLES[stage], [Row(words(n), [Cell(value_text(n, v))]) for n, v in values.items()]))
    note = (
        "Loss and terms: means over the last tenth of the steps. The terms of a training add up to its loss; denoising "
        "is of queries that only float training has."
    )
    return Table(["value"], groups, note=note) if groups else None


def _last(records: Sequence[Record], stage: str) -> Record | None:
    """Of a whole training, not of a validation on its way."""
    return last([r for r in records if "validation_step" not in r["metrics"]], stage, "training")


def _picture(stage: str, file: Path, record: Record | None) -> Picture | None:
    columns = read_columns(file) if file.suffix == ".csv" else {}
    steps = columns.get("step", [])
    terms = {words(name): columns[name] for name in loss_terms(columns)}
    if len(steps) < 2 or not terms:
        return None
    window, first = max(1, len(steps) // 40), next(iter(terms))
    number = plain((record or {"metrics": {}})["metrics"].get("steps", int(steps[-1]) + 1))
    start, end = float(np.nanmean(terms[first][:window])), float(np.nanmean(terms[first][-window:]))
    title = f"{STAGE_TITLES[stage]} training" if stage != "float_extra" else STAGE_TITLES[stage]
    bold = f"; bold lines are means over {window} recorded points" if window > 1 else ""
    return Picture(
        figure_png(loss_curves(steps, terms, title=title, window=window)),
        f"Curves of {', '.join(terms)} over {number} steps of {title.lower()}.",
        f"{title}: {first} goes from {start:.3g} to {end:.3g} in {number} steps{bold}.",
    )
