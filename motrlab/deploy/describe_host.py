"""A target file of this host: seconds of ONNX Runtime's kernels, from micro-benchmarks.

Every kind of kernel that an artefact uses runs alone (`microbench.py`). What ONNX Runtime's profile says of each node
becomes seconds a call, a multiply-accumulate, a value, … (`predict/host.py`), by non-negative least squares of the
relative errors, of which large ones count less (Huber). A byte from outside of the cache takes at most what it takes in
a plain copy.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from scipy.optimize import lsq_linear

from motrlab.deploy.kernel_layers import layers_of_optimised, optimised_model
from motrlab.deploy.kernels import exact_form
from motrlab.deploy.layers import Layer
from motrlab.deploy.microbench import KINDS, WARMERS, bench_model, random_inputs
from motrlab.deploy.predict.host import amount_of, features_of, kernel_of, unit_of
from motrlab.deploy.predict.memory import memory_split, used_bytes
from motrlab.deploy.profiling import Called, call_overhead, call_seconds, node_seconds, typical
from motrlab.deploy.target import SCHEMA, Target, parse_target
from motrlab.files import write_text
from motrlab.machine import hardware

_SOURCE = "micro-benchmarks"
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")  # of one core: "1024K"
_DEFAULT_CACHE = 1 << 20  # bytes, where the system does not say
_CLOCK = 1e9  # cycles are nanoseconds: a host's own clock changes
_NODES = 16  # of one graph
_TOGETHER = (2, 4, 8, 16)  # graphs that are called in turn
_LEAST = 2e-7  # seconds of a node
_CALLS = 300  # of the graphs that tell what a call costs
_TURNS = 4
_ROUNDS, _USUAL = 5, 0.15  # of the fit; relative error
_RESOLUTION = 0.5e-6  # of a profile, seconds: errors below it say nothing

Measured = tuple[Layer, float]  # and its seconds


def describe_host(path: Path, num_threads: int = 1, *, repeats: int = 80, seed: int = 0, share: float = 1.0) -> Target:
    """Measure this host and write its target file, for `perf --target PATH` and `load_target`.

    Args:
        path: the file, `.json`; its stem becomes the target's name.
        num_threads: threads of ONNX Runtime.
        repeats: timed calls of each micro-benchmark.
        seed: of the shapes.
        share: of the shapes of each kind, at least three, and of the calls that find what a profile costs; less is
            quicker and rougher.
    """
    cache = cache_bytes()
    near, far = _copy_bandwidth(cache / 4), _copy_bandwidth(64 * cache)
    call, graphs = call_overhead(num_threads, max(3, round(_CALLS * share))), micro_graphs(seed, share)
    layers = [layers_of_optimised(optimised_model(content), "bench") for content, _ in graphs]
    measured = measure_kinds(graphs, layers, num_threads, repeats)
    cold = measure_cold(graphs, layers, num_threads, max(5, repeats // 8))
    kernels = fit_kernels(measured, cache, 1 / far)
    values = _file_values(path.stem, measured, cache, (near, far), num_threads) | {
        "layer_overhead": _figure(0.0), "graph_overhead": _figure(call),
        "cold": {f"{size:.0f}": _figure(v) for size, v in cold.items()},
        "kernels": {kind: {name: _figure(v) for name, v in found.items()} for kind, found in kernels.items()},
    }  # fmt: skip
    target = parse_target(values, str(path))
    write_text(path, json.dumps(values, indent=1) + "\n")
    return target


def micro_graphs(seed: int, share: float = 1.0) -> list[Called]:
    """Graphs of nodes of all kinds, mixed as in a network: code that has just run is faster."""
    random = np.random.default_rng(seed)
    cases = [case for case, number in KINDS.values() for _ in range(max(3, round(number * share)))]
    random.shuffle(cases)  # type: ignore[arg-type]
    models = [bench_model(cases[first : first + _NODES], random) for first in range(0, len(cases), _NODES)]
    return [(exact_form(model), random_inputs(model, random)) for model in models]


def measure_kinds(
    graphs: Sequence[Called], layers: Sequence[Sequence[Layer]], num_threads: int, repeats: int
) -> list[Measured]:
    """Every node, with its typical seconds in that of several turns, far apart, in which its graph was fastest: another
    process disturbs all of a graph.
    """
    how = {"repeats": max(1, repeats // _TURNS), "num_threads": num_threads}
    turns = [[node_seconds([graph], **how)[0] for graph in graphs] for _ in range(_TURNS)]
    best = [min(found, key=lambda nodes: sum(nodes.values())) for found in zip(*turns, strict=True)]
    return [
        (layer, max(_LEAST, seconds[layer.name]))
        for nodes, seconds in zip(layers, best, strict=True) for layer in nodes
        if layer.operator not in WARMERS.values()
    ]  # fmt: skip


def measure_cold(
    graphs: Sequence[Called], layers: Sequence[Sequence[Layer]], num_threads: int, repeats: int
) -> dict[float, float]:
    """Bytes of memory that other graphs have used since a graph's last call → seconds for each of its nodes that the
    call then takes longer: code, weights and values are read again from outside of the caches.
    """
    how, found = {"repeats": repeats, "num_threads": num_threads}, dict[float, float]()
    own = [used_bytes(memory_split(nodes)) for nodes in layers]
    for size in (s for s in _TOGETHER if s <= len(graphs)):
        used, later = list[float](), list[float]()
        for first in range(0, len(graphs), size):
            members = range(first, min(first + size, len(graphs)))
            together = call_seconds([graphs[index] for index in members], **how)
            for index, seconds in zip(members, together, strict=True):
                alone = call_seconds([graphs[index]], **how)[0]
                later.append((typical(seconds) - typical(alone)) / len(layers[index]))
                used.append(sum(own[other] for other in members if other != index))
        found[float(np.median(used))] = max(0.0, float(np.median(later)))
    return found


def fit_kernels(measured: list[Measured], cache: float, outside: float = np.inf) -> dict[str, dict[str, float]]:
    """Kind of kernel → feature → seconds; features that explain nothing are left out. `outside`: seconds at most of a
    byte from outside of the cache.
    """
    kinds = defaultdict[str, list[Measured]](list)
    for layer, seconds in measured:
        kinds[kernel_of(layer)].append((layer, seconds))
    return {kind: _fit(rows, cache, outside) for kind, rows in sorted(kinds.items())}


def _fit(rows: list[Measured], cache: float, outside: float) -> dict[str, float]:
    features = [features_of(layer, cache) for layer, _ in rows]
    names, seconds = list(features[0]), np.array([seconds for _, seconds in rows])
    matrix = np.array([[found[name] for name in names] for found in features])
    scale = np.maximum(matrix.max(axis=0), 1e-30)
    relative = 1 / (seconds + _RESOLUTION)
    most = np.array([outside if name == "outside" else np.inf for name in names]) * scale
    found = np.zeros(len(names))
    for _ in range(_ROUNDS):
        rows_of, known = matrix / scale * relative[:, None], seconds * relative
        found = lsq_linear(rows_of, known, (0, most), "bvls", max_iter=100).x
        errors = np.abs(matrix / scale @ found - seconds) / (seconds + _RESOLUTION)
        relative = np.minimum(1, np.sqrt(_USUAL / np.maximum(errors, _USUAL))) / (seconds + _RESOLUTION)
    return {name: float(w) for name, w in zip(names, found / scale, strict=True) if w > 0}


def cache_bytes() -> float:
    """The second-level cache of a core."""
    try:
        return float(_CACHE.read_text(encoding="ascii").strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return float(_DEFAULT_CACHE)


def _file_values(
    name: str, measured: list[Measured], cache: float, bandwidth: tuple[float, float], num_threads: int
) -> dict[str, Any]:
    """What a target file has beside kernels: the best that any micro-benchmark reached is what a unit can do."""
    machine, day = hardware(), time.strftime("%Y-%m-%d")
    best = defaultdict[tuple[str, str], float](float)
    for layer, seconds in measured:
        unit = unit_of(layer)
        key = unit, layer.inputs[0].dtype.removeprefix("u")
        best[key] = max(best[key], amount_of(layer, unit) / seconds / _CLOCK)
    operations: dict[str, dict[str, Any]] = defaultdict(dict)
    for (unit, dtype), value in sorted(best.items()):
        operations[unit][dtype] = _figure(value)
    memory = {"size": _figure(cache), "bandwidth": _figure(bandwidth[0]), "latency": _figure(0.0)}
    return {
        "schema": SCHEMA, "name": name, "title": f"{machine['cpu']}, {num_threads} thread(s) of ONNX Runtime",
        "kind": "host", "toolchain": "", "clock": _figure(_CLOCK), "cores": _figure(1.0), "operations": operations,
        "on_chip": memory, "off_chip": memory | {"size": _figure(_main_memory()), "bandwidth": _figure(bandwidth[1])},
        "operators": {},
        "sources": {_SOURCE: {"title": f"motrlab targets --describe-host, ONNX Runtime {onnxruntime.__version__}",
                              "where": machine["platform"], "read": day}},
        "assumptions": ["cycles are nanoseconds", "one node at a time; on_chip is the second-level cache of a core"],
    }  # fmt: skip


def _figure(value: float) -> dict[str, Any]:
    return {"value": float(f"{value:.6g}"), "source": _SOURCE}


def _copy_bandwidth(size: float) -> float:
    """Bytes per second, read and written, of copies of `size` bytes."""
    source = np.ones(int(size), np.uint8)
    target, seconds = np.empty_like(source), []
    for _ in range(30):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return 2 * len(source) / typical(seconds)


def _main_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
