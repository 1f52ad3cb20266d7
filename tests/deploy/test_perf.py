from __future__ import annotations

import os
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import pytest

from motrlab.deploy import runtime
from motrlab.deploy.perf import forms_on_files, measure_latency, time_in_turn
from motrlab.errors import UserError

SECONDS = {  # of one call after the other on one thread
    "artifact/base.ort.onnx": (2, 2, 2, 2, 3),
    "artifact/qim.ort.onnx": (1,),
    "artifact/base.onnx": (8,),
    "artifact/qim.onnx": (5,),
    "float/base.onnx": (6,),
    "float/qim.onnx": (4,),
}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for a test to move."""
    time = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: time[0])
    return time


@pytest.fixture
def networks_take_their_time(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes in networks alone, by `SECONDS`; two threads are twice as fast."""
    load = runtime.load_network

    def load_timed(path: Path, outputs: Any, num_threads: int, *others: Any, **options: Any) -> runtime.Network:
        network = load(path, outputs, num_threads, *others, **options)
        costs = cycle(SECONDS[f"{path.parent.name}/{path.name}"])

        def run(inputs: Any) -> Any:
            now[0] += next(costs) / num_threads
            return network(inputs)

        return run

    monkeypatch.setattr(runtime, "load_network", load_timed)


@pytest.mark.usefixtures("networks_take_their_time")
def test_every_latency_is_that_of_the_file_it_is_called_after(artifact: Path, fixed_point: Any, images: Any) -> None:
    more = forms_on_files(artifact, None, fixed_point.floats)
    more = {"static": more["quantize_static"], "portable": more["openvino_portable"]}
    measured = measure_latency(artifact, fixed_point.floats, images, num_threads=(1, 2), repeats=20, more=more)
    metrics = measured.metrics
    for prefix, base in (("", 1.0), ("threads_2.", 0.5)):  # the QIM has one thread
        found = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        expected = {
            "base.fixed_point.p50_ms": 2000 * base,
            "base.fixed_point.p90_ms": 3000 * base,
            "base.fp32.p50_ms": 6000 * base,
            "qim.fixed_point.p50_ms": 1000,
            "qim.fp32.p90_ms": 4000,
            "speedup": 3,
            "qim.speedup": 4,
            "step.preprocess.p50_ms": 0,
            "step.base.p50_ms": 2000 * base,
            "step.qim.p50_ms": 1000,
            "step.host.p50_ms": 0,
            "step.total.p50_ms": 2000 * base + 1000,
            "step.fp32_total.p50_ms": 6000 * base + 4000,
            "step.speedup": round((6 * base + 4) / (2 * base + 1), 4),
            "fps": round(7 / ((6 * 2 + 3) * base + 7), 4),  # three of ten frames warm up, one of seven is slow
        }
        assert {name: found[name] for name in expected} == expected
    assert (metrics["num_frames"], metrics["repeats"], metrics["num_threads"]) == (10, 20, 1)
    more_found = {"base.static.p50_ms": 6000, "qim.static.p99_ms": 4000, "base.portable.p50_ms": 8000}
    assert {name: metrics[name] for name in more_found} == more_found
    assert "threads_2.base.static.p50_ms" not in metrics
    assert sorted(measured.seconds["base.fixed_point"]) == [2.0] * 16 + [3.0] * 4
    assert [len(measured.recorded[graph]) for graph in ("base", "qim")] == [10, 10]
    assert metrics["pinned_to"] == str(max(os.sched_getaffinity(0)))


def test_without_float_graphs_there_is_no_ratio(artifact: Path, images: Any) -> None:
    metrics = measure_latency(artifact, None, images[:2], num_threads=(1,), repeats=2).metrics
    assert not [name for name in metrics if "fp32" in name or "speedup" in name]
    assert metrics["base.fixed_point.p99_ms"] >= metrics["base.fixed_point.p50_ms"] > 0


def test_candidates_are_called_in_turn_on_the_same_inputs(now: list[float]) -> None:
    calls: list[tuple[str, int]] = []

    def candidate(name: str, seconds: float) -> Any:
        def run(inputs: Any) -> None:
            calls.append((name, inputs["n"]))
            now[0] += seconds

        return run

    inputs: Any = [{"n": 0}, {"n": 1}]
    both = {name: (candidate(name, seconds), inputs) for name, seconds in (("slow", 3.0), ("fast", 1.0))}
    assert time_in_turn(both, repeats=13) == {"slow": [3.0] * 13, "fast": [1.0] * 13}
    assert [name for name, _ in groupby(name for name, _ in calls)] == ["slow", "fast"] * 2
    assert [n for name, n in calls if name == "slow"] == [n for name, n in calls if name == "fast"]
    assert {n for _, n in calls} == {0, 1}


def test_no_frames_is_a_user_error(artifact: Path, fixed_point: Any) -> None:
    with pytest.raises(UserError, match="no frames"):
        measure_latency(artifact, fixed_point.floats, [])


def test_a_single_frame_is_enough(artifact: Path, fixed_point: Any, images: Any) -> None:
    measured = measure_latency(artifact, fixed_point.floats, images[:1], num_threads=(1,), repeats=2)
    assert measured.metrics["fps"] > 0
