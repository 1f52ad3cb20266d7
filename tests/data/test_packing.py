"""A killed packing goes on: after the last commit, to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from motrlab.data import packing
from motrlab.data.lmdb_files import opened
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore, write_store
from motrlab.errors import UserError

MakeSequence = Callable[..., Path]
PER_COMMIT = 2  # chunks


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the package catches it."""


@pytest.fixture
def sources(make_sequence: MakeSequence) -> list[SequenceSource]:
    found = []
    for name, num_frames in (("B", 13), ("A", 18)):  # not in the order of the keys
        folder = make_sequence(name, seed=num_frames, num_frames=num_frames)
        info = read_sequence_info(folder)
        files = tuple(info.frame_path(folder, frame) for frame in range(1, num_frames + 1))
        gt = read_annotations(folder / "gt" / "gt.txt", info)
        found.append(SequenceSource(info=info, files=files, annotations=gt))
    return found


@pytest.fixture
def small_chunks(sources: list[SequenceSource], monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two or three frames, commits after two chunks."""
    size = max(f.stat().st_size for s in sources for f in s.files)
    monkeypatch.setattr(packing, "CHUNK_BYTES", 2 * size)
    monkeypatch.setattr(packing, "COMMIT_BYTES", PER_COMMIT * 2 * size)


def contents(path: Path) -> dict[bytes, bytes]:
    """Every key and value; what lies in the unused parts of LMDB's pages is left to chance."""
    with opened(path).environment.begin() as transaction:
        return dict(transaction.cursor())


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read from now on."""
    seen: list[Path] = []
    original = packing._read_jpeg

    def reading(path: Path) -> bytes:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(packing, "_read_jpeg", reading)
    return seen


def count_commits(monkeypatch: pytest.MonkeyPatch, kill_at: int = 0) -> list[int]:
    """A count of the commits from now on; the one of number `kill_at` is the last that the process lives to see."""
    original, count = packing._Writer.commit_if_due, [0]

    def commit(self: packing._Writer) -> None:
        pending = self._pending
        original(self)
        count[0] += self._pending < pending
        if count[0] == kill_at > 0:
            raise Killed

    monkeypatch.setattr(packing._Writer, "commit_if_due", commit)
    return count


def killed_at(commit: int, path: Path, sources: list[SequenceSource]) -> bool:
    """Pack, and be killed after that commit; False where it came to its end before."""
    with pytest.MonkeyPatch.context() as patch:
        count_commits(patch, kill_at=commit)
        try:
            write_store(path, sources)
        except Killed:
            return True
    return False


def test_a_kill_after_any_commit_costs_nothing(
    sources: list[SequenceSource], small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        count = count_commits(patch)
        write_store(tmp_path / "whole", sources)
    commits = count[0]
    assert commits >= 4
    whole = contents(tmp_path / "whole")
    for number in range(1, commits + 1):
        path = tmp_path / f"killed{number}"
        assert killed_at(number, path, sources)
        assert not path.exists()
        with monkeypatch.context() as patch:
            again = read_files(patch)
            data_hash = write_store(path, sources)
        assert len(again) <= 31 - 4 * number  # a chunk holds at least two frames
        assert data_hash == FrameStore(tmp_path / "whole").data_hash
        assert contents(path) == whole
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(f".{path.name}")] == []


def test_killed_again_and_again_it_still_ends(
    sources: list[SequenceSource], small_chunks: None, tmp_path: Path
) -> None:
    whole, kills = write_store(tmp_path / "whole", sources), 0
    while killed_at(1, tmp_path / "lmdb", sources):
        kills += 1
    assert kills >= 4
    assert FrameStore(tmp_path / "lmdb").data_hash == whole
    assert contents(tmp_path / "lmdb") == contents(tmp_path / "whole")


def test_a_kill_between_the_last_commit_and_the_move(
    sources: list[SequenceSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    whole = write_store(tmp_path / "whole", sources)
    with monkeypatch.context() as patch:
        patch.setattr("motrlab.data.store.replace_folder", kill)
        with pytest.raises(Killed):
            write_store(tmp_path / "lmdb", sources)
    seen = read_files(monkeypatch)
    assert write_store(tmp_path / "lmdb", sources) == whole
    assert seen == []
    assert contents(tmp_path / "lmdb") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["other sources", "cut short", "no LMDB"])
def test_what_cannot_be_gone_on_with_is_removed(
    damage: str, sources: list[SequenceSource], small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert killed_at(2, tmp_path / "lmdb", sources)
    (partial,) = tmp_path.glob(".lmdb.*.partial")
    if damage == "other sources":
        os.utime(sources[1].files[0], (1, 1))
    elif damage == "cut short":
        os.truncate(partial / "data.mdb", 3 * 4096)
    else:
        (partial / "data.mdb").write_bytes(b"?" * 20_000)
    seen = read_files(monkeypatch)
    write_store(tmp_path / "lmdb", sources)
    assert len(seen) == 31
    assert list(tmp_path.glob(".lmdb.*")) == []


def test_the_old_store_stays_until_the_new_one_is_whole(
    sources: list[SequenceSource], small_chunks: None, tmp_path: Path
) -> None:
    old = write_store(tmp_path / "lmdb", sources[:1])
    assert killed_at(3, tmp_path / "lmdb", sources)
    assert FrameStore(tmp_path / "lmdb").data_hash == old
    new = write_store(tmp_path / "lmdb", sources)
    assert FrameStore(tmp_path / "lmdb").data_hash == new != old


PACK = """
import sys, time
from pathlib import Path
from motrlab.data import packing
from motrlab.data.prepare import prepare

packing.CHUNK_BYTES, packing.COMMIT_BYTES = 2000, 4000

def tell(what, done, total):
    print(what, done, flush=True)
    time.sleep(float(sys.argv[3]))

prepare(Path(sys.argv[1]), Path(sys.argv[2]), progress=tell)
"""


def start(source: Path, out: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PACK, str(source), str(out), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_9_anywhere(sources: list[SequenceSource], tmp_path: Path) -> None:
    """SIGKILL while frames are validated, then within the packing of train and of test: the same in the end."""
    source, out = sources[0].files[0].parents[2], tmp_path / "data"
    whole = prepare(source, tmp_path / "whole")
    for told in ("validate B 3", "pack 5", "pack 12", "pack 14"):
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


def test_two_processes_do_not_write_one_store(sources: list[SequenceSource], tmp_path: Path) -> None:
    source, out = sources[0].files[0].parents[2], tmp_path / "data"
    with start(source, out, 0.05) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("pack"):
            pass
        with pytest.raises(UserError, match="another process is packing it"):
            write_store(out / "train_lmdb", sources)
        process.kill()
    write_store(out / "train_lmdb", sources)  # the lock went with the process


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
