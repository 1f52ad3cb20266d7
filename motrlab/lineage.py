"""What a result was made from, then and now.

A record names the hash of each thing that it was made from (`made_from`): `config` (those fields of the run's that it
depends on), every stage before its own, and its own; an evaluation also its `tracks`. It counts as long as the run's
folder holds the same things. A stage is there if the record of its making names the file that it has left and
everything as it is now. So whatever is made from something that has changed counts no more, nothing needs to be
deleted, and what comes back counts again.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from motrlab.config import Config
from motrlab.names import CHAIN, lineage

DATA_HASH = "data/hash.txt"  # written when all parts are in place
DETECTIONS = "detections"  # no stage: what a baseline is made from beside `data`, whose hash has no det.txt in it
# Fields of the config that a stage depends on, beside those of the stages before it. `data_root` and `sequences` are
# names of what is hashed itself. What is not a stage's making was tracked, and depends on the tracker's rules.
_FIELDS = {
    "data": ("street", "stills_root"),
    "float": ("model", "train", "seed"),
    "calibration": ("scheme", "calibration", "tracker"),
    "qat": ("qat",),
    "float_extra": ("qat",),
    "fixed_point": (),
    "perf": (),
}
_NO_STAGE = "budgets"  # what results are held against
MAKING = {  # kind of the record of a stage's making
    "data": "data",
    "float": "training",
    "calibration": "calibration",
    "qat": "training",
    "float_extra": "training",
    "fixed_point": "integer",
}


def present(folder: Path, config: Config, records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Stage → hash of what it has left, for every stage that is there, as a record's `made_from` would have it.

    With that of the detections.
    """
    made = [(r["stage"], r["made_from"]) for r in records if "made_from" in r and MAKING.get(r["stage"]) == r["kind"]]
    found: dict[str, str] = {}
    for stage in (*CHAIN, "float_extra"):
        own = {
            "config": config_hash(config, stage, MAKING[stage]),
            **{name: found.get(name, "") for name in lineage(stage)},
        }
        own[stage] = stage_hash(folder, stage)
        if (stage, own) in made:
            found[stage] = own[stage]
    return found | {DETECTIONS: stage_hash(folder, DETECTIONS)}


def counts(record: Mapping[str, Any], state: Mapping[str, str], config: Config) -> bool:
    """Whether all that a record was made from is there; not so of records that do not say."""
    made_from = record.get("made_from")
    if made_from is None:
        return False
    now = {**state, "config": config_hash(config, record["stage"], record["kind"])}
    return all(now.get(name) == value for name, value in made_from.items() if name != "tracks")


def config_hash(config: Config, stage: str, kind: str) -> str:
    """Of the fields that a record of that stage and kind depends on."""
    names = {name for s in {stage, *lineage(stage)} for name in _FIELDS[s]}
    if MAKING.get(stage) != kind:
        names.add("tracker")
    return config.digest(names)


def first_stage(field: str) -> str:
    """The first stage whose making or scores depend on a field of the config, given by its dotted name."""
    section = field.partition(".")[0]
    if section == "tracker":
        return "float"  # its scores
    if section == _NO_STAGE:
        return "perf"  # the last: nothing is made again
    return next((stage for stage, names in _FIELDS.items() if section in names), "data")


def stage_hash(folder: Path, stage: str) -> str:
    """Of what a stage has left in a run's folder, or of its `DETECTIONS`; "" where it has left nothing."""
    if stage == DETECTIONS:
        found = sorted((folder / "data").glob("*_gt/*/det/det.txt"))
        return _digest("".join(f"{file.relative_to(folder)}\n{_content_hash(file)}\n" for file in found).encode())
    files = {"data": folder / DATA_HASH, "fixed_point": folder / "artifact" / "manifest.json"}
    file = files.get(stage) or folder / "checkpoints" / stage / "model.safetensors"
    if not file.is_file():
        return ""
    if stage == "data":
        return file.read_text(encoding="utf-8").strip()
    if stage == "fixed_point":  # of its files: versions and provenance may differ
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return _digest(json.dumps(json.loads(file.read_bytes())["files"], sort_keys=True).encode())
        return ""  # damaged
    return _content_hash(file)


def tracks_hash(folder: Path) -> str:
    """Of the names and bytes of all files of a folder of tracks."""
    return _digest(b"".join(f"{file.name}\n".encode() + file.read_bytes() for file in sorted(folder.glob("*.txt"))))


def _content_hash(file: Path) -> str:
    facts = file.stat()
    return _file_hash(file, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=256)
def _file_hash(file: Path, *_identity: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
