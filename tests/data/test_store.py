from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import lmdb
import numpy as np
import pytest

from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.pictures import decode_image
from motrlab.data.store import FrameStore, forget
from motrlab.errors import UserError

MakeSequence = Callable[..., Path]


def source(folder: Path) -> SequenceSource:
    info = read_sequence_info(folder)
    files = tuple(info.frame_path(folder, frame) for frame in range(1, info.num_frames + 1))
    return SequenceSource(info=info, files=files, annotations=read_annotations(folder / "gt" / "gt.txt", info))


@pytest.fixture
def sources(make_sequence: MakeSequence) -> list[SequenceSource]:
    return [source(make_sequence("A", seed=1)), source(make_sequence("B", seed=2, gt="", num_frames=3))]


@pytest.fixture
def path(tmp_path: Path, sources: list[SequenceSource]) -> Path:
    write_store(tmp_path / "lmdb", sources)
    return tmp_path / "lmdb"


def test_the_original_bytes_come_back(path: Path, sources: list[SequenceSource]) -> None:
    store = FrameStore(path)
    assert store.sequences == tuple(s.info for s in sources)
    for item in sources:
        for frame, file in enumerate(item.files, 1):
            assert store.frame_bytes(item.info.name, frame) == file.read_bytes()
        found = store.annotations(item.info.name)
        for field in ("frame", "track_id", "ltwh", "flag", "class_id", "visibility"):
            expected = getattr(item.annotations, field)
            np.testing.assert_array_equal(getattr(found, field), expected)
            assert getattr(found, field).dtype == expected.dtype
        assert found.has_class == item.annotations.has_class


def test_same_files_are_not_packed_again_and_changed_ones_are(path: Path, sources: list[SequenceSource]) -> None:
    store = FrameStore(path)
    before = (path / "data.mdb").stat().st_ino
    assert write_store(path, sources) == store.data_hash
    assert (path / "data.mdb").stat().st_ino == before
    shutil.copy(sources[0].files[1], sources[0].files[0])
    changed = write_store(path, sources)
    assert changed != store.data_hash
    assert FrameStore(path).data_hash == changed
    assert store.frame_bytes("A", 1) == store.frame_bytes(
        "A", 2
    )  # a reader opened earlier sees the new file, not a dead one


def test_gt_that_loses_its_classes_is_packed_again(path: Path, sources: list[SequenceSource]) -> None:
    assert FrameStore(path).annotations("A").has_class
    write_store(path, [replace(s, annotations=replace(s.annotations, has_class=False)) for s in sources])
    assert not FrameStore(path).annotations("A").has_class


def test_the_data_hash_belongs_to_the_content(
    sources: list[SequenceSource], make_sequence: MakeSequence, tmp_path: Path
) -> None:
    first = write_store(tmp_path / "1", sources)
    moved = shutil.copytree(sources[0].files[0].parents[1], tmp_path / "elsewhere" / "A")
    assert write_store(tmp_path / "2", [source(moved), sources[1]]) == first
    assert write_store(tmp_path / "3", sources[:1]) != first


