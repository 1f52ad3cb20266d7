"""Work spread over processes, which end with this one and when the first of them finds a fault."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from motrlab.errors import UserError

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
_MEGAPIXELS_PER_WORKER = 1000  # fewer are checked sooner (1.5 s) than a process starts


@contextlib.contextmanager
def worker_map(num_workers: int, chunksize: int = 1) -> Iterator[Map]:
    """A `map` in `num_workers` processes; in this one for 1, and where the system has no place for their queues.

    Processes are spawned, not forked: the caller may hold threads of torch or OpenCV. Raises UserError where one of
    them was killed.
    """
    pool = _pool(num_workers) if num_workers > 1 else None
    if pool is None:
        yield map
        return
    with pool:
        try:
            yield partial(pool.map, chunksize=chunksize)
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed, perhaps out of memory; run with one worker") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def frame_workers(num_workers: int, megapixels: float) -> contextlib.AbstractContextManager[Map]:
    """A `map` over frames in up to `num_workers` processes; in this one for 1, and for few `megapixels` in all."""
    return worker_map(min(num_workers, 1 + int(megapixels / _MEGAPIXELS_PER_WORKER)), chunksize=16)


def shared_memory_free() -> float:
    """Bytes that processes can still hand to each other through /dev/shm; no limit where the system has another way."""
    if not sys.platform.startswith("linux"):
        return math.inf
    try:
        return shutil.disk_usage("/dev/shm").free if os.access("/dev/shm", os.W_OK) else 0
    except OSError:
        return 0


def _pool(num_workers: int) -> ProcessPoolExecutor | None:
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(num_workers, mp_context=context, initializer=_end_with_parent)
    except OSError:  # /dev/shm is full, read-only or missing: no semaphores
        return None


def _end_with_parent() -> None:
    """In a worker: Ctrl-C is the parent's to handle, and a parent killed leaves no workers waiting for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
