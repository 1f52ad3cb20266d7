from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import pytest

from motrlab.deploy.kernel_layers import integer_share
from motrlab.deploy.perf import record_inputs
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.profiling import _overhead, integer_time_share, pinned, profile_graph
from motrlab.deploy.runtime import load_artifact


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def costs(request: pytest.FixtureRequest, artifact: Any, images: Any) -> dict[str, list[LayerCost]]:
    inputs = record_inputs(load_artifact(artifact), images[:3])
    file = {graph: artifact / f"{graph}.ort.onnx" for graph in inputs}
    return {g: profile_graph(file[g], g, inputs[g], 5, backend=request.param, whole_ms=1e9) for g in inputs}


def test_all_work_is_in_the_profile(costs: dict[str, list[LayerCost]], artifact: Any) -> None:
    """Whatever a runtime fuses: the products are those of the file."""
    for graph, found in costs.items():
        share = integer_share(artifact / f"{graph}.ort.onnx")
        samples = sum(c.layer.macs for c in found if "GridSample" in (c.layer.operator, c.more["kernel"].split()[0]))
        assert sum(c.layer.macs for c in found) - samples == share.macs
        assert abs(sum(c.more["share"] for c in found) - 1) < 1e-6
        assert all(c.more["calls"] == 5 and c.latency_ms == c.more["profiled_ms"] for c in found)
        assert 0 <= integer_time_share(found) < 1


def test_every_node_has_a_module_of_ours(costs: dict[str, list[LayerCost]], fixed_point: Any) -> None:
    """But for the few that a runtime makes of several and does not show."""
    modules = {name for name, _ in fixed_point.model.base.named_modules()} | {"values"}  # of all decoder layers in one
    found = [cost.layer for cost in costs["base"]]
    assert {"backbone.stem", "encoder.0.attention", "decoder.0.norm1"} <= {layer.module for layer in found}
    assert all(layer.module in modules for layer in found if layer.operator in ("QLinearConv", "Conv"))
    assert sum(layer.module == "fused" for layer in found) < 0.2 * len(found)
    assert [layer.module for layer in found if "/" in layer.module] == []  # ONNX Runtime adds to names


@pytest.mark.parametrize(
    ("profiled", "whole", "expected"),
    [
        ([4, 3, 2], None, 0),
        ([4, 3, 2], 9, 0),
        ([4, 3, 2], 12, 0),
        ([4, 3, 2], 6, 1),
        ([4, 3, 1], 3, 2),
        ([4, 1, 1], 1, 3),
        ([4, 3, 2], 0, 4),
    ],
)
def test_what_the_profile_adds_is_taken_off(profiled: list[float], whole: float | None, expected: float) -> None:
    found = _overhead(np.array(profiled, float), whole)
    assert found == pytest.approx(expected)
    if expected:
        assert np.maximum(np.array(profiled) - found, 0).sum() == pytest.approx(whole)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_pinned_and_released() -> None:
    before = os.sched_getaffinity(0)
    with contextlib.suppress(KeyError), pinned(1) as told:
        assert os.sched_getaffinity(0) == {int(told)} == {max(before)}
        raise KeyError
    assert os.sched_getaffinity(0) == before
