"""The deployed tracker in use: frames that come at a fixed rate, several videos at once, and the memory of it all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.runtime import Runtime, load_artifact

Frames = Sequence[NDArray[np.uint8]]


def rate_limited(runtime: Runtime, frames: Frames, fps: float, seconds: float = 3.0) -> dict[str, float]:
    """Track while frames come at `fps` a second, as a camera gives them; none is dropped, late ones queue.

    Returns `fps`, `num_frames`; `deadline_misses` (results later than the next frame) and `miss_share`; `p50_ms`,
    `p99_ms`, `max_ms` from a frame's arrival to its tracks; `jitter_ms`: standard deviation of that.
    """
    number = max(2, int(seconds * fps))
    due: list[float] = []

    def camera() -> Iterator[NDArray[np.uint8]]:
        started = time.perf_counter()
        for index in range(number):
            due.append(started + index / fps)
            time.sleep(max(0.0, due[-1] - time.perf_counter()))
            yield frames[index % len(frames)]

    latency: list[float] = []
    for _ in runtime.track(camera()):
        latency.append(time.perf_counter() - due[len(latency)])
        if sum(latency) > 10 * seconds:  # far too slow for this rate: the backlog only grows
            break
    late = np.array(latency) * 1e3
    misses = int((late > 1e3 / fps).sum())
    return {
        "fps": fps, "num_frames": len(late), "deadline_misses": misses, "miss_share": misses / len(late),
        "p50_ms": float(np.median(late)), "p99_ms": float(np.percentile(late, 99)), "max_ms": float(late.max()),
        "jitter_ms": float(late.std()),
    }  # fmt: skip


def throughput(artifact: Path, frames: Frames, streams: int, backend: str = "onnxruntime") -> float:
    """Frames a second of `streams` videos at once, a tracker of one thread for each."""
    runtimes = [load_artifact(artifact, backend=backend) for _ in range(streams)]
    with ThreadPoolExecutor(streams) as pool:
        started = time.perf_counter()
        tracked = sum(pool.map(lambda runtime: sum(1 for _ in runtime.track(frames)), runtimes))
        return tracked / (time.perf_counter() - started)


# The peak is asked of Linux, not of getrusage: what that says of a child begins with the peak of its parent.
_PEAK = """
import json, resource, sys
import numpy as np
from motrlab.deploy.runtime import load_artifact
def peak():
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
found = {"imported_mb": peak()}
from pathlib import Path
runtime = load_artifact(Path(sys.argv[1]), num_threads=int(sys.argv[2]), backend=sys.argv[3])
found["loaded_mb"] = peak()
height, width, number = (int(x) for x in sys.argv[4:])
random = np.random.default_rng(0)
frames = (random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(number))
for _ in runtime.track(frames): pass
found["peak_mb"] = peak()
print(json.dumps(found))
"""


def peak_memory(
    artifact: Path, num_threads: int, size: tuple[int, int], backend: str = "onnxruntime", num_frames: int = 5
) -> dict[str, float]:
    """MiB of a process that only tracks noise, `size` high and wide: `imported_mb`, `loaded_mb`, `peak_mb`."""
    command = [sys.executable, "-c", _PEAK, str(artifact), *map(str, (num_threads, backend, *size, num_frames))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
