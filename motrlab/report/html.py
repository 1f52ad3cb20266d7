"""A run's records → `reports/RUN/index.html`: one page that needs nothing else.

    python -m motrlab report --run demo

A pure function of the records and the files they name, so that the same run gives the same page.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from motrlab.files import write_text
from motrlab.report import pictures, tables
from motrlab.report.layers import layers_section
from motrlab.report.sensitivity import sensitivity_section
from motrlab.report.tables import PROTOCOLS, STAGE_NAMES, STAGES, Record, Row, Table, last, number, overall
from motrlab.run import Run

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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(_context(run, numbers_only))


def _context(run: Run, numbers_only: bool) -> dict[str, Any]:
    records: list[Record] = list(run.records())
    latency = last(records, "perf", "latency")
    integer = last(records, "fixed_point", "integer")
    calops = last(records, "float", "calops")
    data = last(records, "data", "data")
    losses, lost_curves = pictures.loss_pictures(records, run.path)
    layers, sensitivity = layers_section(records, run.path), sensitivity_section(records, run.path)
    lost = [text for section in (layers, sensitivity) if section for text in section.missing]
    frames, lost_frames = pictures.frame_pictures(records, run.path) if not numbers_only else ([], [])
    return {
        "run": run.name,
        "preset": run.config.preset,
        "too_small": run.config.preset == "smoke",
        "numbers_only": numbers_only,
        "headline": headline(records),
        "cards": cards(records),
        "accuracy": {p: t for p in PROTOCOLS if (t := tables.accuracy_table(records, p))},
        "costs": {p: t for p in PROTOCOLS if (t := tables.cost_table(records, p))},
        "agreement": tables.agreement_table(records),
        "accuracy_picture": pictures.accuracy_picture(records, PROTOCOLS[0]),
        "sequences": {p: t for p in PROTOCOLS if (t := tables.sequence_table(records, p))},
        "losses": losses,
        "training": tables.training_table(records),
        "latency": tables.latency_tables(latency["metrics"]) if latency else [],
        "latency_picture": pictures.latency_picture(latency),
        "throughput": tables.throughput_table(latency["metrics"]) if latency else None,
        "integer": tables.graph_table(integer["metrics"], share=True) if integer else None,
        "calops": tables.graph_table(calops["metrics"]) if calops else None,
        "layers": layers,
        "sensitivity": sensitivity,
        "frames": frames,
        "data": tables.plain_tables(data["metrics"]) if data else [],
        "data_source": run.config.data_root or "street, the embedded synthetic videos",
        "provenance": provenance(run, records),
        "changes": config_changes(run, records),
        "command": command(run),
        "history": history(records),
        "missing": [*missing(records), *lost_curves, *lost_frames, *lost],
    }


def headline(records: Sequence[Record]) -> str:
    """The run in a sentence: accuracy of the last stage evaluated, its distance from float, its speed."""
    evaluated = {s: overall(r, PROTOCOLS[0]) for s in STAGES if (r := last(records, s, "accuracy"))}
    evaluated = {stage: metrics for stage, metrics in evaluated.items() if "mota" in metrics}
    if not evaluated:
        return "No accuracy has been measured in this run yet."
    stage = list(evaluated)[-1]
    metrics = evaluated[stage]
    names = [(tables.METRIC_NAMES[m], m) for m in tables.COMPARED if m in metrics]
    scores = ", ".join(f"{name} {tables.percent(metrics[m])}" for name, m in names)
    text = f"The {STAGE_NAMES[stage].lower().replace('qat', 'QAT')} tracker scores {scores} on the test halves"
    if stage != "float" and "float" in evaluated:
        distance, _ = tables.delta_points(metrics["mota"], evaluated["float"]["mota"])
        text += f", {distance} MOTA points against float"
    return text + _speed(last(records, "perf", "latency")) + "."


def _speed(latency: Record | None) -> str:
    """`; 12.3 ms a frame, 81 frames a second; base graph 1.92 times as fast as fp32`, as far as it was measured."""
    if latency is None:
        return ""
    metrics = latency["metrics"]
    total, fps = tables.medians(metrics, "step").get("total"), number(metrics.get("fps"))
    told = [f"{total:.1f} ms a frame"] if total else []
    told += [f"{fps:.0f} frames a second"] if fps else []
    text = "; " + ", ".join(told) if told else ""
    base = tables.medians(metrics, "base")
    if base.get("fixed_point") and base.get("fp32"):
        text += f"; base graph {base['fp32'] / base['fixed_point']:.2f} times as fast as fp32"
    return text


def cards(records: Sequence[Record]) -> list[dict[str, str]]:
    """The few numbers that stand large at the top: label, value, note, tone."""
    stage = next((s for s in reversed(STAGES) if (r := last(records, s, "accuracy")) and overall(r, PROTOCOLS[0])), "")
    record, float_record = last(records, stage, "accuracy"), last(records, "float", "accuracy")
    metrics = overall(record, PROTOCOLS[0]) if record else {}
    reference = overall(float_record, PROTOCOLS[0]) if float_record else {}
    found = []
    for metric in tables.COMPARED:
        if metric in metrics:
            note, tone = STAGE_NAMES[stage], ""
            if stage != "float" and metric in reference:
                distance, tone = tables.delta_points(metrics[metric], reference[metric])
                note = f"{distance} against float"
            value = tables.percent(metrics[metric])
            found.append({"label": tables.METRIC_NAMES[metric], "value": value, "note": note, "tone": tone})
    latency, integer = last(records, "perf", "latency"), last(records, "fixed_point", "integer")
    total = tables.medians(latency["metrics"], "step").get("total") if latency else None
    if total:
        found.append({"label": "Frame step", "value": f"{total:.1f} ms", "note": "median", "tone": ""})
    share = number(integer["metrics"].get("base.integer_macs_share")) if integer else None
    if share is not None:
        note = "of the base graph's operations"
        found.append({"label": "In integers", "value": f"{100 * share:.1f} %", "note": note, "tone": ""})
    return found


def missing(records: Sequence[Record]) -> list[str]:
    """What a full report shows and this run has not recorded."""
    wanted = [(f"accuracy of {STAGE_NAMES[s].lower().replace('qat', 'QAT')}", s, "accuracy") for s in STAGES]
    wanted += [
        ("accuracy without duplicate suppression", "float", "accuracy_raw"),
        ("accuracy on unseen videos", "float", "accuracy_unseen"),
        ("the ByteTrack baseline", "data", "baseline"),
        ("float training", "float", "training"),
        ("QAT", "qat", "training"),
        ("calops", "float", "calops"),
        ("the integer share", "fixed_point", "integer"),
        ("the layer comparison", "fixed_point", "layers"),
        ("latency", "perf", "latency"),
        ("counts of the data", "data", "data"),
    ]
    any_stage = ("accuracy_raw", "accuracy_unseen")
    kinds = {r["kind"] for r in records}
    return [
        text
        for text, stage, kind in wanted
        if (kind not in kinds if kind in any_stage else last(records, stage, kind) is None)
    ]


def command(run: Run) -> str:
    """The command line that makes this run again."""
    words = ["python", "-m", "motrlab", "run", "--preset", run.config.preset, "--run", run.name]
    if run.config.data_root:
        words += ["--data-root", run.config.data_root]
    if run.config.sequences:
        words += ["--sequences", ",".join(run.config.sequences)]
    return shlex.join(words)


def provenance(run: Run, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Where the numbers come from; a value that changed during the run is listed with all it was."""

    def values(name: str) -> str:
        seen = dict.fromkeys(str(r[name]) for r in records if r.get(name) not in (None, ""))
        return ", then ".join(seen) or "not recorded"

    commits = dict.fromkeys(_commit(r) for r in records)
    rows = [
        ("Preset", run.config.preset),
        ("Config hash", values("config_hash") if records else run.config.hash),
        ("Data hash", values("data_hash")),
        ("Seed", str(run.config.seed)),
        ("Git commit", ", then ".join(commits) or "not recorded"),
    ]
    if records:
        final = records[-1]
        machine: Mapping[str, Any] = final["hardware"]
        rows += [
            ("Processor", f"{machine['cpu']}, {machine['num_cpus']} usable"),
            ("Platform", str(machine["platform"])),
            ("Versions", ", ".join(f"{name} {version}" for name, version in final["versions"].items())),
            ("First record", str(records[0]["started"])),
            ("Last record", str(final["started"])),
        ]
    return rows


def _commit(record: Record) -> str:
    commit = str(record["git_commit"])[:12]
    if not commit:
        return "not in git"
    return f"{commit} with uncommitted changes" if record["git_dirty"] else commit


def config_changes(run: Run, records: Sequence[Record]) -> list[str]:
    """`qat.lr = 0.001 in qat (the run's config has 0.0001)`: parameters given to single notebooks."""
    own = _flat(run.config.to_dict())
    found: dict[str, None] = {}
    for record in records:
        for name, value in _flat(record["config"]).items():
            if own.get(name) != value:
                found[f"{name} = {value!r} in {record['stage']} (the run's config has {own.get(name)!r})"] = None
    return list(found)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def history(records: Sequence[Record]) -> Table | None:
    """Every record: when it was made and how long it took."""
    rows = []
    for record in records:
        cells = [record["kind"], record["started"].replace("T", " ").removesuffix("+00:00"), record["config_hash"]]
        rows.append(Row(STAGE_NAMES[record["stage"]], [tables.Cell(str(c)) for c in (*cells, record["duration_s"])]))
    return Table(["kind", "started, UTC", "config", "seconds"], [("", rows)], corner="Stage") if rows else None
