from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.deploy import measuring, pacing
from motrlab.deploy.eager import torch_networks
from motrlab.deploy.measuring import HOSTS, measure_artifact, street_frames
from motrlab.deploy.pacing import peak_memory, rate_limited, throughput
from motrlab.deploy.perf import Form
from motrlab.deploy.runtime import load_artifact, named
from motrlab.errors import UserError
from tests.deploy.conftest import FixedPoint, Image

OF_ARTIFACT = {"fixed_point", "openvino_fixed_point", "openvino_portable"}
FORMS = {  # of a target, as measured here
    "onnxruntime-cpu": OF_ARTIFACT | {"fp32", "torch", "quantize_static", "openvino_fp32"},
    "openvino-cpu": OF_ARTIFACT,
}
SHORT: dict[str, Any] = {"num_threads": (1,), "repeats": 4, "design_fps": 200}


@pytest.fixture(scope="module")
def measured(artifact: Path, fixed_point: FixedPoint, images: list[Image]) -> Callable[[str], Any]:
    """What `measure_artifact` gives for a target, on ONNX Runtime with all forms; measured once."""
    more = {"torch": Form(lambda threads: torch_networks(fixed_point.model, threads))}

    @cache
    def measure(target: str) -> Any:
        floats = (fixed_point.floats, more) if target == "onnxruntime-cpu" else (None, None)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("peak_memory", "throughput"):
                patch.setattr(measuring, name, only_on(HOSTS[target], getattr(measuring, name)))
            return measure_artifact(artifact, floats[0], images, target=target, more=floats[1], **SHORT)

    return measure


