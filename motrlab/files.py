"""Files and folders that are written whole or not at all, and one line where the disk does not let us.

What is being written has a hidden temporary name beside its target, on the same file system, and is moved into place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from motrlab.errors import DISK_ADVICE, UserError

MARKER = ".motrlab"  # file in a folder that we wrote, and may replace or remove
_FULL_BYTES = 1 << 20  # a disk with less than this is full
_MAX_NAME_BYTES = 200  # of the 255 that file systems take; the rest is for what temporary names add


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What keeps `path` from being written becomes one line.

    Raises UserError for any OSError in the block, and for whatever else a library raises there on a full disk.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        if code not in DISK_ADVICE and free_bytes(path) < _FULL_BYTES:
            code, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
        elif not isinstance(error, OSError):
            raise
        advice = DISK_ADVICE.get(code or 0, "fix that and run again")
        raise UserError(f"{path}: cannot be written ({reason}); {advice}") from error


def nearest_there(path: Path) -> Path:
    """The path itself, or the first of the folders above it that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def free_bytes(path: Path) -> int:
    """What the disk has left on which `path` is, or will be."""
    return shutil.disk_usage(nearest_there(path)).free


def hidden_name(path: Path) -> str:
    """What the temporary names of `path` begin with."""
    name = os.fsencode(path.name)
    return f".{hashlib.sha256(name).hexdigest() if len(name) > _MAX_NAME_BYTES else path.name}."


def _temporary(path: Path, suffix: str) -> Path:
    return path.with_name(f"{hidden_name(path)}{secrets.token_hex(4)}{suffix}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved into place when the block ends well and removed when it does not.

    Raises UserError where it cannot be written.
    """
    temporary = _temporary(path, path.suffix)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`, for a picture."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replaced_folder(path: Path, *, marked: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and goes when it does not.

    With `marked` it gets our `MARKER`, and only a folder that has it is replaced. Raises UserError.
    """
    folder = _temporary(path, ".tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(path)
            folder.mkdir()
            if marked:
                check_ours(path)
                (folder / MARKER).touch()
            yield folder
            replace_folder(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, path: Path) -> None:
    """Move a finished folder from beside `path` into place; an old one gives way."""
    if path.exists():
        path.rename(_temporary(path, ".old"))
    folder.rename(path)
    clear_leftovers(path)


def clear_leftovers(path: Path) -> None:
    """Remove the temporary folders beside `path` that a killed run left.

    An old folder that had to give way before a kill, and whose successor never came, goes back.
    """
    random = "?" * 8  # no fewer, no more: `.a.b.????????.tmp` belongs to `a.b`, not to `a`
    for left in path.parent.glob(f"{glob.escape(hidden_name(path))}{random}.*"):
        if left.suffix == ".old" and not path.exists():
            left.rename(path)
        elif left.suffix in (".old", ".tmp") and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def check_ours(path: Path) -> None:
    """Raises UserError where something is in the way that has not got our `MARKER` and is no empty folder."""
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (path / MARKER).is_file():
        raise UserError(f"{path}: not written by motrlab (no {MARKER} in it); move it away or choose another folder")


@contextlib.contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """A lock on a folder that ends with the process, however it ends.

    Raises UserError while another process has it: "another process is {doing} it". Where a file system has no locks,
    there is none.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{folder}: another process is {doing} it; wait for that one to end") from error
        yield
    finally:
        os.close(handle)
