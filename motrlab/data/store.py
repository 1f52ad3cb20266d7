"""Frames and annotations in one LMDB: the original JPEG bytes, never re-encoded, nothing pickled.

`packing.py` says what the keys are; stores of schema 1 (a key for each frame) are read as well. Writers work in a
hidden folder beside the target, which a killed run leaves and the next one goes on with, and move it into place.
NumPy, OpenCV and lmdb only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from motrlab.data.lmdb_files import forget, opened
from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.packing import (
    COMMIT_BYTES,
    INDEX,
    SCHEMA,
    SequenceSource,
    annotations_from_bytes,
    chunk_key,
    hash_sources,
    pack,
    packed_bytes,
)
from motrlab.data.pictures import decode_image
from motrlab.data.validate import Progress
from motrlab.errors import UserError
from motrlab.files import clear_leftovers, locked, replace_folder

_READABLE = (1, SCHEMA)
_EMPTY_BYTES = 2 * 4096  # an LMDB without anything in it


class FrameStore:
    """Reader of a packed LMDB; opened lazily in each process, so it may be sent to loader workers.

    Raises UserError when the store is missing, cut short, or of another schema version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        meta = self._meta()
        self.schema: int = meta["schema"]
        self.data_hash: str = meta["data_hash"]
        self.sequences: tuple[SequenceInfo, ...] = tuple(SequenceInfo(**s["info"]) for s in meta["sequences"])
        self._infos = {info.name: info for info in self.sequences}
        self._rows = {s["info"]["name"]: (s["rows"], s["has_class"]) for s in meta["sequences"]}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__  # the environment is not part of it

    def __repr__(self) -> str:
        frames = sum(info.num_frames for info in self.sequences)
        return f"FrameStore({str(self.path)!r}: {len(self.sequences)} sequences, {frames} frames)"

    def _meta(self) -> dict[str, Any]:
        return _read_meta(opened(self.path, fresh=True).environment, self.path)

    def info(self, name: str) -> SequenceInfo:
        """Raises UserError where there is no such sequence."""
        if name not in self._infos:
            raise UserError(f"{self.path}: no sequence {name!r}; there are {', '.join(self._infos)}")
        return self._infos[name]

    def _no_entry(self, key: str) -> UserError:
        return UserError(f"{self.path}: no entry {key!r}; delete the folder and pack again")

    def _place(self, name: str, frame: int) -> tuple[int, int, int]:
        """The first frame of the chunk that holds `frame`, and where in it that lies: offset and size in bytes."""
        file = opened(self.path)
        if name not in file.cache:
            file.cache[name] = _read_index(file.environment, name)
        index = file.cache[name]
        if not 1 <= frame <= len(index):
            raise self._no_entry(chunk_key(name, frame))
        first, offset, size = index[frame - 1].tolist()
        return first, offset, size

    def jpeg(self, name: str, frame: int) -> bytes:
        """The file's bytes as they were packed; frames count from 1."""
        key, offset, size = chunk_key(self.info(name).name, frame), 0, None
        if self.schema > 1:
            first, offset, size = self._place(name, frame)
            key = chunk_key(name, first)
        with opened(self.path).environment.begin(buffers=True) as transaction:
            value = transaction.get(key.encode())
            if value is None:
                raise self._no_entry(key)
            return bytes(value[offset : None if size is None else offset + size])

    def image(self, name: str, frame: int, reduce: int = 1) -> NDArray[np.uint8]:
        """`uint8 [H, W, 3]` in BGR; `reduce` 2, 4 or 8 decodes to that fraction of the size (rounded up), faster."""
        return decode_image(self.jpeg(name, frame), f"{self.path}: frame {frame} of {name}", reduce)

    def annotations(self, name: str) -> Annotations:
        self.info(name)
        key = f"{name}/annotations"
        with opened(self.path).environment.begin() as transaction:
            data = transaction.get(key.encode())
        if data is None:
            raise self._no_entry(key)
        return annotations_from_bytes(zlib.decompress(data) if self.schema > 1 else data, *self._rows[name])


