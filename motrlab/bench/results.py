"""What a bench leaves: a line per piece in `results.jsonl`, written at once, a table of them, and files cut in pieces.

Machines that are lent hand back only files up to a size. So a checkpoint and its curve leave as one archive, cut into
pieces `NAME-STEP-SHA.0of2`; the newest whole set of them is put together again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.files import atomic_path, write_text, writing
from motrlab.machine import hardware, package_versions

PIECE_BYTES = 15 << 20
_KEYS = ("piece", "device", "made_from")
_PIECE = re.compile(r"(?P<name>.+)-(?P<step>\d{6})-(?P<sha>[0-9a-f]{12})\.(?P<number>\d+)of(?P<count>\d+)")


def made_from(config: Config, data: str = "") -> str:
    """First 12 hex digits of the SHA-256 of what a piece is made from: `config`, not its preset's name, and the hash of
    the data.
    """
    fields = config.digest(config.counted.keys() - {"preset", "budgets"})
    return hashlib.sha256(f"{fields} {data}".encode()).hexdigest()[:12]


class Results:
    """The lines of `folder/results.jsonl`: `piece`, `device`, `made_from`, values, or `error`: what went wrong.

    The last one counts. Raises UserError where the file is no bench's.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        self._file = folder / "results.jsonl"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            text = self._file.read_text(encoding="utf-8") if self._file.is_file() else ""
            whole = text.rpartition("\n")[0].splitlines()  # a kill may have cut the last line
            self.lines = [_parsed(line) for line in whole]
        except ValueError as error:
            raise UserError(
                f"{self._file}: not the results of a bench ({error}); move it away or choose another --out"
            ) from error
        if text and not text.endswith("\n"):
            write_text(self._file, "".join(line + "\n" for line in whole))

    def get(self, piece: str, made: str) -> dict[str, Any] | None:
        """The last line of a piece that went well on this device, made from the same."""
        own = (line for line in reversed(self.lines) if _key(line) == (piece, self.device, made))
        return next((line for line in own if "error" not in line), None)

    def add(self, piece: str, made: str, values: Mapping[str, Any]) -> None:
        """Append a line and write the table again."""
        line = {"piece": piece, "device": self.device, "made_from": made, **values}
        self.lines.append(line)
        with writing(self._file), self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        write_text(self.folder / "results.md", self.table())

    def describe(self, name: str) -> None:
        """The machine, once: `name` is the accelerator's."""
        if self.get("machine", name) is None:
            self.add("machine", name, {**hardware(), **package_versions()})

    def table(self) -> str:
        """Markdown: a row per piece and what it is made from, values in one column."""
        last = {_key(line): line for line in self.lines}
        rows = ["| piece | device | made from | values |", "|---|---|---|---|"]
        for key, line in last.items():
            shown = ", ".join(f"{k} {_short(v)}" for k, v in line.items() if k not in _KEYS)
            rows.append(f"| {' | '.join(key)} | {shown.replace('|', '/')} |")
        return "\n".join(rows) + "\n"


def _parsed(line: str) -> dict[str, Any]:
    found = json.loads(line)
    if not (isinstance(found, dict) and {"piece", "device"} <= found.keys()):
        raise ValueError(f"{line[:40]} is no line of one")
    return found


def _key(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(line.get(name, "")) for name in _KEYS)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def export_files(files: Sequence[Path], folder: Path, name: str, step: int) -> None:
    """Leave `files` in `folder` as pieces, then remove those of earlier steps."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            archive.add(file, file.name)
    data = buffer.getvalue()
    stem = f"{name}-{step:06d}-{hashlib.sha256(data).hexdigest()[:12]}"
    parts = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    for number, part in enumerate(parts):
        with atomic_path(folder / f"{stem}.{number}of{len(parts)}") as temporary:
            temporary.write_bytes(part)
    for old in folder.iterdir():
        found = _PIECE.fullmatch(old.name)
        if found and found["name"] == name and not old.name.startswith(f"{stem}."):
            old.unlink()


def import_files(folder: Path, name: str, destination: Path) -> int:
    """Put the newest whole set of pieces back into `destination`; its step, 0 where there is none."""
    sets: dict[tuple[int, str], dict[int, Path]] = {}
    for path in folder.glob(f"{name}-*"):
        if (found := _PIECE.fullmatch(path.name)) and found["name"] == name:
            sets.setdefault((int(found["step"]), found["sha"]), {})[int(found["number"])] = path
    for (step, sha), parts in sorted(sets.items(), reverse=True):
        data = b"".join(parts[number].read_bytes() for number in sorted(parts))
        if hashlib.sha256(data).hexdigest()[:12] == sha:
            with writing(destination), tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(destination, filter="data")
            return step
    return 0
