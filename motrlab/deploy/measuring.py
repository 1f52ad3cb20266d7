"""`perf` on this machine: an artefact measured on one of the host targets, as a `Performance`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.config import street
from motrlab.data.street import street_names, street_scene
from motrlab.data.street_render import Renderer
from motrlab.deploy.artifact import read_tracker_description
from motrlab.deploy.executed import ASSUMPTION, executed_memory
from motrlab.deploy.kernel_layers import INTEGER_OPERATORS
from motrlab.deploy.layers import MOVES
from motrlab.deploy.pacing import peak_memory, rate_limited, throughput
from motrlab.deploy.perf import (
    GRAPHS,
    HOST_STAGES,
    STEP_STAGES,
    Form,
    Image,
    Measured,
    forms_on_files,
    measure_latency,
    percentiles,
    record_inputs,
    time_closed_loops,
)
from motrlab.deploy.performance import LayerCost, Performance
from motrlab.deploy.profiling import integer_time_share, pinned, profile_graph
from motrlab.deploy.runtime import load_artifact
from motrlab.deploy.static_quantisation import quantize_static_graphs
from motrlab.errors import UserError
from motrlab.machine import hardware, num_cpus

HOSTS = {"onnxruntime-cpu": "onnxruntime", "openvino-cpu": "openvino"}  # target → backend
_FORM = {"onnxruntime": "fixed_point", "openvino": "openvino_fixed_point"}
_LANES = ("matrix", "depthwise", "vector", "table", "move", "host")
_TABLES = {"Gather", "GridSample", "GatherElements"}


def measure_artifact(
    artifact: Path,
    float_graphs: Path | None,
    frames: Sequence[Image],
    *,
    target: str = "onnxruntime-cpu",
    num_threads: Sequence[int] = (1, 2),
    repeats: int = 50,
    design_fps: float = 30.0,
    more: Mapping[str, Form] | None = None,
) -> tuple[dict[str, Any], Performance]:
    """Everything that `perf` measures: flat metrics (`measure_latency` and more), and the same as a `Performance`.

    `more`: forms beside those that the files give. Raises UserError for a target that is not this machine.
    """
    _check(target, repeats, design_fps)
    backend, threads = HOSTS[target], num_threads[0]
    with tempfile.TemporaryDirectory() as folder:
        static = None
        if float_graphs:
            floating = load_artifact(artifact).on_files(float_graphs)
            static = quantize_static_graphs(float_graphs, record_inputs(floating, frames, most=8), Path(folder))
        forms = {**forms_on_files(artifact, float_graphs, static), **(more or {})}
        found = measure_latency(artifact, float_graphs, frames, num_threads=num_threads, repeats=repeats, more=forms)
    with pinned(threads):
        runtime = load_artifact(artifact, num_threads=threads, backend=backend)
        step = found.seconds if backend == "onnxruntime" else time_closed_loops(runtime, None, frames)
        bits = int(read_tracker_description(artifact)["weight_bits"])
        layers = {
            graph: profile_graph(
                artifact / f"{graph}.ort.onnx", graph, found.recorded[graph], max(4, repeats // 2),
                num_threads=threads if graph == "base" else 1, backend=backend, weight_bits=bits,
                whole_ms=found.metrics[f"{graph}.{_FORM[backend]}.p50_ms"],
            )
            for graph in GRAPHS
        }  # fmt: skip
        paced = rate_limited(runtime, frames, design_fps, min(3.0, repeats / 10))
    use: dict[str, Mapping[str, Any]] = {
        "peak": peak_memory(artifact, threads, frames[0].shape[:2], backend),
        "throughput": {"streams": num_cpus(), "fps": throughput(artifact, frames, num_cpus(), backend)},
        "rate_limited": paced,
        "memory": {g: executed_memory(artifact / f"{g}.ort.onnx", g, c, backend) for g, c in layers.items()},
    }
    return found.metrics | _flat(layers, use), _performance(target, found, step, layers, use)


def _check(target: str, repeats: int, design_fps: float) -> None:
    if target not in HOSTS:
        raise UserError(f"target {target!r} is not this machine; what can be measured: {', '.join(HOSTS)}")
    if repeats < 1:
        raise UserError(f"performance: repeats must be at least 1, not {repeats}")
    if not 0 < design_fps <= 1000:
        raise UserError(f"performance: frames a second must be above 0 and at most 1000, not {design_fps:g}")


def _flat(layers: Mapping[str, Sequence[LayerCost]], use: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    metrics = {f"{graph}.integer_time_share": integer_time_share(costs) for graph, costs in layers.items()}
    metrics |= {f"rate_limited.{name}": value for name, value in use["rate_limited"].items()}
    metrics |= {"peak_memory_mb": use["peak"]["peak_mb"], "imported_memory_mb": use["peak"]["imported_mb"]}
    metrics |= {"throughput_fps": use["throughput"]["fps"], "throughput_streams": use["throughput"]["streams"]}
    return {name: round(value, 4) for name, value in metrics.items()}


def _performance(
    target: str,
    found: Measured,
    step: Mapping[str, Sequence[float]],
    layers: Mapping[str, Sequence[LayerCost]],
    use: Mapping[str, Mapping[str, Any]],
) -> Performance:
    form = _FORM[HOSTS[target]]
    graphs = {}
    for graph, costs in layers.items():
        told = _distribution(found.seconds[f"{graph}.{form}"])
        graphs[graph] = {
            "latency_ms": told["p50_ms"], **told, "profiled_ms": sum(c.more["profiled_ms"] for c in costs),
            "integer_time_share": integer_time_share(costs), "macs": sum(c.layer.macs for c in costs),
        }  # fmt: skip
    parts = {f"{part}_ms": float(np.median(step[f"step.{part}"])) * 1e3 for part in (*STEP_STAGES[:-1], "host")}
    total = step["step.total"]
    frame = {"latency_ms": float(np.median(total)) * 1e3, "fps": len(total) / sum(total), **parts}
    frame["throughput_fps"] = use["throughput"]["fps"]
    distribution: dict[str, dict[str, Any]] = {}
    for name, values in {**found.seconds, **step}.items():
        head, _, part = name.partition(".")
        distribution.setdefault(part if head in GRAPHS else head, {})[head if head in GRAPHS else part] = _distribution(
            values
        )
    ordered = [*layers["base"], *layers["qim"]]
    sections = {
        "distribution": distribution,
        "rate_limited": use["rate_limited"],
        "throughput": use["throughput"],
        "threads": found.metrics["num_threads"],
        "pinned_to": found.metrics["pinned_to"],
        "warm_up": found.metrics["warm_up"],
        "peak_memory_mb": use["peak"]["peak_mb"],
        "process_memory": use["peak"],
        "memory": use["memory"],
        "timeline": _timeline(layers, parts),
        "hardware": hardware(),
        "assumptions": [
            "measured on this machine, all forms in turn in one run",
            "layers are from the runtime's own profile, which makes every node slower (profiled_ms): the same time is "
            "subtracted from each, so that the sum is the graph's time without profiling",
            "the time line puts the layers of the profile one behind the other, as they run on one thread",
            ASSUMPTION,
        ],
    }
    return Performance(target, "measured", graphs, frame, ordered, sections)


def _distribution(seconds: Sequence[float]) -> dict[str, Any]:
    values = np.array(seconds) * 1e3
    more = {"min_ms": float(values.min()), "mean_ms": float(values.mean()), "std_ms": float(values.std())}
    return {**percentiles(seconds), **more, "repeats": len(values)}


def _timeline(layers: Mapping[str, Sequence[LayerCost]], parts: Mapping[str, float]) -> dict[str, Any]:
    """Pre-processing, base graph, tracker and gathering, QIM, next state: spans of one frame."""
    spans: list[list[Any]] = []
    now, index = 0.0, 0

    def add(lane: str, length: float, layer: int | None = None) -> None:
        nonlocal now
        spans.append([lane, round(now, 6), round(now + length, 6), layer])
        now += length

    before = {"base": ("preprocess",), "qim": HOST_STAGES[:2]}
    for graph, costs in layers.items():
        for part in before[graph]:
            add("host", parts[f"{part}_ms"])
        for cost in costs:
            add(_lane(cost), cost.latency_ms, index)
            index += 1
    add("host", parts["state_ms"])
    return {"lanes": list(_LANES), "spans": spans}


def _lane(cost: LayerCost) -> str:
    """The unit that a chip would do this on."""
    operator = cost.layer.operator
    if cost.layer.macs and operator != "GridSample":
        weights = cost.layer.weights
        grouped = operator in {"QLinearConv", "Conv"} and any(len(w.shape) == 4 and w.shape[1] == 1 for w in weights)
        return "depthwise" if grouped else "matrix"
    if operator in INTEGER_OPERATORS:
        return "matrix"
    return "table" if operator in _TABLES else "move" if operator in MOVES else "vector"


def street_frames(number: int = 40) -> list[Image]:
    """Where there is no run with frames: the beginning of an embedded video."""
    config = street().street
    renderer = Renderer(street_scene(street_names(config)[0], config))
    return [renderer.render(index)[0] for index in range(number)]
