"""Latency of the deployed graphs and of each part of the frame step, measured on real frames.

What is compared is measured in one run, call by call in turn, because a shared machine drifts by more than the
difference between two graphs. Medians and 90th percentiles are in milliseconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.kernels import Array, Network
from motrlab.deploy.runtime import Runtime, load_artifact, named
from motrlab.errors import UserError
from motrlab.tracking.step import frame_loop
from motrlab.tracking.tracker import Tracker

STEP_STAGES = ("preprocess", "base", "tracker", "gather", "qim", "state", "total")
HOST_STAGES = ("tracker", "gather", "state")
_MAX_RECORDED = 16  # inputs kept for the comparison of the graphs; mot17's take 14 MB a frame
_WARM_UP = 3  # calls before the clock starts
_TURN = 10  # calls of one form before those of the other: waking its threads belongs to the first only
Inputs = dict[str, Array]


def measure_latency(
    artifact: Path,
    float_graphs: Path,
    images: Iterable[NDArray[np.uint8]],
    *,
    num_threads: Sequence[int] = (1, 2),
    repeats: int = 50,
) -> dict[str, float]:
    """Latency of an artefact beside the fp32 graphs of the same network, both on ONNX Runtime.

    Args:
        artifact: the artefact's folder.
        float_graphs: folder of the fp32 `base.onnx` and `qim.onnx`.
        images: frames of one sequence, BGR `uint8 [H, W, 3]`.
        num_threads: thread counts to measure with.
        repeats: timed calls of each graph for each thread count.

    Returns:
        Flat metrics: `GRAPH.fixed_point.p50_ms`, `.p90_ms` and `GRAPH.fp32...` for `base` and `qim`;
        `step.PART.p50_ms`, `.p90_ms` of the closed loop, `step.host.p50_ms` (all but pre-processing and networks), its
        `fps`, `step.fp32_total.p50_ms` of the loop on fp32; `speedup` (fp32 / fixed point median of the base graph),
        `qim.speedup`, `step.speedup`; `num_frames`, `repeats`. These are of the first thread count; those of another
        number n have `threads_n.` before their names. Raises UserError without images.
    """
    if repeats < 1:
        raise UserError(f"performance: repeats must be at least 1, not {repeats}")
    frames = list(images)
    if not frames:
        raise UserError("performance: no frames to measure on; prepare the data first")
    metrics: dict[str, float] = {"num_frames": len(frames), "repeats": repeats, "num_threads": num_threads[0]}
    for index, threads in enumerate(num_threads):
        fixed = load_artifact(artifact, num_threads=threads)
        floating = fixed.on_files(float_graphs, num_threads=threads)
        found = _compare(fixed, floating, frames, repeats) | _time_closed_loops(fixed, floating, frames)
        prefix = f"threads_{threads}." if index else ""
        metrics |= {prefix + name: round(value, 4) for name, value in found.items()}
    return metrics


def _compare(fixed: Runtime, floating: Runtime, frames: Sequence[NDArray[np.uint8]], repeats: int) -> dict[str, float]:
    """Both forms of both graphs, in turn, on the inputs of the fixed-point tracker's own loop."""
    frames, tracker = frames[:_MAX_RECORDED], Tracker(fixed.tracker, fixed.shapes.num_detect, fixed.shapes.num_track)
    images = map(fixed.preprocess, frames)
    loop = frame_loop(fixed.graphs, images, lambda out: tracker.update(*out.scores_and_boxes()), fixed.shapes)
    inputs = [(named("base", step.base_inputs), named("qim", step.qim_inputs)) for step in loop]
    base, qim = ([both[i] for both in inputs] for i in (0, 1))
    float_base = [given | {"image": floating.preprocess(x)} for given, x in zip(base, frames, strict=True)]
    forms = {
        "base": {"fixed_point": (fixed.graphs.base_network, base), "fp32": (floating.graphs.base_network, float_base)},
        "qim": {"fixed_point": (fixed.graphs.qim_network, qim), "fp32": (floating.graphs.qim_network, qim)},
    }
    metrics: dict[str, float] = {}
    for name, candidates in forms.items():
        for kind, values in time_in_turn(candidates, repeats).items():
            metrics |= _percentiles(f"{name}.{kind}", values)
        ratio = metrics[f"{name}.fp32.p50_ms"] / metrics[f"{name}.fixed_point.p50_ms"]
        metrics["speedup" if name == "base" else f"{name}.speedup"] = ratio
    return metrics


def time_in_turn(candidates: Mapping[str, tuple[Network, Sequence[Inputs]]], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each candidate, some calls of each after the other, each on its inputs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for first in range(-_WARM_UP, repeats, _TURN):
        for name, (network, inputs) in candidates.items():
            for index in range(first, min(first + _TURN, repeats)):
                given = inputs[index % len(inputs)]
                started = time.perf_counter()
                network(given)
                if index >= 0:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def _time_closed_loops(fixed: Runtime, floating: Runtime, frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Parts of the frame step over a whole sequence, both loops closed, some frames of each in turn; some warm up."""
    seconds: dict[str, dict[str, list[float]]] = {"fixed": {}, "float": {}}
    loops = [fixed.track(frames, seconds["fixed"]), floating.track(frames, seconds["float"])]
    for _ in range(0, len(frames) + 1, _TURN):
        for loop in loops:
            deque(islice(loop, _TURN), maxlen=0)
    warm_up = min(_WARM_UP, len(frames) - 1)
    parts = {name: values[warm_up:] for name, values in seconds["fixed"].items()}
    parts["host"] = [sum(values) for values in zip(*(parts[name] for name in HOST_STAGES), strict=True)]
    metrics: dict[str, float] = {}
    for stage in (*STEP_STAGES, "host"):
        metrics |= _percentiles(f"step.{stage}", parts[stage])
    metrics |= _percentiles("step.fp32_total", seconds["float"]["total"][warm_up:])
    metrics["step.speedup"] = metrics["step.fp32_total.p50_ms"] / metrics["step.total.p50_ms"]
    return {**metrics, "fps": len(parts["total"]) / sum(parts["total"])}


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    milliseconds = np.array(seconds) * 1e3
    return {f"{name}.p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 90)}
