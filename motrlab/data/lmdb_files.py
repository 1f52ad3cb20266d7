"""Opened LMDB environments: one per path and process, opened when first read, never handed on to a forked child.

A file cut short is refused before anything in it is read: a page behind the end would kill the process (SIGBUS).
"""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from motrlab.errors import UserError

_Identity = tuple[int, int, int]  # inode, size, time of data.mdb

AGAIN = "prepare the data again (notebook 01, or `python -m motrlab prepare`)"
_opened: dict[Path, tuple[_Identity, lmdb.Environment]] = {}  # lmdb allows one environment per path and process


def _close_inherited() -> None:
    """A forked child must not use its parent's environments, nor open a path beside them."""
    for path in list(_opened):
        forget(path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def opened(path: Path, *, fresh: bool = False) -> lmdb.Environment:
    """The process's environment of folder `path`; with `fresh` it is opened anew where the file has been replaced.

    Raises UserError: no such file, not an LMDB, cut short.
    """
    if path not in _opened or (fresh and _opened[path][0] != _identity(path)):
        forget(path)
        _opened[path] = _identity(path), _open(path)
    return _opened[path][1]


def forget(path: Path) -> None:
    """Close the environment of `path`, if there is one: before the file is replaced."""
    if path in _opened:
        _opened.pop(path)[1].close()


def _identity(path: Path) -> _Identity:
    try:
        status = (path / "data.mdb").stat()
    except OSError as error:
        raise UserError(f"{path}: no packed data; {AGAIN}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: Path) -> lmdb.Environment:
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error}); {AGAIN}") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / "data.mdb").stat().st_size
    if size < needed:
        environment.close()
        raise UserError(f"{path}: LMDB is cut short ({size} of {needed} bytes); {AGAIN}")
    return environment
