"""Frames into an LMDB, chunk by chunk, so that a killed packing goes on after its last commit.

A chunk is as many whole JPEG files of a sequence, one behind the other, as make `CHUNK_BYTES`: LMDB keeps a large value
in whole pages, and a page half empty behind every frame would cost 2 to 4 % of the disk. Keys: `SEQ/%06d` is the chunk
that starts with that frame, `SEQ/%06d.index` the size and the SHA-256 of each of its frames, `SEQ/annotations` the
arrays of `Annotations` one behind the other, zlib-compressed (bare they are 2 % of the frames); `meta` (JSON) comes
last, with the last commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.validate import Progress, jpeg_size
from motrlab.errors import UserError

SCHEMA = 2
CHUNK_BYTES = 1 << 20  # half a page of 4096 is lost behind each chunk: 0.2 %
COMMIT_BYTES = 64 << 20  # one transaction holds its dirty pages in memory; a kill loses at most this much
INDEX = np.dtype([("size", "<i8"), ("sha256", "V32")])  # a row per frame of a chunk
FIELDS = (("frame", "<i8", 1), ("track_id", "<i8", 1), ("ltwh", "<f8", 4), ("flag", "<i8", 1), ("class_id", "<i8", 1),
          ("visibility", "<f8", 1))  # fmt: skip
_BATCH = 64  # files read ahead


@dataclass(frozen=True, kw_only=True)
class SequenceSource:
    """A sequence to be packed: `files[i]` becomes frame `i + 1`; the annotations count frames the same way."""

    info: SequenceInfo
    files: tuple[Path, ...]
    annotations: Annotations


@dataclass(frozen=True)
class _Chunk:
    """`data` is None for a chunk that is in the file already."""

    first: int
    rows: NDArray[np.void]
    data: bytes | None = None


class _Writer:
    """Puts values and commits by the amount; `close` commits the rest, `abort` forgets it."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._transaction, self._pending = environment.begin(write=True), 0

    def put(self, key: str, value: bytes) -> None:
        self._transaction.put(key.encode(), value)
        self._pending += len(value)

    def put_if_new(self, key: str, value: bytes) -> None:
        """For what a killed run may have put already: the same bytes in new pages would be another file."""
        if self._transaction.get(key.encode()) != value:
            self.put(key, value)

    def commit_if_due(self) -> None:
        if self._pending >= COMMIT_BYTES:
            self._transaction.commit()
            self._transaction, self._pending = self._environment.begin(write=True), 0

    def close(self) -> None:
        self._transaction.commit()

    def abort(self) -> None:
        self._transaction.abort()


def pack(
    folder: Path,
    sources: Sequence[SequenceSource],
    source_hash: str,
    *,
    num_workers: int = 1,
    progress: Progress | None = None,
) -> str:
    """Pack `sources` into the LMDB in `folder`, or go on with one begun from the same sources; returns the data hash.

    The data hash depends on the frames' bytes, the annotations and the `SequenceInfo`s, on nothing else. `num_workers`
    threads read files ahead: reading is waiting, and threads hand the bytes over without a copy. Raises UserError
    for a frame that is damaged, OSError and lmdb.Error where the file cannot be written.
    """
    map_size = int(packed_bytes(sources) * 1.1) + (8 << 20)  # inner pages and meta data need well under a tenth
    # With sync, a commit's data reach the disk before the page that announces them: it stands after a power cut too.
    environment = lmdb.open(str(folder), map_size=map_size, lock=False)
    try:
        writer = _Writer(environment)
        try:
            data_hash = _write(writer, sources, source_hash, _begun(environment), num_workers, progress)
            writer.close()
        except BaseException:
            writer.abort()
            raise
    finally:
        environment.close()
    return data_hash


def _begun(environment: lmdb.Environment) -> dict[str, NDArray[np.void]]:
    """Rows of every chunk that was committed, by the chunk's key."""
    found = {}
    with environment.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            name = bytes(key).decode()
            if name.endswith(".index"):
                found[name.removesuffix(".index")] = np.frombuffer(bytes(value), INDEX)
    return found


