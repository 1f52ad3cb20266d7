from __future__ import annotations

import errno
import os
import signal

import pytest

from motrlab.data import workers
from motrlab.data.workers import worker_map
from motrlab.errors import UserError


def end(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(UserError, match="a worker process was killed"), worker_map(2) as run:
        list(run(end, range(8)))


def test_without_room_for_queues_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose /dev/shm is full."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workers, "ProcessPoolExecutor", fail)
    with worker_map(2) as run:
        assert list(run(lambda _: os.getpid(), range(2))) == [os.getpid()] * 2
