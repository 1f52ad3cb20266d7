"""Seconds of every node of a graph, from ONNX Runtime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from motrlab.deploy.kernels import Array, onnxruntime_session

_WARM_UP = 3
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


def typical(seconds: list[float]) -> float:
    """The mean of the faster half: what a node takes where nothing disturbs it."""
    ordered = np.sort(seconds)
    return float(ordered[: (len(ordered) + 1) // 2].mean())
