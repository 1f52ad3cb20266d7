"""Tables of runs that differ in the seed alone: means and how far the runs are apart."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.evaluation.metrics import CLASSES
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.names import EVALUATED, STAGE_TITLES
from motrlab.report.blocks import Cell, Row, Section, Source, Table
from motrlab.report.values import COMPARED, METRIC_NAMES, Record, overall, percent, signed
from motrlab.run import Run

_FREE = ("seed", "budgets")  # fields that may differ
_PAIRS = (("calibration", "float"), ("qat", "float_extra"), ("fixed_point", "float"), ("fixed_point", "float_extra"))
_NOTE = "Percent, mean ± standard deviation, lowest to highest in brackets; distances in points, seed by seed."

Scores = Mapping[str, Sequence[float]]  # metric → a value for each run


def section(source: Source) -> Section:
    """Of this run and of those beside it."""
    found = [Source(run) for run in siblings(source.run)]
    tables = [t for protocol in PROTOCOLS for t in spread_tables(found, protocol)] if len(found) > 1 else []
    if not tables:
        name, preset = re.sub(r"-\d+$", "", source.run.name), source.run.config.preset
        again = f"python -m motrlab run --preset {preset} --run {name} --set seed=0,1,2"
        return Section([f"One seed shows no spread. For three seeds: `{again}`."])
    seeds = ", ".join(f"{s.run.name} (seed {s.run.config.seed})" for s in found)
    return Section([f"Runs that differ in the seed alone: {seeds}.", *tables])


def siblings(run: Run) -> list[Run]:
    """`NAME`, `NAME-1`, `NAME-2`, … that differ in the seed alone and have scores, this one among them, by name."""
    stem, found = re.sub(r"-\d+$", "", run.name), []
    folders = [p for p in run.path.parent.iterdir() if re.fullmatch(re.escape(stem) + r"(-\d+)?", p.name)]
    for folder in sorted(folders, key=lambda p: (len(p.name), p.name)):
        try:
            other = run if folder == run.path else Run.open(folder.name, create=False)
        except UserError:
            continue  # of another motrlab
        if seeds_alone([run.config, other.config]) and any(r["kind"] == "accuracy" for r in other.records()):
            found.append(other)
    return found


def seeds_alone(configs: Sequence[Config]) -> bool:
    """Whether configs differ in nothing else."""
    kept = [{k: v for k, v in config.to_dict().items() if k not in _FREE} for config in configs]
    return all(values == kept[0] for values in kept)


def spread_tables(sources: Sequence[Source], protocol: str) -> list[Table]:
    """By stage, then by sequence for float and the last stage that all runs have; without such a stage none."""
    records: dict[str, list[Record]] = {}
    for stage in EVALUATED:
        found = [record for source in sources if (record := source.last(stage, "accuracy"))]
        if len(found) == len(sources):
            records[stage] = found
    scores = {stage: _scores(found, protocol) for stage, found in records.items()}
    rows = [_row(STAGE_TITLES[stage], found, emphasis=stage == "fixed_point") for stage, found in scores.items()]
    for stage, other in _PAIRS:
        if stage in scores and other in scores:
            rows.append(_row(f"{STAGE_TITLES[stage]} − {STAGE_TITLES[other]}", _less(scores[stage], scores[other])))
    if not rows:
        return []
    columns, title = [METRIC_NAMES[m] for m in COMPARED], f"Spread over {len(sources)} seeds, protocol {protocol}"
    by_stage = Table(columns, [("", rows)], "Stage", title, _NOTE)
    return [by_stage, _by_sequence(records, protocol, columns)]


def _by_sequence(records: Mapping[str, Sequence[Record]], protocol: str, columns: Sequence[str]) -> Table:
    stages = [stage for stage in ("float", "fixed_point") if stage in records] or list(records)[-1:]
    heads = [key.rpartition(".")[0] for key in records[stages[-1]][0]["metrics"] if key.startswith(f"{protocol}.")]
    rows = []
    for head in dict.fromkeys(head for head in heads if head != protocol):
        for stage in stages:
            row = _row(
                head.removeprefix(f"{protocol}.").replace(f"{CLASSES}.", "class "), _scores(records[stage], head)
            )
            rows.append(Row(row.label, [Cell(STAGE_TITLES[stage]), *row.cells]))
    title = f"Spread by sequence, protocol {protocol}"
    return Table(["stage", *columns], [("", rows)], "Sequence", title, num_texts=1)


def _scores(records: Sequence[Record], head: str) -> Scores:
    found = [overall(record, head) for record in records]
    return {m: [one[m] for one in found] for m in COMPARED if all(m in one for one in found)}


def _less(a: Scores, b: Scores) -> Scores:
    return {m: [x - y for x, y in zip(a[m], b[m], strict=True)] for m in a if m in b}


def _row(label: str, scores: Scores, *, emphasis: bool = False) -> Row:
    return Row(label, [Cell(spread_text(scores[m]) if m in scores else "–") for m in COMPARED], emphasis=emphasis)


def spread_text(values: Sequence[float]) -> str:
    """`91.6 ± 0.6 (90.9 to 92.7)` of fractions."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    ends = f"({percent(min(values))} to {percent(max(values))})"
    return signed(f"{percent(statistics.mean(values))} ± {percent(deviation)} {ends}")
