"""What-if is what the prediction would say of a target with other figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from motrlab.deploy.layers import Layer, layers_of_model, read_onnx
from motrlab.deploy.performance import Performance
from motrlab.deploy.predict.frame import predict
from motrlab.deploy.target import Figure, Target, load_target
from motrlab.deploy.whatif import what_if, what_if_data
from tests.deploy.conftest import FixedPoint

HOST_MS = {"before": 0.5, "between": 0.25}


def scaled(target: Target, factors: dict[str, float]) -> Target:
    def times(figure: Figure, name: str) -> Figure:
        return replace(figure, value=figure.value * factors.get(name, 1))

    levels = {
        level: replace(memory, bandwidth=times(memory.bandwidth, level))
        for level, memory in (("on_chip", target.on_chip), ("off_chip", target.off_chip))
    }
    both = {name: times(getattr(target, name), "overhead") for name in ("layer_overhead", "graph_overhead")}
    return replace(target, clock=times(target.clock, "clock"), **levels, **both)


@pytest.fixture(scope="module")
def graphs(fixed_point: FixedPoint) -> dict[str, list[Layer]]:
    return {name: layers_of_model(read_onnx(fixed_point.artifact / f"{name}.onnx"), name) for name in ("base", "qim")}


def predicted(target: Target, graphs: dict[str, list[Layer]], host: float = 1) -> Performance:
    return predict(target, graphs, {part: host * value for part, value in HOST_MS.items()})


@pytest.mark.parametrize("name", ["horizon-j6m", "ethos-u65"])
@pytest.mark.parametrize(
    "factors",
    [{}, {"clock": 2.0}, {"clock": 0.25}, {"off_chip": 3.0}, {"off_chip": 0.1}, {"on_chip": 0.2},
     {"clock": 3.0, "on_chip": 0.5, "off_chip": 0.3}, {"overhead": 0.5}, {"host": 3.0},
     {"clock": 2.0, "overhead": 0.0, "host": 0.0}],
)  # fmt: skip
def test_as_predicted(name: str, factors: dict[str, float], graphs: dict[str, list[Layer]]) -> None:
    target = load_target(name)
    data = what_if_data(predicted(target, graphs).json())
    assert data is not None
    found, expected = what_if(data, **factors), predicted(scaled(target, factors), graphs, factors.get("host", 1))
    assert found["frame"] == pytest.approx(expected.frame["latency_ms"], rel=1e-6)
    assert found["fps"] == pytest.approx(expected.frame["fps"], rel=1e-6)


def test_more_cores_than_work_help_nothing(graphs: dict[str, list[Layer]]) -> None:
    data = what_if_data(predicted(load_target("ethos-u65"), graphs).json())
    assert data is not None
    frames = [what_if(data, cores=cores)["frame"] for cores in (1, 2, 4, 1e9)]
    assert frames == sorted(frames, reverse=True)
    assert frames[0] > 1.05 * frames[1]
    assert frames[3] > sum(HOST_MS.values())


def test_a_described_host_has_none() -> None:
    assert what_if_data({"layers": [], "frame": {"latency_ms": 1.0}}) is None