def only_on(backend: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, held to the runtime that its last argument names."""

    def held(*arguments: Any) -> Any:
        assert arguments[-1] == backend
        return function(*arguments)

    return held


@pytest.mark.parametrize("target", FORMS)
def test_all_of_it(target: str, measured: Callable[[str], Any]) -> None:
    metrics, found = measured(target)
    told = json.loads(json.dumps(found.json()))
    assert list(told)[:6] == ["schema", "target", "kind", "graphs", "frame", "layers"]
    assert (told["target"], told["kind"], told["threads"]) == (target, "measured", 1)
    assert {name.split(".")[1] for name in metrics if name.startswith("base.") and name.count(".") == 2} == FORMS[
        target
    ]
    form = "fixed_point" if target.startswith("onnx") else "openvino_fixed_point"
    for graph in ("base", "qim"):
        assert told["graphs"][graph]["latency_ms"] == told["distribution"][form][graph]["p50_ms"]
        layers = [layer for layer in told["layers"] if layer["graph"] == graph]
        whole = min(told["graphs"][graph]["latency_ms"], told["graphs"][graph]["profiled_ms"])
        assert sum(layer["latency_ms"] for layer in layers) == pytest.approx(whole, rel=1e-3)
    assert told["layers"][0]["bound"] == "measured"
    assert [row["name"] for row in csv.DictReader(io.StringIO(found.csv()))] == [r["name"] for r in told["layers"]]
    assert told["frame"]["fps"] > 0 < told["frame"]["throughput_fps"]
    for part, stats in told["distribution"]["step"].items():  # of the target's own loop
        name = "latency_ms" if part == "total" else f"{part}_ms"
        assert part == "fp32_total" or told["frame"][name] == stats["p50_ms"], part
    assert sum("memory is computed, not measured" in line for line in told["assumptions"]) == 1
    for graph, memory in told["memory"].items():
        curve, layers = dict(memory["curve"]), [layer["name"] for layer in told["layers"] if layer["graph"] == graph]
        assert set(curve) <= set(range(len(layers)))
        assert 0 < max(curve.values()) <= memory["peak_bytes"]
    assert told["peak_memory_mb"] > told["process_memory"]["imported_mb"] > 10
    rates = rf"one video: {told['frame']['fps']:.1f} .* videos at once: {told['throughput']['fps']:.1f}"
    for line in ("median ms", r"\nthreads: 1, ", rates, r"deadline_misses \d+, miss_share", "integer kernels: base "):
        assert re.search(line, found.table()), line


def test_the_time_line_is_a_frame(measured: Callable[[str], Any]) -> None:
    told = measured("onnxruntime-cpu")[1].json()
    spans = told["timeline"]["spans"]
    assert [span[3] for span in spans if span[3] is not None] == list(range(len(told["layers"])))
    assert {span[0] for span in spans} <= set(told["timeline"]["lanes"])
    assert spans[0][:2] == ["host", 0]
    for before, after in itertools.pairwise(spans):
        assert before[1] <= before[2] == after[1]


def test_eager_networks_are_the_float_model(fixed_point: Any) -> None:
    runtime = load_artifact(fixed_point.artifact).on_files(fixed_point.floats)
    step = fixed_point.steps[-1]
    inputs = [named("base", step.base_inputs), named("qim", step.qim_inputs)]
    for eager, deployed, given in zip(torch_networks(fixed_point.model, 1), runtime.networks, inputs, strict=True):
        arrays = {name: value.contiguous().numpy() for name, value in given.items()}
        for found, expected in zip(eager(arrays), deployed(arrays), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


class _Clock:
    """Time that passes where the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class _Slow:
    """A tracker that takes `costs` seconds, frame by frame."""

    def __init__(self, clock: _Clock, costs: list[float]) -> None:
        self.clock, self.costs = clock, costs

    def track(self, images: Any) -> Any:
        for cost, _ in zip(self.costs, images, strict=False):
            self.clock.now += cost
            yield None


@pytest.mark.parametrize(
    ("costs", "misses", "worst", "jitter"),
    [
        ([0.05] * 10, 0, 50, 0),
        ([0.05] * 4 + [0.17] + [0.05] * 5, 2, 170, np.std([50] * 7 + [170, 120, 70])),  # the next ones wait
        ([0.2] * 10, 10, 1100, np.std(np.arange(200, 1200, 100))),
    ],
    ids=["in time", "one late", "too slow"],
)
def test_rate_limited(
    costs: list[float], misses: int, worst: float, jitter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    monkeypatch.setattr(pacing, "time", clock)
    runtime: Any = _Slow(clock, costs)
    found = rate_limited(runtime, [np.zeros((2, 2, 3), np.uint8)], fps=10, seconds=1)
    assert (found["num_frames"], found["deadline_misses"]) == (10, misses)
    assert found["max_ms"] == pytest.approx(worst)
    assert found["jitter_ms"] == pytest.approx(jitter)


def test_street_stands_in_for_frames(artifact: Path) -> None:
    frames = street_frames(3)
    assert [frame.shape for frame in frames] == [(270, 480, 3)] * 3
    assert throughput(artifact, frames, 2) > 0
    memory = peak_memory(artifact, 1, (64, 64))
    assert memory["imported_mb"] <= memory["loaded_mb"] <= memory["peak_mb"]
    with pytest.raises(UserError, match="unknown backend 'abacus'"):
        throughput(artifact, frames, 1, "abacus")
    with pytest.raises(subprocess.CalledProcessError, match="abacus"):
        peak_memory(artifact, 1, (64, 64), "abacus")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": "horizon-j6m"}, "'horizon-j6m' is not this machine; what can be measured: onnxruntime-cpu"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"design_fps": 0.0}, "must be above 0 and at most 1000, not 0"),
    ],
)
def test_what_cannot_be_measured(wrong: dict[str, Any], message: str, artifact: Path, images: Any) -> None:
    with pytest.raises(UserError, match=message):
        measure_artifact(artifact, None, images, **wrong)


def test_the_verb_measures_an_artefact(
    artifact: Path, images: list[Image], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "street_frames", lambda: images)
    arguments = ["perf", "--artifact", str(artifact), "--repeats", "2"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["target"], told["kind"]) == (1, "onnxruntime-cpu", "measured")
    assert main(["perf", "--artifact", "no/such", "--repeats", "2"]) == 2
    assert capsys.readouterr().err.startswith("motrlab: no/such: no such artefact folder")
