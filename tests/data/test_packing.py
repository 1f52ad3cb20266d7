"""A killed packing goes on after the last sequence that is whole, to the same content."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from motrlab.data import packing
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore, opened
from motrlab.errors import UserError

MakeSequence = Callable[..., Path]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package catches it."""


class Bar:
    """In place of tqdm: `tell` gets what is done, how many so far, how many in all."""

    tell: Any

    def __init__(self, *, total: int, desc: str, initial: int = 0, **_: Any) -> None:
        self.total, self.desc, self.n = total, desc, initial

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self) -> None:
        self.n += 1
        type(self).tell(self.desc, self.n, self.total)


@pytest.fixture
def sources(make_sequence: MakeSequence) -> list[SequenceSource]:
    found = []
    for name, num_frames in (("B", 13), ("A", 18), ("C", 8)):  # not in the order of the keys
        folder = make_sequence(name, seed=num_frames, num_frames=num_frames)
        info = read_sequence_info(folder)
        files = tuple(info.frame_path(folder, frame) for frame in range(1, num_frames + 1))
        gt = read_annotations(folder / "gt" / "gt.txt", info)
        found.append(SequenceSource(info=info, files=files, annotations=gt))
    return found


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits of four frames."""
    monkeypatch.setattr(packing, "_BATCH", 4)


def contents(path: Path) -> dict[bytes, bytes]:
    """Every key and value; what lies in the unused parts of LMDB's pages is left to chance."""
    with opened(path).begin() as transaction:
        return dict(transaction.cursor())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read."""
    seen: list[Path] = []
    original = packing._read_file
    monkeypatch.setattr(packing, "_read_file", lambda file: (seen.append(file), original(file))[1])
    return seen


def killed_after(frames: int, path: Path, sources: list[SequenceSource]) -> None:
    """Pack, and be killed when that many frames are put."""

    def tell(_: str, done: int, __: int) -> None:
        if done == frames:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "tqdm", type("Telling", (Bar,), {"tell": staticmethod(tell)}))
        with pytest.raises(Killed):
            write_store(path, sources)


@pytest.mark.parametrize(("frames", "whole"), [(5, 0), (13, 0), (14, 13), (30, 13), (32, 31), (39, 31)])
def test_whole_sequences_are_not_packed_again(
    frames: int, whole: int, sources: list[SequenceSource], reads: list[Path], tmp_path: Path
) -> None:
    data_hash = write_store(tmp_path / "whole", sources)
    killed_after(frames, tmp_path / "lmdb", sources)
    assert not (tmp_path / "lmdb").exists()
    reads.clear()
    assert write_store(tmp_path / "lmdb", sources) == data_hash
    assert len(reads) == 39 - whole
    assert contents(tmp_path / "lmdb") == contents(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lmdb", "source", "whole"]


def test_a_kill_between_the_last_commit_and_the_move(
    sources: list[SequenceSource], reads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(packing, "replace_folder", kill)
        with pytest.raises(Killed):
            write_store(tmp_path / "lmdb", sources)
    reads.clear()
    data_hash = write_store(tmp_path / "lmdb", sources)
    assert reads == []
    assert FrameStore(tmp_path / "lmdb").data_hash == data_hash


def cut(file: Path) -> None:
    os.truncate(file, 3 * 4096)


def overwrite(file: Path) -> None:
    file.write_bytes(b"?" * 20_000)


@pytest.mark.parametrize("damage", [None, cut, overwrite])
def test_what_cannot_be_gone_on_with_is_removed(
    damage: Callable[[Path], None] | None, sources: list[SequenceSource], reads: list[Path], tmp_path: Path
) -> None:
    killed_after(20, tmp_path / "lmdb", sources)
    (begun,) = tmp_path.glob(".lmdb.*")
    if damage is None:  # other sources
        os.utime(sources[1].files[0], (1, 1))
    else:
        damage(begun / "data.mdb")
    reads.clear()
    write_store(tmp_path / "lmdb", sources)
    assert len(reads) == 39
    assert list(tmp_path.glob(".lmdb.*")) == []


def test_the_old_store_stays_until_the_new_one_is_whole(sources: list[SequenceSource], tmp_path: Path) -> None:
    old = write_store(tmp_path / "lmdb", sources[:1])
    killed_after(20, tmp_path / "lmdb", sources)
    assert FrameStore(tmp_path / "lmdb").data_hash == old
    new = write_store(tmp_path / "lmdb", sources)
    assert FrameStore(tmp_path / "lmdb").data_hash == new != old


PACK = f"""
import sys, time
from pathlib import Path
from typing import Any
from motrlab.data import packing, validate
from motrlab.data.prepare import prepare

{inspect.getsource(Bar)}
def tell(what, done, total):
    print(what, done, total, flush=True)
    time.sleep(float(sys.argv[3]))

Bar.tell = tell
packing.tqdm = validate.tqdm = Bar
prepare(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def start(source: Path, out: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK, str(source), str(out), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_9_anywhere(sources: list[SequenceSource], tmp_path: Path) -> None:
    """SIGKILL while frames are validated, then within the packing of train and of test: the same in the end."""
    source, out = sources[0].files[0].parents[2], tmp_path / "data"
    whole = prepare(source, tmp_path / "whole")
    for told in ("validate B 3", "pack 5", "pack 12", "pack 18 20"):
        with start(source, out, 0.02) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith(told):
                assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert not (out / "test_lmdb").exists()
    assert prepare(source, out) == whole
    for part in ("train_lmdb", "test_lmdb"):
        assert FrameStore(out / part).data_hash == FrameStore(tmp_path / "whole" / part).data_hash
    assert {p.name for p in out.iterdir()} == {"train_lmdb", "test_lmdb", "test_gt"}


def test_two_processes_do_not_prepare_one_folder(sources: list[SequenceSource], tmp_path: Path) -> None:
    source, out = sources[0].files[0].parents[2], tmp_path / "data"
    with start(source, out, 0.05) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("pack"):
            assert process.poll() is None
        with pytest.raises(UserError, match="/data: another process is preparing data in it"):
            prepare(source, out)
        process.kill()
    prepare(source, out)  # the lock went with the process


def test_a_commit_reaches_the_disk_in_order(sources: list[SequenceSource], tmp_path: Path) -> None:
    """A power cut must not leave a root page that points to pages never written: no MDB_NOSYNC."""
    seen = []
    original = lmdb.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb, "open", lambda *args, **options: seen.append(options) or original(*args, **options))
        write_store(tmp_path / "lmdb", sources)
    writing = [options for options in seen if not options.get("readonly")]
    assert len(writing) == 1
    assert writing[0].get("sync", True)
    assert writing[0].get("metasync", True)
