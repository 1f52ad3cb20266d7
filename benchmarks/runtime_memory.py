"""Thousands of frames through `motrlab.runtime.Tracker`: memory of the process, and whether an id came twice.

    OMP_NUM_THREADS=1 python benchmarks/runtime_memory.py [--frames 10000] [--artifact PATH] [--threads 1]

Frames of an embedded video, forwards and backwards for ever, and dark for 250 frames in every 1000, so that all tracks
end, nobody is remembered, and others begin. Prints how long the import took, resident memory after a warm-up of 1000
frames, its largest and smallest value after that (sampled every 100 frames), frames a second, and the number of ids.
Ends with status 1 where memory moved by more than 5 MB after the warm-up, or an id came back after the darkness.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

LIMIT_MB = 5.0
WARM_UP, SAMPLE, CYCLE, DARK = 1000, 100, 1000, 250


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of the deployed tracker over many frames")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--artifact", type=Path, help="default: the one that comes with motrlab")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    began, cpu = time.perf_counter(), time.process_time()
    from motrlab.runtime import Tracker

    took, used = time.perf_counter() - began, time.process_time() - cpu
    torch = "with" if "torch" in sys.modules else "without"
    print(f"import motrlab.runtime: {took:.3f} s, of it {used:.3f} s of the processor, {torch} torch", flush=True)
    from motrlab.deploy.measuring import street_frames

    frames = street_frames(120)
    dark = frames[0] * 0
    there_and_back = itertools.cycle([*frames, *frames[-2:0:-1]])
    tracker = Tracker(options.artifact, num_threads=options.threads)
    alive: set[int] = set()
    ended: set[int] = set()
    reused, samples, started = 0, [], time.perf_counter()
    for number in range(1, options.frames + 1):
        in_the_dark = number % CYCLE >= CYCLE - DARK
        ids = set(tracker.update(dark if in_the_dark else next(there_and_back)).track_id.tolist())
        reused += len(ids & ended)
        alive |= ids
        if number % CYCLE == 0:  # in the dark everybody was lost
            ended |= alive - ids
            alive = ids
        if number >= WARM_UP and number % SAMPLE == 0:
            samples.append(resident_mb())
    seconds = time.perf_counter() - started
    moved = max(samples) - samples[0]
    rate, ids = options.frames / seconds, len(ended | alive)
    print(f"{options.frames} frames, {rate:.1f} a second; {ids} ids, {reused} times one was used again")
    between = f"then {min(samples):.1f} to {max(samples):.1f} MB: {moved:+.2f} MB at most"
    print(f"resident after {WARM_UP} frames {samples[0]:.1f} MB, {between}")
    sys.exit(int(moved > LIMIT_MB or reused > 0))


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


if __name__ == "__main__":
    main()