def _write(
    writer: _Writer,
    sources: Sequence[SequenceSource],
    source_hash: str,
    begun: dict[str, NDArray[np.void]],
    num_workers: int,
    progress: Progress | None,
) -> str:
    digest, entries, done = hashlib.sha256(), [], 0
    total = sum(len(s.files) for s in sources)
    with ThreadPoolExecutor(num_workers) as pool:
        for item in sources:
            name = item.info.name
            digest.update(json.dumps(dataclasses.asdict(item.info), sort_keys=True).encode())
            for chunk in _chunks(item, begun, pool):
                for offset, row in enumerate(chunk.rows):
                    digest.update(f"{name}/{chunk.first + offset:06d}".encode() + bytes(row["sha256"]))
                if chunk.data is not None:
                    writer.put(chunk_key(name, chunk.first), chunk.data)
                    writer.put(chunk_key(name, chunk.first) + ".index", chunk.rows.tobytes())
                    writer.commit_if_due()
                done += len(chunk.rows)
                if progress is not None:
                    progress("pack", done, total)
            key, value = f"{name}/annotations", annotation_bytes(item.annotations)
            digest.update(key.encode() + hashlib.sha256(value).digest())
            writer.put_if_new(key, zlib.compress(value))
            rows, has_class = len(item.annotations), item.annotations.has_class
            entries.append({"info": dataclasses.asdict(item.info), "rows": rows, "has_class": has_class})
    meta = {"schema": SCHEMA, "data_hash": digest.hexdigest(), "source_hash": source_hash, "sequences": entries}
    writer.put_if_new("meta", json.dumps(meta).encode())
    return digest.hexdigest()


def _chunks(item: SequenceSource, begun: dict[str, NDArray[np.void]], pool: ThreadPoolExecutor) -> Iterator[_Chunk]:
    """The sequence's chunks in order: those begun, then new ones."""
    first = 1
    while (rows := begun.get(chunk_key(item.info.name, first))) is not None:
        yield _Chunk(first, rows)
        first += len(rows)
    held: list[bytes] = []
    for start in range(first - 1, len(item.files), _BATCH):  # a bounded number of files in memory
        for data in pool.map(_read_jpeg, item.files[start : start + _BATCH]):
            held.append(data)
            if sum(map(len, held)) >= CHUNK_BYTES:
                yield _chunk(first, held)
                first, held = first + len(held), []
    if held:
        yield _chunk(first, held)


def _chunk(first: int, frames: Sequence[bytes]) -> _Chunk:
    rows = np.array([(len(data), hashlib.sha256(data).digest()) for data in frames], INDEX)
    return _Chunk(first, rows, b"".join(frames))


def chunk_key(name: str, first: int) -> str:
    """Key of the chunk that starts with frame `first`."""
    return f"{name}/{first:06d}"


def packed_bytes(sources: Sequence[SequenceSource]) -> int:
    """What the packed file will hold, within a page per chunk."""
    frames = sum(f.stat().st_size for s in sources for f in s.files)
    return frames + sum(len(annotation_bytes(s.annotations)) + INDEX.itemsize * len(s.files) for s in sources)


def _read_jpeg(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        jpeg_size(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy it anew") from error
    return data


def annotation_bytes(annotations: Annotations) -> bytes:
    """The arrays one behind the other, little endian, in the order of `FIELDS`."""
    return b"".join(np.ascontiguousarray(getattr(annotations, name), kind).tobytes() for name, kind, _ in FIELDS)


def annotations_from_bytes(data: bytes, rows: int, has_class: bool) -> Annotations:
    """What `annotation_bytes` wrote; the arrays are read-only."""
    arrays: dict[str, NDArray[Any]] = {}
    at = 0
    for field, kind, columns in FIELDS:
        array = np.frombuffer(data, kind, rows * columns, at)
        at += array.nbytes
        arrays[field] = array.reshape(rows, columns) if columns > 1 else array
    return Annotations(**arrays, has_class=has_class)


def hash_sources(sources: Sequence[SequenceSource]) -> str:
    """Changes with any name, size or time of a file, with the annotations and the `SequenceInfo`s. Raises OSError."""
    digest = hashlib.sha256()
    for item in sources:
        digest.update(json.dumps(dataclasses.asdict(item.info), sort_keys=True).encode())
        digest.update(annotation_bytes(item.annotations))
        for file in item.files:
            status = file.stat()
            digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
