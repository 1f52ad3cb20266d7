from __future__ import annotations

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from motrlab.data import workers
from motrlab.data.workers import shared_memory_free, worker_map
from motrlab.errors import UserError


def end(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(UserError, match="a worker process was killed"), worker_map(2) as run:
        list(run(end, range(8)))


@pytest.mark.parametrize(("raised", "free"), [(None, 7), (OSError(errno.ENOENT, "missing"), 0)])
def test_the_room_in_shared_memory(raised: OSError | None, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: str) -> SimpleNamespace:
        assert path == "/dev/shm"
        if raised:
            raise raised
        return SimpleNamespace(free=7)

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.setattr("os.access", lambda *_: True)
    assert shared_memory_free() == free
    monkeypatch.setattr("os.access", lambda *_: False)
    assert shared_memory_free() == 0
    monkeypatch.setattr("sys.platform", "darwin")
    assert shared_memory_free() > 1e18


def test_without_room_for_queues_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose /dev/shm is full."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workers, "ProcessPoolExecutor", fail)
    with worker_map(2) as run:
        assert list(run(lambda _: os.getpid(), range(2))) == [os.getpid()] * 2
