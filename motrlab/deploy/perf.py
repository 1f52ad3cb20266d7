"""Latency of the deployed graphs and of each part of the frame step, measured on real frames.

What is compared is measured in one run, some calls of each in turn, because a shared machine drifts by more than the
difference between two graphs. Medians and percentiles are in milliseconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.kernels import Array, Network
from motrlab.deploy.profiling import pinned
from motrlab.deploy.runtime import Runtime, load_artifact, load_networks, named
from motrlab.errors import UserError

STEP_STAGES = ("preprocess", "base", "tracker", "gather", "qim", "state", "total")
HOST_STAGES = ("tracker", "gather", "state")
GRAPHS = ("base", "qim")
MAX_RECORDED = 16  # inputs kept for the comparison of the graphs; mot17's take 14 MB a frame
_WARM_UP = 3  # calls before the clock starts
_TURN = 10  # calls of one form before those of the other: waking its threads belongs to the first only
Inputs = dict[str, Array]
Recorded = dict[str, list[Inputs]]  # graph → its inputs, frame by frame
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Form:
    """Another form of the same network to measure beside the artefact: `load(num_threads)` gives base and QIM.

    `image_bytes`: the base graph takes the image's bytes; otherwise its float32.
    """

    load: Callable[[int], Sequence[Network]]
    image_bytes: bool = False


@dataclass
class Measured:
    """`metrics`: flat, as `measure_latency` says. `seconds`: metric prefix → of every call; of the first thread count
    only. `recorded`: what the artefact's graphs were given.
    """

    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    recorded: Recorded = field(default_factory=dict)


def measure_latency(
    artifact: Path,
    float_graphs: Path | None,
    images: Iterable[Image],
    *,
    num_threads: Sequence[int] = (1, 2),
    repeats: int = 50,
    more: Mapping[str, Form] | None = None,
) -> Measured:
    """Latency of an artefact beside other forms of the same network, pinned to as many processors as it has threads.

    Args:
        artifact: the artefact's folder.
        float_graphs: folder of the fp32 `base.onnx` and `qim.onnx`; None where there are none.
        images: frames of one sequence, BGR `uint8 [H, W, 3]`.
        num_threads: thread counts to measure with.
        repeats: timed calls of each graph for each thread count.
        more: further forms by name, measured with the first thread count only.

    Returns:
        Flat metrics: `GRAPH.FORM.p50_ms`, `.p90_ms`, `.p99_ms` for `base` and `qim` and the forms `fixed_point`, `fp32`
        and `more`; `step.PART.p50_ms`, … of the closed loop, `step.host...` (all but pre-processing and networks), its
        `fps`, `step.fp32_total...` of the loop on fp32; `speedup` (fp32 / fixed point median of the base graph),
        `qim.speedup`, `step.speedup`; `num_frames`, `repeats`, `warm_up`, `pinned_to`. These are of the first thread
        count; those of another number n have `threads_n.` before their names. Raises UserError without images.
    """
    if repeats < 1:
        raise UserError(f"performance: repeats must be at least 1, not {repeats}")
    frames = list(images)
    if not frames:
        raise UserError("performance: no frames to measure on; prepare the data first")
    result = Measured()
    for index, threads in enumerate(num_threads):
        with pinned(threads) as processors:
            seconds, recorded = _time_all(artifact, float_graphs, frames, threads, repeats, more if not index else None)
        stats = {row: percentiles(values) for row, values in seconds.items()}
        found = _ratios({f"{row}.{name}": value for row, told in stats.items() for name, value in told.items()})
        found["fps"] = len(seconds["step.total"]) / sum(seconds["step.total"])
        prefix = f"threads_{threads}." if index else ""
        result.metrics |= {prefix + name: round(value, 4) for name, value in found.items()}
        if not index:
            result.seconds, result.recorded = seconds, recorded
            result.metrics |= {"num_frames": len(frames), "repeats": repeats, "num_threads": threads}
            result.metrics |= {"warm_up": _WARM_UP, "pinned_to": processors}
    return result


def _time_all(
    artifact: Path,
    float_graphs: Path | None,
    frames: Sequence[Image],
    threads: int,
    repeats: int,
    more: Mapping[str, Form] | None,
) -> tuple[dict[str, list[float]], Recorded]:
    """Graphs and closed loops on one number of threads: seconds by name, and what our graphs were given."""
    fixed = load_artifact(artifact, num_threads=threads)
    floating = fixed.on_files(float_graphs, num_threads=threads) if float_graphs else None
    networks = {name: (form, form.load(threads)) for name, form in (more or {}).items()}
    recorded = record_inputs(fixed, frames)
    seconds = _time_graphs(fixed, floating, networks, recorded, frames, repeats)
    return seconds | time_closed_loops(fixed, floating, frames), recorded


def record_inputs(runtime: Runtime, frames: Sequence[Image], most: int = MAX_RECORDED) -> Recorded:
    """What both graphs are given in the closed loop of a tracker, of the first `most` frames."""
    steps = [(named("base", s.base_inputs), named("qim", s.qim_inputs)) for s in runtime.steps(frames[:most])]
    return {graph: [both[i] for both in steps] for i, graph in enumerate(GRAPHS)}


def forms_on_files(artifact: Path, float_graphs: Path | None, static: Path | None = None) -> dict[str, Form]:
    """The other forms that files give: on OpenVINO the artefact's integers, its portable files and fp32; and ONNX
    Runtime's own quantisation, in the folder `static`.
    """

    def form(folder: Path, ending: str, backend: str) -> Form:
        return Form(lambda threads: load_networks(folder, ending, threads, backend), ending == "ort.onnx")

    forms = {
        "openvino_fixed_point": form(artifact, "ort.onnx", "openvino"),
        "openvino_portable": form(artifact, "onnx", "openvino"),
    }
    if float_graphs:
        forms["openvino_fp32"] = form(float_graphs, "onnx", "openvino")
    if static:
        forms["quantize_static"] = form(static, "onnx", "onnxruntime")
    return forms


def _time_graphs(
    fixed: Runtime,
    floating: Runtime | None,
    more: Mapping[str, tuple[Form, Sequence[Network]]],
    recorded: Recorded,
    frames: Sequence[Image],
    repeats: int,
) -> dict[str, list[float]]:
    """All forms of both graphs, in turn, on the inputs of the fixed-point tracker's own loop."""
    as_float = replace(fixed, graphs=replace(fixed.graphs, exact=False)).preprocess
    pairs = zip(recorded["base"], frames, strict=False)
    floats = recorded | {"base": [given | {"image": as_float(image)} for given, image in pairs]}
    seconds: dict[str, list[float]] = {}
    for i, graph in enumerate(GRAPHS):
        candidates: dict[str, tuple[Network, Sequence[Inputs]]] = {"fixed_point": (fixed.networks[i], recorded[graph])}
        if floating is not None:
            candidates["fp32"] = floating.networks[i], floats[graph]
        for name, (form, networks) in more.items():
            candidates[name] = networks[i], (recorded if form.image_bytes else floats)[graph]
        seconds |= {f"{graph}.{name}": values for name, values in time_in_turn(candidates, repeats).items()}
    return seconds


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


