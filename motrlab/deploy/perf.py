"""Latency of the deployed graphs and of each stage of the frame step, measured on real frames.

What is compared is measured in one run, call by call in turn, because a shared machine drifts by more than the
difference between two graphs. Medians and 90th percentiles are in milliseconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.rewrite import rewrite_for_onnxruntime
from motrlab.deploy.runtime import (
    BASE_OUTPUTS,
    QIM_OUTPUTS,
    Float32,
    Network,
    OnnxGraphs,
    Runtime,
    load_artifact,
    load_onnxruntime,
)
from motrlab.errors import UserError

STEP_STAGES = ("preprocess", "base", "tracker", "qim", "total")
_MAX_RECORDED = 16  # inputs kept for the comparison of the graphs; mot17's take 14 MB a frame
_WARM_UP = 3  # calls before the clock starts
Inputs = dict[str, Float32]


def measure_latency(
    artifact: Path,
    float_base: Path,
    float_qim: Path,
    images: Iterable[NDArray[np.uint8]],
    *,
    num_threads: Sequence[int] = (1, 2),
    repeats: int = 50,
) -> dict[str, float]:
    """Latency of an artefact beside the fp32 graphs of the same network, both on ONNX Runtime.

    Args:
        artifact: the artefact's folder.
        float_base, float_qim: fp32 ONNX files with the artefact's inputs and outputs.
        images: frames of one sequence, BGR `uint8 [H, W, 3]`.
        num_threads: thread counts to measure with.
        repeats: timed calls of each graph for each thread count.

    Returns:
        Flat metrics: `GRAPH.fixed_point.p50_ms`, `.p90_ms`, `GRAPH.fp32...` and `GRAPH.float_functions...` (the
        artefact's graph with functions in float32, `rewrite.rewrite_for_onnxruntime(exact=False)`) for `base` and
        `qim`; `step.STAGE.p50_ms`, `.p90_ms` of the closed loop and its `fps`; `speedup` (fp32 / fixed point median of
        the base graph), `qim.speedup`; `num_frames`, `repeats`. These are of the first thread count; those of another
        number n have `threads_n.` before their names. Raises UserError without images.
    """
    if repeats < 1:
        raise UserError(f"performance: repeats must be at least 1, not {repeats}")
    frames = list(images)
    if not frames:
        raise UserError("performance: no frames to measure on; prepare the data first")
    metrics: dict[str, float] = {"num_frames": len(frames), "repeats": repeats, "num_threads": num_threads[0]}
    runtimes = [load_artifact(artifact, num_threads=threads) for threads in num_threads]
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for graph, floating in (("base", float_base), ("qim", float_qim)):
            fast = Path(folder) / f"{graph}.onnx"
            rewrite_for_onnxruntime(artifact / f"{graph}.onnx", fast, exact=False)
            files[graph] = {"float_functions": fast, "fp32": floating}
        for index, (threads, runtime) in enumerate(zip(num_threads, runtimes, strict=True)):
            recorder = _Recorder(runtime.graphs)
            _run_closed_loop(replace(runtime, graphs=recorder), frames)
            found = _compare(runtime.graphs, recorder, files, threads, repeats)
            found |= _time_closed_loop(runtime, frames)
            prefix = f"threads_{threads}." if index else ""
            metrics |= {prefix + name: round(value, 4) for name, value in found.items()}
    return metrics


class _Recorder(OnnxGraphs):
    """Graphs that keep what they are given, so that every candidate is timed on the same real inputs."""

    def __init__(self, graphs: OnnxGraphs) -> None:
        self.seen: dict[str, list[Inputs]] = {"base": [], "qim": []}
        super().__init__(
            self._watch("base", graphs.base_network),
            self._watch("qim", graphs.qim_network),
            graphs.detect_query,
            relative_boxes=graphs.relative_boxes,
        )

    def _watch(self, name: str, network: Network) -> Network:
        def run(inputs: Inputs) -> list[Float32]:
            if len(self.seen[name]) < _MAX_RECORDED:
                self.seen[name].append(inputs)
            return network(inputs)

        return run


def _run_closed_loop(runtime: Runtime, frames: list[NDArray[np.uint8]]) -> None:
    for _ in runtime.track(frames):
        pass


def _compare(
    graphs: OnnxGraphs, recorder: _Recorder, files: Mapping[str, Mapping[str, Path]], threads: int, repeats: int
) -> dict[str, float]:
    """The artefact and every other form of both graphs, call by call in turn; `files`: graph → form → its file."""
    metrics: dict[str, float] = {}
    fixed_point = {"base": graphs.base_network, "qim": graphs.qim_network}
    outputs = {"base": BASE_OUTPUTS, "qim": QIM_OUTPUTS}
    for name, forms in files.items():
        candidates = {"fixed_point": fixed_point[name]}
        candidates |= {form: load_onnxruntime(file, outputs[name], threads) for form, file in forms.items()}
        seconds = time_in_turn(candidates, recorder.seen[name], repeats)
        for kind, values in seconds.items():
            metrics |= _percentiles(f"{name}.{kind}", values)
        ratio = metrics[f"{name}.fp32.p50_ms"] / metrics[f"{name}.fixed_point.p50_ms"]
        metrics["speedup" if name == "base" else f"{name}.speedup"] = ratio
    return metrics


def time_in_turn(candidates: Mapping[str, Network], inputs: Sequence[Inputs], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each candidate, one call of each after the other, on the same inputs in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(-_WARM_UP, repeats):
        given = inputs[index % len(inputs)]
        for name, network in candidates.items():
            started = time.perf_counter()
            network(given)
            if index >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _time_closed_loop(runtime: Runtime, frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Stages of the frame step over a whole sequence, the loop closed; its first frames warm up."""
    seconds: dict[str, list[float]] = {}
    for _ in runtime.track(frames, seconds):
        pass
    warm_up = min(_WARM_UP, len(frames) - 1)
    metrics: dict[str, float] = {}
    for stage in STEP_STAGES:
        metrics |= _percentiles(f"step.{stage}", seconds[stage][warm_up:])
    total = seconds["total"][warm_up:]
    return {**metrics, "fps": len(total) / sum(total)}


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    milliseconds: Any = np.array(seconds) * 1e3
    return {
        f"{name}.p50_ms": float(np.median(milliseconds)),
        f"{name}.p90_ms": float(np.percentile(milliseconds, 90)),
    }
