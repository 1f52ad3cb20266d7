"""Frames and annotations into an LMDB (`store.py` says what it holds), sequence by sequence.

A store is packed in a hidden folder beside the target and moved into place. A killed packing goes on after the last
sequence that is whole: one in which it was killed, however long, is packed again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
from tqdm import tqdm

from motrlab.config.checks import counted_fields
from motrlab.data.motchallenge import Annotations, Detections, SequenceInfo
from motrlab.data.rows import reading
from motrlab.data.store import SCHEMA, FrameStore, annotation_bytes, content_hash, forget, read_value
from motrlab.errors import UserError, tell
from motrlab.files import MARKER, check_ours, clear_leftovers, free_bytes, hidden_name, replace_folder, writing

_BATCH = 64  # files that are read ahead, and of a commit: it holds its pages in memory
_PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class SequenceSource:
    """A sequence to be packed: `files[i]` becomes frame `i + 1`; the boxes count frames the same way."""

    info: SequenceInfo
    files: tuple[Path, ...]
    annotations: Annotations
    detections: Detections | None = None  # not packed


def write_store(path: Path, sources: Sequence[SequenceSource], *, num_workers: int = 1) -> str:
    """Pack `sources` into the LMDB folder `path` and return its data hash.

    A store that was packed from the same files (names, sizes, times, annotations) is left as it is, unless its bytes
    are damaged, and one that was begun from them is continued. `num_workers` threads read files ahead. Raises
    UserError: disk full, target not writable or not ours, a file that cannot be read.
    """
    path = path.resolve()
    source_hash = _hash_sources(sources)
    check_ours(path)
    if _marker(path) == source_hash:
        try:
            store = FrameStore(path)
            store.check()
            return store.data_hash
        except UserError as error:
            tell(f"motrlab: {error}; doing this now")
    folder = path.with_name(f"{hidden_name(path)}unfinished")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
        begun = _begun(folder, sources, source_hash)
        needed, free = _packed_bytes([item for item in sources if not begun.get(item.info.name)]), free_bytes(path)
        if free < needed:
            raise OSError(errno.ENOSPC, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")
        folder.mkdir(exist_ok=True)
        (folder / MARKER).write_text(source_hash, encoding="utf-8")
        try:
            data_hash = _pack(folder, sources, begun, num_workers)
        except lmdb.Error as error:
            raise OSError(errno.EIO, str(error)) from error
        forget(path)
        replace_folder(folder, path)
    return data_hash


def _hash_sources(sources: Sequence[SequenceSource]) -> str:
    """Changes with any name, size or time of a file, with the annotations and the infos. Raises UserError."""
    digest = hashlib.sha256(f"{SCHEMA}".encode())
    for item in sources:
        digest.update(json.dumps([counted_fields(item.info), item.annotations.has_class]).encode())
        digest.update(annotation_bytes(item.annotations))
        for file in item.files:
            with reading(file):
                status = file.stat()
            digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _marker(folder: Path) -> str:
    """The hash of the sources that a folder was packed from."""
    file = folder / MARKER
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _begun(folder: Path, sources: Sequence[SequenceSource], source_hash: str) -> dict[str, bytes]:
    """The hashes of each sequence that a killed run packed whole, from the same files; what is of no use is removed."""
    begun: dict[str, bytes] = {}
    with contextlib.suppress(UserError):
        if _marker(folder) == source_hash:
            begun = {item.info.name: read_value(folder, f"{item.info.name}/sha256") for item in sources}
    forget(folder)
    if not any(begun.values()):
        shutil.rmtree(folder, ignore_errors=True)
    return begun


def _packed_bytes(sources: Sequence[SequenceSource]) -> int:
    """What the file will hold: frames in whole pages."""
    frames = sum(-(-f.stat().st_size // _PAGE_BYTES) * _PAGE_BYTES for s in sources for f in s.files)
    return frames + sum(len(annotation_bytes(s.annotations)) for s in sources)


def _pack(folder: Path, sources: Sequence[SequenceSource], begun: Mapping[str, bytes], num_workers: int) -> str:
    """Pack what is not in `begun` into the LMDB in `folder`; returns the data hash. Raises UserError, lmdb.Error."""
    whole = [item for item in sources if begun.get(item.info.name)]
    done, total = (sum(len(item.files) for item in items) for items in (whole, sources))
    packed: list[tuple[SequenceInfo, bytes]] = []
    # Twice the size is room for a sequence that is packed again; it takes no space before it is needed. With LMDB's
    # sync a commit's data reach the disk before the page that announces them: it stands after a power cut, too.
    map_size = 2 * _packed_bytes(sources) + (64 << 20)
    with (
        lmdb.open(str(folder), map_size=map_size, lock=False) as environment,
        ThreadPoolExecutor(num_workers) as pool,
        tqdm(total=total, initial=done, desc="pack", unit="frame", disable=None) as bar,
    ):
        for item in sources:
            packed.append((item.info, begun.get(item.info.name) or _put_sequence(environment, item, pool, bar)))
        entries = [{"info": counted_fields(s.info), "has_class": s.annotations.has_class} for s in sources]
        meta = {"schema": SCHEMA, "data_hash": content_hash(packed), "sequences": entries}
        with environment.begin(write=True) as transaction:
            transaction.put(b"meta", json.dumps(meta).encode())
    return content_hash(packed)


def _put_sequence(
    environment: lmdb.Environment, item: SequenceSource, pool: ThreadPoolExecutor, bar: tqdm[Any]
) -> bytes:
    """Commit a sequence, frames in batches and last their hashes, which make it whole; returns those."""
    hashes, name = [], item.info.name
    for start in range(0, len(item.files), _BATCH):
        with environment.begin(write=True) as transaction:
            for frame, data in enumerate(pool.map(_read_file, item.files[start : start + _BATCH]), start + 1):
                transaction.put(f"{name}/{frame:06d}".encode(), data)
                hashes.append(hashlib.sha256(data).digest())
                bar.update()
    gt = annotation_bytes(item.annotations)
    hashes.append(hashlib.sha256(gt).digest())
    with environment.begin(write=True) as transaction:
        transaction.put(f"{name}/annotations".encode(), zlib.compress(gt))
        transaction.put(f"{name}/sha256".encode(), b"".join(hashes))
    return b"".join(hashes)


def _read_file(file: Path) -> bytes:
    with reading(file):
        return file.read_bytes()
