"""Whole or not at all, whatever the disk does."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from motrlab.errors import UserError
from motrlab.files import MARKER, atomic_path, hidden_name, locked, replaced_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write_file(path: Path, text: str = "new", then: Callable[[], object] = lambda: None) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
        then()


def write_folder(path: Path, text: str = "new", then: Callable[[], object] = lambda: None) -> None:
    with replaced_folder(path) as folder:
        (folder / "file").write_text(text)
        then()


def fail(error: BaseException) -> Callable[[], object]:
    def raising() -> None:
        raise error

    return raising


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_the_target_appears_at_the_end_with_usual_rights(write: Callable[..., None], tmp_path: Path) -> None:
    target = tmp_path / "deep" / "name.txt"
    there: list[bool] = []
    write(target, then=lambda: there.append(target.exists()))
    assert there == [False]
    (tmp_path / "plain").mkdir() if target.is_dir() else (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    write(target, "newer")
    assert next(p for p in (target, target / "file") if p.is_file()).read_text() == "newer"
    assert names(target.parent) == ["name.txt"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_one(write: Callable[..., None], error: BaseException, tmp_path: Path) -> None:
    write(tmp_path / "name", "old")
    with pytest.raises(type(error)):
        write(tmp_path / "name", "new", fail(error))
    assert next(p for p in (tmp_path / "name", tmp_path / "name" / "file") if p.is_file()).read_text() == "old"
    assert names(tmp_path) == ["name"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize(
    ("error", "free", "line"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 10**9, r"\(No space left on device\); free some space"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), 0, r"\(Read-only file system\); choose a folder"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), 10**9, r"\(Input/output error\); fix that and run again"),
        (RuntimeError("unexpected pos 704 vs 598"), 0, r"\(No space left on device\); free some space"),  # torch.save
    ],
)
def test_what_the_disk_refuses_is_one_line(
    write: Callable[..., None], error: Exception, free: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "name", "old")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=rf"/name: cannot be written {line}"):
        write(tmp_path / "name", "new", fail(error))
    assert names(tmp_path) == ["name"]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_the_longest_names_can_be_written(write: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path / ("é" * 125 + ".txt"))
    assert names(tmp_path) == ["é" * 125 + ".txt"]
    with pytest.raises(UserError, match=r"File name too long\); choose a shorter name"):
        write(tmp_path / ("a" * 256))


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a[1].0a1b2c3d.tmp", ".a[1].0a1b2c3d.old", ".a[1].b.0a1b2c3d.tmp", ".a1.0a1b2c3d.tmp", "a[1]"):
        (tmp_path / name).mkdir()
    write_folder(tmp_path / "a[1]")
    assert names(tmp_path) == [".a1.0a1b2c3d.tmp", ".a[1].b.0a1b2c3d.tmp", "a[1]"]


def test_a_kill_between_the_two_moves_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "a", "old")
    with monkeypatch.context() as patch:
        original, kills = Path.rename, [KeyboardInterrupt]
        patch.setattr(Path, "rename", lambda s, t: fail(kills.pop()())() if s.suffix == ".tmp" else original(s, t))
        with pytest.raises(KeyboardInterrupt):
            write_folder(tmp_path / "a", "new")
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "a", "newer", fail(RuntimeError()))
    assert (tmp_path / "a" / "file").read_text() == "old"


def test_only_what_is_marked_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "theirs" / "precious", "mine")
    write_text(tmp_path / "file", "mine")
    for _ in range(2):
        with replaced_folder(tmp_path / "empty", marked=True):
            pass
    assert names(tmp_path / "empty") == [MARKER]
    for name in ("theirs", "file"):
        with (
            pytest.raises(UserError, match=f"/{name}: not written by motrlab"),
            replaced_folder(tmp_path / name, marked=True),
        ):
            pass
    assert (tmp_path / "theirs" / "precious").read_text() == (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == ["empty", "file", "theirs"]


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, motrlab.files as f\n"
        f"with f.locked(pathlib.Path({str(tmp_path)!r}), 'packing'):\n    print(flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match="another process is packing it"), locked(tmp_path, "packing"):
            pass
        process.kill()
    with locked(tmp_path, "packing"):
        assert hidden_name(tmp_path).startswith(".")
