"""What a result was made from, then and now.

A record names the hash of each thing that it was made from (`made_from`): `config` (the run's), every stage before its
own, and its own; an evaluation also its `tracks`. It counts as long as the run's folder holds the same things. A stage
is there if the record of its making names the file that it has left and everything as it is now. So whatever is made
from something that has changed counts no more, nothing needs to be deleted, and what comes back counts again.
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
_NAMES = ("preset", "data_root", "sequences")  # names of what is hashed itself
MAKING = {  # kind of the record of a stage's making
    "data": "data",
    "float": "training",
    "calibration": "calibration",
    "qat": "training",
    "float_extra": "training",
    "fixed_point": "integer",
}


def present(folder: Path, config: Config, records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name → hash of the config and of every stage that is there, as a record's `made_from` would have it."""
    made = [(r["stage"], r["made_from"]) for r in records if "made_from" in r and MAKING.get(r["stage"]) == r["kind"]]
    found = {"config": config_hash(config)}
    for stage in (*CHAIN, "float_extra"):
        own = {name: found.get(name, "") for name in ("config", *lineage(stage))} | {stage: stage_hash(folder, stage)}
        if (stage, own) in made:
            found[stage] = own[stage]
    return found


def counts(record: Mapping[str, Any], state: Mapping[str, str]) -> bool:
    """Whether all that a record was made from is there; not so of records that do not say."""
    made_from = record.get("made_from")
    return made_from is not None and all(state.get(k) == v for k, v in made_from.items() if k != "tracks")


def config_hash(config: Config) -> str:
    """Of everything but names: a copy of a preset under another name is the same config."""
    values = {name: value for name, value in config.to_dict().items() if name not in _NAMES}
    return _digest(json.dumps(values, sort_keys=True).encode())


def stage_hash(folder: Path, stage: str) -> str:
    """Of what a stage has left in a run's folder; "" where it has left nothing."""
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
    facts = file.stat()
    return _file_hash(file, facts.st_ino, facts.st_mtime_ns, facts.st_size)


def tracks_hash(folder: Path) -> str:
    """Of the names and bytes of all files of a folder of tracks."""
    return _digest(b"".join(f"{file.name}\n".encode() + file.read_bytes() for file in sorted(folder.glob("*.txt"))))


@functools.lru_cache(maxsize=64)
def _file_hash(file: Path, *_identity: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