def time_closed_loops(fixed: Runtime, floating: Runtime | None, frames: Sequence[Image]) -> dict[str, list[float]]:
    """Parts of the frame step over a whole sequence, both loops closed, some frames of each in turn; some warm up."""
    laps: list[dict[str, list[float]]] = [{}, {}]
    runtimes = [runtime for runtime in (fixed, floating) if runtime is not None]
    loops = [runtime.track(frames, own) for runtime, own in zip(runtimes, laps, strict=False)]
    for _ in range(0, len(frames) + 1, _TURN):
        for loop in loops:
            deque(islice(loop, _TURN), maxlen=0)
    warm_up = min(_WARM_UP, len(frames) - 1)
    parts = {f"step.{name}": values[warm_up:] for name, values in laps[0].items()}
    parts["step.host"] = [sum(row) for row in zip(*(parts[f"step.{name}"] for name in HOST_STAGES), strict=True)]
    return parts | ({"step.fp32_total": laps[1]["total"][warm_up:]} if floating is not None else {})


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """`p50_ms`, `p90_ms`, `p99_ms`."""
    return {f"p{share}_ms": 1e3 * float(np.percentile(seconds, share)) for share in (50, 90, 99)}


def _ratios(metrics: dict[str, float]) -> dict[str, float]:
    """fp32 / fixed point of the medians, where both are there."""
    rows = {"speedup": ("base.fp32", "base.fixed_point"), "qim.speedup": ("qim.fp32", "qim.fixed_point"),
            "step.speedup": ("step.fp32_total", "step.total")}  # fmt: skip
    for ratio, (slow, fast) in rows.items():
        if f"{slow}.p50_ms" in metrics:
            metrics[ratio] = metrics[f"{slow}.p50_ms"] / metrics[f"{fast}.p50_ms"]
    return metrics
