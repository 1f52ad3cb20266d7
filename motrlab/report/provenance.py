"""Section: where the numbers come from, and which of them no longer count."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from motrlab.config import Config, load_preset
from motrlab.config.fields import variants, with_fields
from motrlab.errors import UserError
from motrlab.lineage import MAKING
from motrlab.names import STAGE_TITLES
from motrlab.report.blocks import Cell, Listing, Section, Source, table
from motrlab.report.values import Record, words
from motrlab.run import Run

_PARAMETERS = {  # stage → its notebook, and the parameters there that stand for fields of the config
    "float": ("02_float_training", {"train.steps": "steps", "train.lr": "lr", "train.init": "init"}),
    "calibration": (
        "03_calibration",
        {
            "calibration.num_frames": "num_frames",
            "calibration.stride": "stride",
            "calibration.sequences": "videos",
        },
    ),
    "qat": ("04_qat", {"qat.steps": "steps", "qat.lr": "lr"}),
}


def section(source: Source) -> Section:
    run, records = source.run, source.records
    facts, changes = provenance(run, records), config_changes(run, records)
    columns: dict[str, Callable[[Record], str | Cell]] = {
        "kind": lambda r: words(r["kind"]),
        "started, UTC": lambda r: r["started"].replace("T", " ").removesuffix("+00:00"),
        "config": lambda r: r["config_hash"],
        "seconds": lambda r: str(r["duration_s"]),
    }
    told = Listing(changes, "With parameters changed in single stages") if changes else None
    listing = table(records, columns, lambda r: STAGE_TITLES[r["stage"]], corner="Stage", title="Records")
    return Section([Listing(list(facts.values()), terms=list(facts)), told, listing])


def stale(run: Run) -> str:
    """One line: results that are not shown, because what they were made from has changed; "" where there are none."""
    shown = {(r["stage"], r["kind"]) for r in run.records()}
    old = run.records(stale=True)
    lost: dict[str, dict[str, None]] = {}
    for record in old:
        if (record["stage"], record["kind"]) not in shown:
            lost.setdefault(STAGE_TITLES[record["stage"]], {})[words(record["kind"])] = None
    told = "; ".join(f"{stage} ({', '.join(kinds)})" for stage, kinds in lost.items())
    by_older = sum("made_from" not in record for record in old)
    told += f" ({by_older} records are of an older motrlab)" if by_older and lost else ""
    return told and f"what they were made from has changed since: {told}"


def command(run: Run) -> str:
    """The command line that makes this run again, as a shell takes it.

    With the fields in which its config differs from its preset, and the parameters that single notebooks were given.
    """
    words = ["python", "-m", "motrlab", "run", "--preset", run.config.preset, "--run", run.name]
    words += ["--data-root", run.config.data_root] if run.config.data_root else []
    words += ["--sequences", ",".join(run.config.sequences)] if run.config.sequences else []
    for option, assignments in (("--set", changed_fields(run.config)[0]), ("-p", _parameters(run))):
        words += [word for assignment in assignments for word in (option, assignment)]
    return shlex.join(words)


def changed_fields(config: Config) -> tuple[list[str], list[str]]:
    """`FIELD=VALUE` for every field that differs from the config's preset, as `--set` takes them, one value each.

    Also what the first list lacks: names of fields that `--set` cannot write (texts with commas), or why the preset
    cannot be read.
    """
    try:
        preset = load_preset(config.preset)
    except UserError as error:
        return [], [str(error)]
    before = flat(preset.to_dict())
    fields: list[str] = []
    lost: list[str] = []
    for name, value in flat(config.to_dict()).items():
        if name not in ("preset", "data_root", "sequences") and value != before.get(name):
            assignment = f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            known = name in before and len(variants([assignment])) == 1
            (fields if known else lost).append(assignment if known else name)
    with contextlib.suppress(UserError):
        with_fields(preset, fields)
        return fields, lost
    return [], [*(field.partition("=")[0] for field in fields), *lost]


def _parameters(run: Run) -> list[str]:
    """`NOTEBOOK.name=value` for what the making of a stage was given instead of the config's value."""
    own, found = flat(run.config.to_dict()), []
    for stage, (notebook, names) in _PARAMETERS.items():
        record = run.last_record(stage, MAKING[stage])
        used = flat(record["config"]) if record else own
        for field, name in names.items():
            if (value := used[field]) != own[field]:
                found.append(f"{notebook}.{name}={','.join(value) if isinstance(value, list) else value}")
    return found


def provenance(run: Run, records: Sequence[Record]) -> dict[str, str]:
    """A value that changed during the run is listed with all it was."""

    def values(name: str) -> str:
        seen = dict.fromkeys(str(r[name]) for r in records if r.get(name) not in (None, ""))
        return ", then ".join(seen) or "not recorded"

    facts = {"To make it again": command(run)}
    if lost := changed_fields(run.config)[1]:
        facts["Not in this command"] = f"{', '.join(lost)}; see {run.path.name}/config.json"
    facts |= {
        "Preset": run.config.preset,
        "Config hash": values("config_hash") if records else run.config.hash,
        "Data hash": values("data_hash"),
        "Seed": str(run.config.seed),
        "Git commit": ", then ".join(dict.fromkeys(_commit(r) for r in records)) or "not recorded",
    }
    if records:
        final, machine = records[-1], records[-1]["hardware"]
        facts |= {
            "Processor": f"{machine['cpu']}, {machine['num_cpus']} usable",
            "Platform": str(machine["platform"]),
            "Versions": ", ".join(f"{name} {version}" for name, version in final["versions"].items()),
            "First record": str(records[0]["started"]),
            "Last record": str(final["started"]),
        }
    return facts


def _commit(record: Record) -> str:
    commit = str(record["git_commit"])[:12]
    return commit + " with uncommitted changes" * bool(record["git_dirty"]) if commit else "not in git"


def config_changes(run: Run, records: Sequence[Record]) -> list[str]:
    """`qat.lr = 0.001 in qat (the run's config has 0.0001)`: parameters given to single notebooks."""
    own = flat(run.config.to_dict())
    values = (
        (r["stage"], name, value, own.get(name))
        for r in records
        for name, value in flat(r["config"]).items()
        if not name.startswith("budgets.")  # what results are held against, not what they were made with
    )
    told = (
        f"{name} = {value!r} in {s} (the run's config has {old!r})" for s, name, value, old in values if old != value
    )
    return list(dict.fromkeys(told))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
