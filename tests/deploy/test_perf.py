from __future__ import annotations

import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from motrlab.deploy.perf import STEP_STAGES, measure_latency, time_in_turn
from motrlab.errors import UserError


def test_latency_of_graphs_and_stages(artifact: Path, fixed_point: Any, images: Any) -> None:
    metrics = measure_latency(artifact, fixed_point.floats, images, repeats=8)
    for prefix in ("", "threads_2."):
        for name in (
            "base.fixed_point",
            "base.fp32",
            "qim.fixed_point",
            "qim.fp32",
            *(f"step.{s}" for s in (*STEP_STAGES, "host", "fp32_total")),
        ):
            assert 0 < metrics[f"{prefix}{name}.p50_ms"] <= metrics[f"{prefix}{name}.p90_ms"], name
        assert metrics[f"{prefix}fps"] == pytest.approx(1000 / metrics[f"{prefix}step.total.p50_ms"], rel=1.0)
        fixed, fp32 = (metrics[f"{prefix}base.{kind}.p50_ms"] for kind in ("fixed_point", "fp32"))
        assert metrics[f"{prefix}speedup"] == pytest.approx(fp32 / fixed, rel=0.01)
    assert metrics["num_frames"] == len(images)
    parts = sum(metrics[f"step.{stage}.p50_ms"] for stage in STEP_STAGES if stage != "total")
    assert parts < 1.5 * metrics["step.total.p50_ms"]


def test_candidates_are_called_in_turn_on_the_same_inputs() -> None:
    calls: list[tuple[str, int]] = []

    def slow(inputs: Any) -> Any:
        calls.append(("slow", inputs["n"]))
        time.sleep(0.003)

    def fast(inputs: Any) -> Any:
        calls.append(("fast", inputs["n"]))

    inputs: Any = [{"n": 0}, {"n": 1}]
    seconds = time_in_turn({"slow": (slow, inputs), "fast": (fast, inputs)}, repeats=13)
    assert {name: len(values) for name, values in seconds.items()} == {"slow": 13, "fast": 13}
    assert min(seconds["slow"]) >= 0.003 > max(seconds["fast"])
    assert [name for name, _ in groupby(name for name, _ in calls)] == ["slow", "fast"] * 2
    assert [n for name, n in calls if name == "slow"] == [n for name, n in calls if name == "fast"]
    assert {n for _, n in calls} == {0, 1}


def test_no_frames_is_a_user_error(artifact: Path, fixed_point: Any) -> None:
    with pytest.raises(UserError, match="no frames"):
        measure_latency(artifact, fixed_point.floats, [])


def test_a_single_frame_is_enough(artifact: Path, fixed_point: Any, images: Any) -> None:
    metrics = measure_latency(artifact, fixed_point.floats, images[:1], num_threads=(1,), repeats=2)
    assert metrics["fps"] > 0
