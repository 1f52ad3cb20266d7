"""Frames and annotations in one LMDB: the original JPEG bytes, never re-encoded, nothing pickled.

Keys: `meta` (JSON: schema version, data hash, source hash, sequences), `SEQ/%06d` (JPEG bytes of a frame, from 1),
`SEQ/annotations` (the arrays of `Annotations` one behind the other, little endian; `meta` has their lengths).
Writers work under a temporary name and move the finished folder into place. NumPy, OpenCV and lmdb only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
from numpy.typing import NDArray

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.validate import Progress, jpeg_size
from motrlab.errors import UserError

SCHEMA = 1
_FIELDS = (("frame", "<i8", 1), ("track_id", "<i8", 1), ("ltwh", "<f8", 4), ("flag", "<i8", 1), ("class_id", "<i8", 1),
           ("visibility", "<f8", 1))  # fmt: skip
_REDUCED = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8,
}  # fmt: skip
_PAGE = 4096
_COMMIT_BYTES = 64 << 20  # one transaction holds its dirty pages in memory


@dataclass(frozen=True, kw_only=True)
class SequenceSource:
    """A sequence to be packed: `files[i]` becomes frame `i + 1`; the annotations count frames the same way."""

    info: SequenceInfo
    files: tuple[Path, ...]
    annotations: Annotations


_Identity = tuple[int, int, int]  # inode, size, time of data.mdb
_environments: dict[Path, tuple[_Identity, lmdb.Environment]] = {}  # lmdb allows one per path and process


def _close_inherited() -> None:
    """A forked child must not use its parent's environments, nor open a path beside them."""
    for path in list(_environments):
        _forget(path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


class FrameStore:
    """Reader of a packed LMDB; opened lazily in each process, so it may be sent to loader workers.

    Raises UserError when the store is missing, cut short, or of another schema version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        meta = self._meta()
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
        return _read_meta(_environment(self.path, fresh=True), self.path)

    def info(self, name: str) -> SequenceInfo:
        """Raises UserError where there is no such sequence."""
        if name not in self._infos:
            raise UserError(f"{self.path}: no sequence {name!r}; there are {', '.join(self._infos)}")
        return self._infos[name]

    def _get(self, key: str) -> bytes:
        with _environment(self.path).begin() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            raise UserError(f"{self.path}: no entry {key!r}; delete the folder and pack again")
        return bytes(value)

    def jpeg(self, name: str, frame: int) -> bytes:
        """The file's bytes as they were packed; frames count from 1."""
        return self._get(f"{self.info(name).name}/{frame:06d}")

    def image(self, name: str, frame: int, reduce: int = 1) -> NDArray[np.uint8]:
        """`uint8 [H, W, 3]` in BGR; `reduce` 2, 4 or 8 decodes to that fraction of the size (rounded up), faster."""
        data = np.frombuffer(self.jpeg(name, frame), np.uint8)
        # An orientation tag would turn the picture away from its boxes.
        image = cv2.imdecode(data, _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise UserError(f"{self.path}: frame {frame} of {name} does not decode; its JPEG file is damaged")
        return image  # type: ignore[return-value]

    def annotations(self, name: str) -> Annotations:
        self.info(name)
        rows, has_class = self._rows[name]
        data, at = self._get(f"{name}/annotations"), 0
        arrays: dict[str, NDArray[Any]] = {}
        for field, kind, columns in _FIELDS:
            array = np.frombuffer(data, kind, rows * columns, at)
            at += array.nbytes
            arrays[field] = array.reshape(rows, columns) if columns > 1 else array
        return Annotations(**arrays, has_class=has_class)


def _environment(path: Path, *, fresh: bool = False) -> lmdb.Environment:
    """The process's environment of `path`; with `fresh` it is opened anew where the file has been replaced."""
    if path not in _environments or (fresh and _environments[path][0] != _identity(path)):
        _forget(path)
        _environments[path] = (_identity(path), _open(path))
    return _environments[path][1]


def _identity(path: Path) -> _Identity:
    try:
        status = (path / "data.mdb").stat()
    except OSError as error:
        raise UserError(f"{path}: no packed data; run `python -m motrlab prepare`") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _forget(path: Path) -> None:
    known = _environments.pop(path, None)
    if known is not None:
        known[1].close()


def _open(path: Path) -> lmdb.Environment:
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not a readable LMDB ({error}); delete the folder and pack again") from error
    # Touching a page behind the end of the file would kill the process with SIGBUS, so look before reading.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (path / "data.mdb").stat().st_size
    if size < needed:
        environment.close()
        raise UserError(f"{path}: LMDB is cut short ({size} of {needed} bytes); delete the folder and pack again")
    return environment


def _read_meta(environment: lmdb.Environment, path: Path) -> dict[str, Any]:
    with environment.begin() as transaction:
        value = transaction.get(b"meta")
    try:
        meta = json.loads(bytes(value)) if value is not None else None
        schema = meta["schema"] if meta is not None else "unknown"
    except (ValueError, KeyError, TypeError):
        schema = "unknown"
    if schema != SCHEMA:
        raise UserError(f"{path}: written with schema {schema}, this motrlab reads {SCHEMA}; delete it and pack again")
    assert isinstance(meta, dict)
    return meta


def write_store(
    path: Path, sources: Sequence[SequenceSource], *, num_workers: int = 2, progress: Progress | None = None
) -> str:
    """Pack `sources` into the LMDB folder `path` and return its data hash.

    A store that was packed from the same files (names, sizes, times, annotations) is left as it is. `num_workers`
    threads read files ahead. Raises UserError: disk full, target not writable, file damaged.
    """
    path = path.resolve()
    try:
        source_hash = _hash_sources(sources)
        with contextlib.suppress(UserError):
            existing = FrameStore(path)._meta()
            if existing.get("source_hash") == source_hash:
                return str(existing["data_hash"])
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path, sum(_stored_bytes(f.stat().st_size) for s in sources for f in s.files))
        with temporary_folder(path) as folder:
            try:
                data_hash = _write(folder, sources, source_hash, num_workers, progress)
            except lmdb.Error as error:
                if shutil.disk_usage(folder).free < _COMMIT_BYTES:  # LMDB calls a short write an input/output error
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                raise
            replace_folder(folder, path)
    except (OSError, lmdb.Error) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC
        reason = getattr(error, "strerror", None) or str(error)
        what = f"disk full ({reason}); free some space and run again" if full else f"cannot be written ({reason})"
        raise UserError(f"{path}: {what}") from error
    return data_hash


def _stored_bytes(size: int) -> int:
    """LMDB keeps large values in whole pages behind a 16-byte header."""
    return -(-(size + 16) // _PAGE) * _PAGE


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`; those that a killed run left behind are removed first."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, path: Path) -> None:
    """Move a finished folder into place; an old one gives way."""
    folder.chmod(0o755)
    _forget(path)
    if path.exists():
        path.rename(folder.with_name(folder.name.replace(".tmp", ".old.tmp")))
    folder.rename(path)
    for old in path.parent.glob(f".{path.name}.*.old.tmp"):
        shutil.rmtree(old, ignore_errors=True)


def _write(
    folder: Path, sources: Sequence[SequenceSource], source_hash: str, num_workers: int, progress: Progress | None
) -> str:
    total_bytes = sum(_stored_bytes(f.stat().st_size) for s in sources for f in s.files)
    total_bytes += sum(_stored_bytes(len(_annotation_bytes(s.annotations))) for s in sources)
    map_size = int(total_bytes * 1.1) + (8 << 20)  # inner pages and meta data need well under a tenth
    environment = lmdb.open(str(folder), map_size=map_size, sync=False, lock=False)
    try:
        digest, entries = hashlib.sha256(), []
        for item, values in zip(sources, _packed(sources, num_workers, progress), strict=True):
            digest.update(json.dumps(dataclasses.asdict(item.info), sort_keys=True).encode())
            _put_all(environment, values, digest)
            rows, has_class = len(item.annotations), item.annotations.has_class
            entries.append({"info": dataclasses.asdict(item.info), "rows": rows, "has_class": has_class})
        meta = {"schema": SCHEMA, "data_hash": digest.hexdigest(), "source_hash": source_hash, "sequences": entries}
        with environment.begin(write=True) as transaction:
            transaction.put(b"meta", json.dumps(meta).encode())
        environment.sync(True)
    finally:
        environment.close()
    return digest.hexdigest()


def _put_all(environment: lmdb.Environment, values: Iterable[tuple[str, bytes]], digest: Any) -> None:
    transaction, pending = environment.begin(write=True), 0
    try:
        for key, value in values:
            transaction.put(key.encode(), value)
            digest.update(key.encode() + hashlib.sha256(value).digest())
            pending += len(value)
            if pending > _COMMIT_BYTES:
                transaction.commit()
                transaction, pending = environment.begin(write=True), 0
        transaction.commit()
    except BaseException:
        transaction.abort()
        raise


def _packed(
    sources: Sequence[SequenceSource], num_workers: int, progress: Progress | None
) -> Iterator[Iterator[tuple[str, bytes]]]:
    """For every source an iterator over its keys and values, in key order; files are read ahead by threads."""
    done, total = 0, sum(len(s.files) for s in sources)

    def values(item: SequenceSource, pool: ThreadPoolExecutor) -> Iterator[tuple[str, bytes]]:
        nonlocal done
        for first in range(0, len(item.files), 64):  # a bounded number of files in memory
            batch = item.files[first : first + 64]
            for offset, data in enumerate(pool.map(_read_jpeg, batch)):
                yield f"{item.info.name}/{first + offset + 1:06d}", data
            done += len(batch)
            if progress is not None:
                progress("pack", done, total)
        yield f"{item.info.name}/annotations", _annotation_bytes(item.annotations)

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        for item in sources:
            yield values(item, pool)


def _read_jpeg(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        jpeg_size(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy it anew") from error
    return data


def _annotation_bytes(annotations: Annotations) -> bytes:
    return b"".join(np.ascontiguousarray(getattr(annotations, name), kind).tobytes() for name, kind, _ in _FIELDS)


def _hash_sources(sources: Sequence[SequenceSource]) -> str:
    digest = hashlib.sha256()
    for item in sources:
        digest.update(json.dumps(dataclasses.asdict(item.info), sort_keys=True).encode())
        digest.update(_annotation_bytes(item.annotations))
        for file in item.files:
            status = file.stat()
            digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