def _read_meta(environment: lmdb.Environment, path: Path) -> dict[str, Any]:
    with environment.begin() as transaction:
        value = transaction.get(b"meta")
    try:
        meta = json.loads(bytes(value)) if value is not None else None
        schema = meta["schema"] if meta is not None else "unknown"
    except (ValueError, KeyError, TypeError):
        schema = "unknown"
    if schema not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise UserError(f"{path}: written with schema {schema}, motrlab reads {readable}; delete it and pack again")
    assert isinstance(meta, dict)
    return meta


def _read_index(environment: lmdb.Environment, name: str) -> NDArray[np.int64]:
    """`int64 [n, 3]`, a row per frame: first frame of its chunk, offset, size in bytes."""
    rows: dict[int, NDArray[np.int64]] = {}
    prefix = f"{name}/".encode()
    with environment.begin(buffers=True) as transaction, transaction.cursor() as cursor:
        cursor.set_range(prefix)
        for key, value in cursor:
            text = bytes(key)
            if not text.startswith(prefix):
                break
            if text.endswith(b".index"):
                first = int(text[len(prefix) :].removesuffix(b".index"))
                sizes = np.frombuffer(bytes(value), INDEX)["size"].astype(np.int64)
                rows[first] = np.stack([np.full_like(sizes, first), np.cumsum(sizes) - sizes, sizes], axis=1)
    return np.concatenate([np.zeros((0, 3), np.int64), *(rows[first] for first in sorted(rows))])


def write_store(
    path: Path, sources: Sequence[SequenceSource], *, num_workers: int = 1, progress: Progress | None = None
) -> str:
    """Pack `sources` into the LMDB folder `path` and return its data hash.

    A store that was packed from the same files (names, sizes, times, annotations) is left as it is, and one that was
    begun from them is gone on with. `num_workers` threads read files ahead. Raises UserError: disk full, target not
    writable, another process at it, file damaged.
    """
    path = path.resolve()
    try:
        source_hash = hash_sources(sources)
        with contextlib.suppress(UserError):
            existing = FrameStore(path)._meta()
            if existing.get("source_hash") == source_hash:
                return str(existing["data_hash"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with _begun_folder(path, source_hash) as folder:
            _check_space(path, packed_bytes(sources) - _size(folder))
            try:
                data_hash = pack(folder, sources, source_hash, num_workers=num_workers, progress=progress)
            except lmdb.Error as error:
                if shutil.disk_usage(folder).free < COMMIT_BYTES:  # LMDB calls a short write an input/output error
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise
            forget(path)
            replace_folder(folder, path)
    except (OSError, lmdb.Error) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC
        reason = getattr(error, "strerror", None) or str(error)
        what = (
            f"disk full ({reason}); free some space and run again"
            if full
            else f"cannot be written ({reason}); mend that and run again"
        )
        raise UserError(f"{path}: {what}") from error
    return data_hash


def _size(folder: Path) -> int:
    file = folder / "data.mdb"
    return file.stat().st_size if file.is_file() else 0


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")


@contextlib.contextmanager
def _begun_folder(path: Path, source_hash: str) -> Iterator[Path]:
    """The hidden folder beside `path` in which these sources are packed, new or as a killed run left it.

    Folders begun from other sources are removed. Raises UserError while another process works in one of them.
    """
    folder = path.with_name(f".{path.name}.{SCHEMA}-{source_hash[:32]}.partial")
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        with locked(stale, "packing"):
            if stale != folder or not _goes_on(stale):
                shutil.rmtree(stale, ignore_errors=True)
    clear_leftovers(path)
    folder.mkdir(exist_ok=True)
    with locked(folder, "packing"):
        try:
            yield folder
        finally:
            if folder.is_dir() and _size(folder) <= _EMPTY_BYTES:  # failed before anything was packed
                shutil.rmtree(folder, ignore_errors=True)


def _goes_on(folder: Path) -> bool:
    """False for a file that a power cut, say, has left shorter than it says."""
    try:
        opened(folder)
    except UserError:
        return False
    finally:
        forget(folder)
    return True