def _frame_mean(store: FrameStore, answers: multiprocessing.queues.Queue[float]) -> None:
    answers.put(float(store.image("A", 2).mean()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_works_in_other_processes(method: str, path: Path) -> None:
    store = FrameStore(path)
    expected = store.image("A", 2).mean()
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    process = context.Process(target=_frame_mean, args=(store, answers))
    process.start()
    assert answers.get(timeout=60) == expected
    process.join()
    assert pickle.loads(pickle.dumps(store)).image("A", 2).mean() == expected


def test_unknown_names_and_frames(path: Path) -> None:
    store = FrameStore(path)
    with pytest.raises(UserError, match="no sequence 'C'; there are A, B"):
        store.frame_bytes("C", 1)
    for frame in (0, 4):
        with pytest.raises(UserError, match=f"no frame {frame} of B; it has 3, from 1"):
            store.frame_bytes("B", frame)


@pytest.mark.parametrize("kept", [0, 100, 4096, 8192, 20_000, -1])
def test_a_store_cut_short_is_refused(kept: int, path: Path) -> None:
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[:kept])
    with pytest.raises(UserError, match="prepare the data again"):
        FrameStore(path)


def test_a_store_cut_short_is_packed_again(path: Path, sources: list[SequenceSource]) -> None:
    data, data_hash = (path / "data.mdb").read_bytes(), FrameStore(path).data_hash
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    assert write_store(path, sources) == data_hash
    assert FrameStore(path).frame_bytes("B", 3) == sources[1].files[2].read_bytes()


@pytest.mark.parametrize("meta", [b'{"schema": 99}', b"not json", None], ids=["other schema", "no JSON", "no meta"])
def test_another_schema_is_refused(meta: bytes | None, tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        if meta is not None:
            transaction.put(b"meta", meta)
    with pytest.raises(UserError, match=r"written with schema (99|unknown), motrlab reads 3"):
        FrameStore(tmp_path / "lmdb")


def test_a_missing_store_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m motrlab prepare"):
        FrameStore(tmp_path / "lmdb")


def test_a_disk_too_small_is_refused_before_writing(
    sources: list[SequenceSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"lmdb: cannot be written \(0\.\d MB needed, 0\.0 MB free\); free some space"):
        write_store(tmp_path / "out" / "lmdb", sources)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("free", "message"), [(1000, "No space left on device"), (10**12, "mdb_txn_commit")], ids=["full", "not full"]
)
def test_a_disk_that_fails_leaves_the_old_store(
    free: int, message: str, path: Path, sources: list[SequenceSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        raise lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}")  # seen on a full tmpfs

    old = FrameStore(path).data_hash
    monkeypatch.setattr("motrlab.data.packing._put_sequence", fail)
    with pytest.raises(UserError, match=rf"lmdb: cannot be written \({message}"):
        write_store(path, sources[:1])
    assert FrameStore(path).data_hash == old


def test_a_target_that_cannot_be_written_is_refused(sources: list[SequenceSource], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_store(tmp_path / "file" / "lmdb", sources)


def test_a_file_that_cannot_be_read_is_named(sources: list[SequenceSource], tmp_path: Path) -> None:
    sources[0].files[2].unlink()
    with pytest.raises(UserError, match=r"000003\.jpg: missing; copy it again"):
        write_store(tmp_path / "lmdb", sources)


def flip(path: Path, key: str) -> None:
    """One bit of a value, where it lies in the file."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        value = bytes(transaction.get(key.encode()))
    middle = len(value) // 2
    damaged = value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
    # LMDB copies a page to change it: the value may lie in a page that is no longer used, too.
    (path / "data.mdb").write_bytes((path / "data.mdb").read_bytes().replace(value, damaged))


DAMAGE = {
    "A/000005": r"lmdb: frame 5 of A is damaged",
    "A/annotations": r"lmdb: the ground truth of A is damaged",
    "B/sha256": r"lmdb: its list of contents is damaged",
    "meta": r"lmdb: (its list of contents is damaged|written with schema unknown)",
}


@pytest.mark.parametrize("key", DAMAGE)
def test_damage_is_told_and_mended(
    key: str, path: Path, sources: list[SequenceSource], capfd: pytest.CaptureFixture[str]
) -> None:
    data_hash = FrameStore(path).data_hash
    forget(path)
    flip(path, key)
    with pytest.raises(UserError, match=DAMAGE[key] + ".*; prepare the data again"):
        read_all(FrameStore(path))
    assert write_store(path, sources) == data_hash
    assert re.search(DAMAGE[key], capfd.readouterr().err)
    read_all(FrameStore(path))


def read_all(store: FrameStore) -> None:
    for info in store.sequences:
        store.annotations(info.name)
        for frame in range(1, info.num_frames + 1):
            store.image(info.name, frame)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_any_picture_is_packed_as_it_is(suffix: str, sources: list[SequenceSource], tmp_path: Path) -> None:
    """As its bytes, whatever its format."""
    file = sources[1].files[0]
    picture = decode_image(file.read_bytes(), file)
    file.write_bytes(cv2.imencode(suffix, picture)[1].tobytes())
    write_store(tmp_path / "lmdb", sources)
    store = FrameStore(tmp_path / "lmdb")
    assert store.frame_bytes("B", 1) == file.read_bytes()
    np.testing.assert_array_equal(store.image("B", 1), decode_image(file.read_bytes(), file))


def test_nothing_is_pickled(path: Path) -> None:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys = [bytes(key).decode() for key, _ in transaction.cursor()]
        meta = json.loads(bytes(transaction.get(b"meta")))
    expected = [f"{name}/{key}" for name in "AB" for key in ("000001", "000002", "000003", "annotations", "sha256")]
    assert [key for key in keys if not re.fullmatch("A/00000[4-8]", key)] == [*expected, "meta"]
    assert meta["schema"] == 3
