"""The run folder: where its parts are, its config, and its records.

A run is `runs/NAME/` under the project root. A stage appends one record for each result to `records.jsonl`;
reports and comparisons read records and the files they name, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from motrlab.config import Config, load_preset
from motrlab.errors import UserError
from motrlab.files import write_text

SCHEMA = 1
STAGES = ("data", "float", "calibration", "qat", "float_extra", "fixed_point", "perf")
_REPORTED_PACKAGES = ("motrlab", "torch", "onnx", "onnxruntime", "openvino", "numpy", "motmetrics")


def project_root() -> Path:
    """`MOTRLAB_HOME`, else the nearest folder upwards with a pyproject.toml, else the working directory."""
    home = os.environ.get("MOTRLAB_HOME")
    if home:
        return Path(home).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file():
            return folder
    return here


@dataclass(frozen=True)
class Run:
    """A run's folder and config. `Run.open` makes or finds it."""

    path: Path
    config: Config

    @staticmethod
    def open(name: str, preset: str = "", *, create: bool = True, **overrides: Any) -> Run:
        """Open run `name`, creating it when it is new and `create` is set.

        `preset` "" means the run's own, `smoke` for a new run. `overrides` are fields of `Config` (data_root,
        sequences) for a new run; for an existing one they must agree. Raises UserError.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UserError(f"run name {name!r}: use letters, digits, '.', '_' and '-'")
        path = project_root() / "runs" / name
        overrides = {key: value for key, value in overrides.items() if value not in (None, "", ())}
        file = path / "config.json"
        if file.is_file():
            return Run(path, _existing_config(file, name, preset, overrides))
        if not create:
            raise UserError(f"no run {name!r} in {path.parent}: start one with `python -m motrlab run --run {name}`")
        config = load_preset(preset or "smoke")
        config = Config.from_dict({**config.to_dict(), **overrides})
        write_text(file, json.dumps(config.to_dict(), indent=2) + "\n")
        return Run(path, config)

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

    def records(self, stage: str | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        """The run's records in order, optionally of one stage or kind."""
        file = self.path / "records.jsonl"
        if not file.is_file():
            return []
        records = []
        complete, _, _ = file.read_text(encoding="utf-8").rpartition("\n")  # a kill may have cut the last line
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{file}:{number}: not JSON ({error.msg}); remove the line") from error
        return [r for r in records if stage in (None, r["stage"]) and kind in (None, r["kind"])]

    def last_record(self, stage: str, kind: str) -> dict[str, Any] | None:
        """The last record counts."""
        found = self.records(stage, kind)
        return found[-1] if found else None

    def add_record(
        self,
        stage: str,
        kind: str,
        metrics: Mapping[str, float | int | str | bool | None],
        *,
        started: float,
        assets: Sequence[Path] = (),
        config: Config | None = None,
        data_hash: str = "",
    ) -> dict[str, Any]:
        """Append one result. `metrics` is flat with units in the names; `started` is `time.time()` at the start."""
        assert stage in STAGES, stage
        used = config or self.config
        record = {
            "schema": SCHEMA,
            "run": self.name,
            "stage": stage,
            "kind": kind,
            "metrics": dict(metrics),
            "assets": [Path(a).relative_to(self.path).as_posix() for a in assets],
            "config": used.to_dict(),
            "config_hash": used.hash,
            "data_hash": data_hash or self._data_hash(),
            "seed": used.seed,
            **git_state(),
            "versions": package_versions(),
            "hardware": hardware(),
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.time() - started, 3),
        }
        file = self.path / "records.jsonl"
        kept = file.read_bytes() if file.is_file() else b""
        with file.open("r+b" if kept else "wb") as stream:
            stream.seek(kept.rfind(b"\n") + 1)  # over a line that a kill has cut
            stream.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            stream.truncate()
        return record

    def _data_hash(self) -> str:
        record = self.last_record("data", "data")
        return str(record["data_hash"]) if record else ""


def _existing_config(file: Path, name: str, preset: str, overrides: Mapping[str, Any]) -> Config:
    try:
        config = Config.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:  # of JSON, and every UserError
        raise UserError(f"{file}: not a config of this motrlab ({error}); choose another run name") from error
    if preset and preset != config.preset:
        raise UserError(f"run {name!r} was made with preset {config.preset!r}, not {preset!r}: choose another run name")
    kept = config.to_dict()
    for key, value in overrides.items():
        plain = json.loads(json.dumps(value))
        if kept[key] != plain:
            raise UserError(f"run {name!r} was made with {key}={kept[key]!r}, not {plain!r}: choose another run name")
    return config


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def num_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, Any]:
    """Processor name and the number of processors this process may use."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model, "num_cpus": num_cpus(), "platform": platform.platform()}


def git_state() -> dict[str, Any]:
    """`git_commit` ("" outside git) and `git_dirty` of the checkout this package lies in."""

    def git(*arguments: str) -> str | None:
        folder = Path(__file__).resolve().parent
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else None

    try:
        commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    except OSError:  # git is not installed
        commit, status = None, None
    return {"git_commit": commit or "", "git_dirty": bool(status) if status is not None else None}
