"""The run folder: where its parts are, its config, and its records.

A run is `runs/NAME/` under the project root. A stage appends one record for each result to `records.jsonl`;
reports and comparisons read records and the files they name, nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from motrlab.config import Config, load_preset
from motrlab.config.fields import with_fields
from motrlab.config.presets import preset_name
from motrlab.errors import UserError, tell
from motrlab.files import locked, replaced_folder, write_text, writing
from motrlab.lineage import config_hash, counts, present, stage_hash, tracks_hash
from motrlab.machine import git_state, hardware, package_versions
from motrlab.names import STAGE_TITLES, lineage

SCHEMA = 2
_HELD = "MOTRLAB_HELD_RUN"  # environment: the run that this process, or one that started it, holds

Record = dict[str, Any]
P = ParamSpec("P")
R = TypeVar("R")


def project_root() -> Path:
    """`MOTRLAB_HOME`, else the nearest folder upwards with a pyproject.toml, else the working directory."""
    if home := os.environ.get("MOTRLAB_HOME"):
        return Path(home).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


@contextlib.contextmanager
def environment(**changes: str) -> Iterator[None]:
    """Variables of the environment, inside the block."""
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ |= changes
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]
        os.environ |= before


@dataclass(frozen=True)
class Run:
    """A run's folder and config. `Run.open` makes or finds it."""

    path: Path
    config: Config

    @staticmethod
    def open(name: str, preset: str = "", *, create: bool = True, fields: Sequence[str] = (), **overrides: Any) -> Run:
        """Open run `name`, creating it when it is new and `create` is set.

        `preset` "" means the run's own, `smoke` for a new run. `fields`: `FIELD=VALUE` of the config, which the run
        has from now on. `overrides` are fields of `Config` (data_root, sequences) for a new run; for one that has data
        they must agree. Raises UserError.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UserError(f"run name {name!r}: use letters, digits, '.', '_' and '-'")
        path = project_root() / "runs" / name
        overrides = {key: value for key, value in overrides.items() if value not in (None, "", ())}
        if (file := path / "config.json").is_file():
            return Run(path, _stored_config(file, name, preset))._with(overrides)._with_fields(fields)
        if not create:
            command = f"python -m motrlab run --preset P --run {name}"
            raise UserError(f"no run {name!r} in {path.parent}: start one with `{command}`")
        config = with_fields(load_preset(preset or "smoke"), fields)
        return _new_run(path, Config.from_dict({**config.to_dict(), **overrides}))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def data(self) -> Path:
        """`train_lmdb`, `test_lmdb`, `test_gt` (and `unseen_lmdb`, `unseen_gt` where there are such videos)."""
        return self.path / "data"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def tracks(self, stage: str) -> Path:
        """Folder of `SEQ.txt` files in MOTChallenge format."""
        return self.path / "tracks" / stage

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    @property
    def assets(self) -> Path:
        return self.path / "assets"

    @property
    def report(self) -> Path:
        """`reports/NAME/`."""
        return self.path.parent.parent / "reports" / self.name

    def model_file(self, stage: str) -> Path:
        """`checkpoints/STAGE/model.safetensors`: what a stage but `data` and `fixed_point` leaves."""
        return self.checkpoints(stage) / "model.safetensors"

    def records(self, stage: str | None = None, kind: str | None = None, *, stale: bool = False) -> list[Record]:
        """The run's records in order, optionally of one stage or kind: those that count (see `motrlab.lineage`).

        With `stale` the others instead, made from what has changed since or by an older motrlab.
        """
        every = self._every_record()
        state = present(self.path, self.config, every)
        found = [r for r in every if counts(r, state, self.config) is not stale]
        return [r for r in found if stage in (None, r["stage"]) and kind in (None, r["kind"])]

    def last_record(self, stage: str, kind: str) -> Record | None:
        """The last record counts."""
        return next(reversed(self.records(stage, kind)), None)

    def has(self, stage: str) -> bool:
        """Whether a stage has left what the next one needs, made from what is there now."""
        return stage in present(self.path, self.config, self._every_record())

    def _every_record(self) -> list[Record]:
        file = self.path / "records.jsonl"
        records: list[Record] = []
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        complete, _, _ = text.rpartition("\n")  # a kill may have cut the last line
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{file}:{number}: not JSON ({error.msg}); remove the line") from error
        return records

    def add_record(
        self,
        stage: str,
        kind: str,
        metrics: Mapping[str, float | int | str | bool | None],
        *,
        started: float,
        assets: Sequence[Path] = (),
        config: Config | None = None,
        made_from: Sequence[str] | None = None,
        tracks: Path | None = None,
    ) -> Record:
        """Append one result. `metrics` is flat with units in the names; `started` is `time.time()` at the start.

        `made_from`: the stages, or `lineage.DETECTIONS`, that the result depends on, beside the config; None: `stage`
        and all before it.
        `tracks`: the folder of tracks that were scored.
        """
        assert stage in STAGE_TITLES, stage
        used = config or self.config
        hashes = {"config": config_hash(self.config, stage, kind)}
        hashes |= {s: stage_hash(self.path, s) for s in (lineage(stage) if made_from is None else made_from)}
        if tracks:
            hashes["tracks"] = tracks_hash(tracks)
        record = {
            "schema": SCHEMA, "run": self.name, "stage": stage, "kind": kind, "metrics": dict(metrics),
            "assets": [Path(a).relative_to(self.path).as_posix() for a in assets],
            "config": used.to_dict(), "config_hash": used.hash, "data_hash": stage_hash(self.path, "data"),
            "made_from": hashes, "seed": used.seed, **git_state(), "versions": package_versions(),
            "hardware": hardware(), "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.time() - started, 3),
        }  # fmt: skip
        file = self.path / "records.jsonl"
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with writing(file), file.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # a moment: another verb may have a result, too
            stream.seek(0)
            stream.truncate(stream.read().rfind(b"\n") + 1)  # over a line that a kill has cut
            stream.write(line)
        return record

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else works on the run meanwhile; processes that this one starts may.

        Raises UserError if another one does, and where the run's folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            # Of several processes that train, the first holds it.
            if os.environ.get(_HELD) != str(self.path) and os.environ.get("RANK", "0") == "0":
                if not os.access(self.path, os.W_OK):
                    raise UserError(f"{self.path}: cannot be written; copy the run to a folder that can")
                stack.enter_context(locked(self.path, "working on"))
                stack.enter_context(environment(**{_HELD: str(self.path)}))
            yield

    def _with(self, overrides: Mapping[str, Any]) -> Run:
        """As long as no data have been prepared, the source of the data may still be another one."""
        kept, new = self.config.to_dict(), json.loads(json.dumps(overrides))
        changed = {name: value for name, value in new.items() if kept[name] != value}
        if not changed:
            return self
        told = ", ".join(f"{name}={kept[name]!r}, not {value!r}" for name, value in changed.items())
        if any(record["stage"] == "data" for record in self._every_record()):
            raise UserError(f"run {self.name!r} was made with {told}: choose another run name")
        tell(f"run {self.name!r} had {told}; no data were prepared yet, so the new value replaces it")
        with self.held():
            return _new_run(self.path, Config.from_dict({**kept, **new}))

    def copy(self, name: str) -> Run:
        """A run of that name with all that this one has; large files are shared as links.

        Raises UserError if there is one already.
        """
        path = self.path.with_name(name)
        if path.exists():
            raise UserError(f"{path}: there is a run {name!r} already; remove it, or choose another name")
        with replaced_folder(path) as temporary:
            for part in sorted(self.path.iterdir()):
                if part.name in ("data", "checkpoints"):
                    shutil.copytree(part, temporary / part.name, copy_function=_link, symlinks=True)
                elif part.name != "notebooks":
                    (shutil.copytree if part.is_dir() else shutil.copy2)(part, temporary / part.name)
        return Run(path, self.config)

    def _with_fields(self, fields: Sequence[str]) -> Run:
        """What was made with other values counts no more (see `motrlab.lineage`), and comes back with them."""
        config = with_fields(self.config, fields)
        if config == self.config:
            return self
        tell(f"run {self.name!r} has {', '.join(fields)} from now on")
        with self.held():
            return _new_run(self.path, config)


def exclusive(stage: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """A stage that has the run to itself while it works (`Run.held`)."""

    @functools.wraps(stage)
    def alone(run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        with run.held():
            return stage(run, *args, **kwargs)

    return alone


def _link(source: str, target: str) -> None:
    """Of files that are only ever replaced as a whole; a copy of others, and where there are no links."""
    try:
        if not source.endswith((".mdb", ".safetensors")):
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _new_run(path: Path, config: Config) -> Run:
    write_text(path / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    return Run(path, config)


def _stored_config(file: Path, name: str, preset: str) -> Config:
    try:
        config = Config.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:  # of JSON, and every UserError
        raise UserError(f"{file}: not a config of this motrlab ({error}); choose another run name") from error
    if preset and config.preset not in (preset, preset_name(preset)):
        raise UserError(f"run {name!r} was made with preset {config.preset!r}, not {preset!r}: choose another run name")
    return config
