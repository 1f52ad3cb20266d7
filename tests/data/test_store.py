from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lmdb
import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, annotation_bytes, hash_sources
from motrlab.data.store import FrameStore, write_store
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
            assert store.jpeg(item.info.name, frame) == file.read_bytes()
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
    assert store.jpeg("A", 1) == store.jpeg("A", 2)  # a reader opened earlier sees the new file, not a dead one


def test_the_data_hash_belongs_to_the_content(
    sources: list[SequenceSource], make_sequence: MakeSequence, tmp_path: Path
) -> None:
    first = write_store(tmp_path / "1", sources)
    moved = shutil.copytree(sources[0].files[0].parents[1], tmp_path / "elsewhere" / "A")
    assert write_store(tmp_path / "2", [source(moved), sources[1]]) == first
    assert write_store(tmp_path / "3", sources[:1]) != first


@pytest.mark.parametrize("kilobytes", [30, 60, 80, 200])
def test_disk_size_stays_near_the_jpegs(kilobytes: int, make_sequence: MakeSequence, tmp_path: Path) -> None:
    """The files of real frames, 640×480 to 1920×1080, are of these sizes."""
    folder = make_sequence("A", num_frames=128)
    for i, file in enumerate(sorted((folder / "img1").iterdir())):
        data = file.read_bytes()
        file.write_bytes(data[:-2] + bytes(kilobytes * 1000 + 61 * i) + data[-2:])
    write_store(tmp_path / "lmdb", [source(folder)])
    packed = sum(f.stat().st_size for f in (tmp_path / "lmdb").iterdir())
    assert packed < 1.02 * sum(f.stat().st_size for f in (folder / "img1").iterdir())


@pytest.mark.parametrize("name", ["MOT17-02-FRCNN", "MOT17-09-DPM", "PETS09-S2L1", "TUD-Campus"])
def test_disk_size_of_real_frames(name: str, mot_root: Path, tmp_path: Path) -> None:
    whole = source(mot_root / name)
    few = replace(whole.info, num_frames=min(128, whole.info.num_frames))
    item = SequenceSource(info=few, files=whole.files[: few.num_frames], annotations=Annotations.empty())
    write_store(tmp_path / "lmdb", [item])
    jpegs = sum(f.stat().st_size for f in item.files)
    fixed = 8 * 4096  # roots and meta pages: 0.05 % of a video, but 5 % of four frames
    assert (tmp_path / "lmdb" / "data.mdb").stat().st_size < 1.02 * jpegs + (fixed if few.num_frames < 16 else 0)
    assert FrameStore(tmp_path / "lmdb").jpeg(name, 2) == item.files[1].read_bytes()


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
        store.jpeg("C", 1)
    with pytest.raises(UserError, match="no entry 'B/000004'"):
        store.jpeg("B", 4)


@pytest.mark.parametrize("kept", [0, 100, 4096, 8192, 20_000, -1])
def test_a_store_cut_short_is_refused(kept: int, path: Path) -> None:
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(data[:kept])
    with pytest.raises(UserError, match="delete the folder and pack again"):
        FrameStore(path)


def test_a_store_cut_short_is_packed_again(path: Path, sources: list[SequenceSource]) -> None:
    data, data_hash = (path / "data.mdb").read_bytes(), FrameStore(path).data_hash
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    assert write_store(path, sources) == data_hash
    assert FrameStore(path).jpeg("B", 3) == sources[1].files[2].read_bytes()


@pytest.mark.parametrize("meta", [b'{"schema": 99}', b"not json", None], ids=["other schema", "no JSON", "no meta"])
def test_another_schema_is_refused(meta: bytes | None, tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "lmdb")) as environment, environment.begin(write=True) as transaction:
        if meta is not None:
            transaction.put(b"meta", meta)
    with pytest.raises(UserError, match=r"written with schema (99|unknown), motrlab reads 1 and 2"):
        FrameStore(tmp_path / "lmdb")


def test_a_missing_store_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m motrlab prepare"):
        FrameStore(tmp_path / "lmdb")


def test_a_disk_too_small_is_refused_before_writing(
    sources: list[SequenceSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="disk full"):
        write_store(tmp_path / "out" / "lmdb", sources)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("free", "message"),
    [(1000, "disk full"), (10**12, r"cannot be written \(mdb_txn_commit")],
    ids=["full", "not full"],
)
def test_a_disk_that_fails_leaves_the_old_store(
    free: int, message: str, path: Path, sources: list[SequenceSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        raise lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}")  # seen on a full tmpfs

    old = FrameStore(path).data_hash
    monkeypatch.setattr("motrlab.data.store.pack", fail)
    with pytest.raises(UserError, match=message):
        write_store(path, sources[:1])
    assert FrameStore(path).data_hash == old
    assert [f.name for f in path.parent.iterdir() if f.name.startswith(".")] == []


def test_a_target_that_cannot_be_written_is_refused(sources: list[SequenceSource], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_store(tmp_path / "file" / "lmdb", sources)


def test_a_read_only_target_is_refused(
    sources: list[SequenceSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # the tests may run as root, who may write anywhere
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"lmdb: cannot be written \(Read-only file system\)"):
        write_store(tmp_path / "lmdb", sources)


def test_a_damaged_frame_is_named(path: Path, sources: list[SequenceSource]) -> None:
    file = sources[0].files[2]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"000003.jpg: JPEG file is cut short"):
        write_store(path, sources)


def test_nothing_is_pickled(path: Path) -> None:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys = [bytes(key).decode() for key, _ in transaction.cursor()]
        meta = json.loads(bytes(transaction.get(b"meta")))
    expected = [f"{name}/{key}" for name in "AB" for key in ("000001", "000001.index", "annotations")]
    assert keys == [*expected, "meta"]
    assert meta["schema"] == 2


def write_schema_1(path: Path, sources: list[SequenceSource]) -> str:
    """A store as motrlab wrote it before chunks: a key for each frame."""
    digest, entries = hashlib.sha256(), []
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 24, lock=False) as environment, environment.begin(write=True) as out:
        for item in sources:
            info = dataclasses.asdict(item.info)
            digest.update(json.dumps(info, sort_keys=True).encode())
            values = {f"{item.info.name}/{i:06d}": file.read_bytes() for i, file in enumerate(item.files, 1)}
            values[f"{item.info.name}/annotations"] = annotation_bytes(item.annotations)
            for key, value in values.items():
                out.put(key.encode(), value)
                digest.update(key.encode() + hashlib.sha256(value).digest())
            entries.append({"info": info, "rows": len(item.annotations), "has_class": item.annotations.has_class})
        meta = {"schema": 1, "data_hash": digest.hexdigest(), "source_hash": hash_sources(sources)}
        out.put(b"meta", json.dumps({**meta, "sequences": entries}).encode())
    return digest.hexdigest()


def test_a_store_of_schema_1_is_read_and_kept(sources: list[SequenceSource], tmp_path: Path) -> None:
    data_hash = write_schema_1(tmp_path / "old", sources)
    store = FrameStore(tmp_path / "old")
    assert [store.jpeg("A", f) for f in range(1, 9)] == [f.read_bytes() for f in sources[0].files]
    assert store.image("B", 3, reduce=2).shape == (32, 48, 3)
    assert len(store.annotations("A")) == len(sources[0].annotations)
    with pytest.raises(UserError, match="no entry 'B/000004'"):
        store.jpeg("B", 4)
    assert write_store(tmp_path / "old", sources) == data_hash
    assert FrameStore(tmp_path / "old").schema == 1
    assert write_store(tmp_path / "new", sources) == data_hash  # the same content
