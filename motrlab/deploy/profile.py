"""Seconds of every node of a graph, from ONNX Runtime's own profile."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from motrlab.deploy.kernels import Array, onnxruntime_session
from motrlab.deploy.onnx_graph import GraphBuilder

_WARM_UP = 3
_CHAIN = 200
_ROUNDED = 0.5e-6  # the profile cuts to whole microseconds: half of one is lost on average


def node_seconds(
    content: str | bytes, inputs: Mapping[str, Array], *, repeats: int = 30, num_threads: int = 1
) -> dict[str, list[float]]:
    """Node → seconds of its kernel in each of `repeats` calls, after some that warm up."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "profile")
        session = onnxruntime_session(content, num_threads, enable_profiling=True, profile_file_prefix=prefix)
        for _ in range(_WARM_UP + repeats):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = defaultdict[str, list[float]](list)
    for event in events:
        if event["name"].endswith("_kernel_time"):
            found[event["name"].removesuffix("_kernel_time")].append(event["dur"] * 1e-6 + _ROUNDED)
    return {name: seconds[_WARM_UP:] for name, seconds in found.items()}


def call_seconds(
    content: str | bytes, inputs: Mapping[str, Array], *, repeats: int = 30, num_threads: int = 1
) -> list[float]:
    """Of whole calls, without a profile.

    One thread does all of its work in the thread that calls, and its processor time is what counts: what other
    processes take meanwhile does not.
    """
    clock = time.thread_time if num_threads == 1 else time.perf_counter
    session, given, found = onnxruntime_session(content, num_threads), dict(inputs), []
    for _ in range(_WARM_UP + repeats):
        started = clock()
        session.run(None, given)
        found.append(clock() - started)
    return found[_WARM_UP:]


def overheads(num_threads: int = 1) -> tuple[float, float]:
    """Seconds that a profile adds to the time of each node, and that a call of a graph takes beside its nodes.

    Of a long and a short chain of tiny nodes, with a profile and without.
    """
    chains, given = [_chain(number) for number in (_CHAIN, 1)], {"x": np.ones((1, 4), np.float32)}
    how = {"repeats": 300, "num_threads": num_threads}
    long, short = (typical(call_seconds(chain, given, **how)) for chain in chains)
    node = (long - short) / (2 * (_CHAIN - 1))
    profiled = np.mean([typical(seconds) for seconds in node_seconds(chains[0], given, **how).values()])
    return max(0.0, float(profiled) - node), max(0.0, short - 2 * node)


def _chain(number: int) -> bytes:
    """Twice as many tiny nodes, one after the other."""
    graph = GraphBuilder()
    x = graph.input("x", (1, 4))
    for _ in range(number):
        x = graph.op("Abs", graph.op("Neg", x))
    content: bytes = graph.model({"y": (x, (1, 4))}, {}).SerializeToString()
    return content


def typical(seconds: list[float]) -> float:
    """The mean of what took no more than half as long again as the fastest quarter: nothing disturbed it."""
    values = np.array(seconds)
    return float(values[values <= 1.5 * np.percentile(values, 25)].mean())
