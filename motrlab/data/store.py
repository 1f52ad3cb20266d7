"""Frames and annotations in one LMDB: the bytes of the picture files, never re-encoded, nothing pickled.

Keys: `SEQ/%06d` is a frame's file as it was; `SEQ/annotations` the arrays of `Annotations` one behind the other,
zlib-compressed (bare they are 2 % of the frames); `SEQ/sha256` the SHA-256 of each frame, then that of the
annotations; `meta` (JSON) comes last. What is read is compared with its SHA-256, so that damage is told and never seen
as a grey picture; that takes 2 to 8 % of the time of decoding (measured, with SHA instructions).

There is one environment per path and process, opened when first read, never handed on to a forked child. A file cut
short is refused before anything in it is read: a page behind the end would kill the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from motrlab.classes import PEOPLE
from motrlab.config.checks import counted_fields
from motrlab.data.motchallenge import ANNOTATION_FIELDS, Annotations, SequenceInfo
from motrlab.data.pictures import decode_image
from motrlab.errors import UserError

SCHEMA = 3  # 1: without checks; 2: many frames under one key
_HASH_BYTES = 32
_KINDS = ("<i8", "<i8", "4<f8", "<i8", "<i8", "<f8")  # of ANNOTATION_FIELDS, little endian
_FIELDS = {name: np.dtype(kind) for name, kind in zip(ANNOTATION_FIELDS, _KINDS, strict=True)}
_AGAIN = "prepare the data again (notebook 01, or `python -m motrlab prepare`)"

_Identity = tuple[int, int, int]  # inode, size, time of data.mdb
_opened: dict[Path, tuple[_Identity, lmdb.Environment]] = {}  # lmdb allows one environment per path and process


class FrameStore:
    """Reader of a packed LMDB; opened lazily in each process, so it may be sent to loader workers.

    `sequences` are its videos; `stills` are its sequences of single images, which only training looks at. All have the
    same tracked `classes`.

    Raises UserError when the store is missing, cut short, damaged, or of another schema version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        opened(self.path, fresh=True)
        meta = _read_meta(self.path)
        try:
            infos = [SequenceInfo(**s["info"]) for s in meta["sequences"]]
            self._has_class = {s["info"]["name"]: bool(s["has_class"]) for s in meta["sequences"]}
            found = content_hash((info, read_value(self.path, f"{info.name}/sha256")) for info in infos)
        except (KeyError, TypeError):
            found = ""
        if found != meta.get("data_hash"):
            raise UserError(f"{self.path}: its list of contents is damaged; {_AGAIN}")
        self._infos = {info.name: info for info in infos}
        self.sequences = tuple(info for info in infos if not info.stills)
        self.stills = tuple(info for info in infos if info.stills)
        self.classes = infos[0].tracked if infos else PEOPLE
        self.data_hash = found

    def __repr__(self) -> str:
        frames = sum(info.num_frames for info in self._infos.values())
        return f"FrameStore({str(self.path)!r}: {len(self._infos)} sequences, {frames} frames)"

    def info(self, name: str) -> SequenceInfo:
        """Raises UserError where there is no such sequence."""
        if name not in self._infos:
            raise UserError(f"{self.path}: no sequence {name!r}; there are {', '.join(self._infos)}")
        return self._infos[name]

    def frame_bytes(self, name: str, frame: int) -> bytes:
        """The picture file as it was packed; frames count from 1. Raises UserError, also where it is damaged."""
        if not 1 <= frame <= self.info(name).num_frames:
            raise UserError(f"{self.path}: no frame {frame} of {name}; it has {self.info(name).num_frames}, from 1")
        return self._checked(name, f"{frame:06d}", frame - 1, f"frame {frame}", bytes)

    def image(self, name: str, frame: int, reduce: int = 1) -> NDArray[np.uint8]:
        """`uint8 [H, W, 3]` in BGR; `reduce` 2, 4 or 8 decodes to that fraction of the size (rounded up), faster."""
        return decode_image(self.frame_bytes(name, frame), f"{self.path}: frame {frame} of {name}", reduce)

    def annotations(self, name: str) -> Annotations:
        """All of a sequence; the arrays are read-only. Raises UserError, also where they are damaged."""
        self.info(name)
        data = self._checked(name, "annotations", -1, "the ground truth", zlib.decompress)
        rows, at = len(data) // sum(kind.itemsize for kind in _FIELDS.values()), 0
        arrays: dict[str, NDArray[Any]] = {}
        for field, kind in _FIELDS.items():
            arrays[field] = np.frombuffer(data, kind, rows, at)
            at += arrays[field].nbytes
        return Annotations(**arrays, has_class=self._has_class[name])

    def check(self) -> None:
        """Read everything. Raises UserError naming what is damaged first."""
        for info in self._infos.values():
            self.annotations(info.name)
            for frame in range(1, info.num_frames + 1):
                self.frame_bytes(info.name, frame)

    def _checked(self, name: str, entry: str, row: int, what: str, unpack: Callable[[Any], bytes]) -> bytes:
        """The unpacked value of `NAME/ENTRY`. Raises UserError unless it has the SHA-256 in that row of its table."""
        with contextlib.suppress(lmdb.Error, zlib.error), opened(self.path).begin(buffers=True) as transaction:
            data = unpack(transaction.get(f"{name}/{entry}".encode(), b""))
            hashes = transaction.get(f"{name}/sha256".encode(), b"")
            if hashlib.sha256(data).digest() == hashes[_HASH_BYTES * row :][:_HASH_BYTES]:
                return data
        raise UserError(f"{self.path}: {what} of {name} is damaged, not what was packed; {_AGAIN}")


# A forked child must not use its parent's environments, nor open a path beside them.
os.register_at_fork(after_in_child=lambda: list(map(forget, list(_opened))))


def opened(path: Path, *, fresh: bool = False) -> lmdb.Environment:
    """The process's environment of folder `path`; with `fresh` it is opened again where the file has been replaced.

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
        raise UserError(f"{path}: no packed data; {_AGAIN}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: Path) -> lmdb.Environment:
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error}); {_AGAIN}") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / "data.mdb").stat().st_size
    if size < needed:
        environment.close()
        raise UserError(f"{path}: LMDB is cut short ({size} of {needed} bytes); {_AGAIN}")
    return environment


def read_value(path: Path, key: str) -> bytes:
    """A key's value in the LMDB at `path`; b"" where there is none, or none that can be read."""
    try:
        with opened(path).begin() as transaction:
            return bytes(transaction.get(key.encode(), b""))
    except lmdb.Error:
        return b""


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = dict(json.loads(read_value(path, "meta")))
    except (ValueError, TypeError):
        meta = {}
    if meta.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: written with schema {meta.get('schema', 'unknown')}, motrlab reads {SCHEMA}; {_AGAIN}"
        )
    return meta


def annotation_bytes(annotations: Annotations) -> bytes:
    """The arrays one behind the other, little endian, in the order of `_FIELDS`."""
    return b"".join(np.asarray(getattr(annotations, name), kind.base).tobytes() for name, kind in _FIELDS.items())


def content_hash(sequences: Iterable[tuple[SequenceInfo, bytes]]) -> str:
    """The data hash, of each sequence's info and `SEQ/sha256`: it depends on the content and on nothing else."""
    digest = hashlib.sha256()
    for info, hashes in sequences:
        digest.update(json.dumps(counted_fields(info), sort_keys=True).encode())
        rows = [hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]
        for entry, row in zip([*(f"{i:06d}" for i in range(1, len(rows))), "annotations"], rows, strict=False):
            digest.update(f"{info.name}/{entry}".encode() + row)
    return digest.hexdigest()
