"""A described host: kinds of kernels and what they do, the fit, and a prediction of an artefact from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.deploy.describe_host import describe_host, fit_kernels
from motrlab.deploy.kernel_layers import layers_of_kernels, layers_of_optimised, optimised_model
from motrlab.deploy.kernels import exact_form
from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.microbench import KINDS, WARMERS, bench_model
from motrlab.deploy.predict.frame import predict
from motrlab.deploy.predict.host import cost_of_kernels, features_of, kernel_of, seconds_of
from motrlab.deploy.target import Figure, load_target
from motrlab.errors import UserError
from tests.deploy.conftest import FixedPoint

CACHE = 1 << 20


def layer(operator: str, *shapes: tuple[int, ...], out: tuple[int, ...], **attributes: object) -> Layer:
    inputs = tuple(TensorInfo(f"x{i}", shape, "float32") for i, shape in enumerate(shapes))
    return Layer(
        graph="base", name=f"a/{operator}_0", module="a", operator=operator, inputs=inputs, weights=(),
        outputs=(TensorInfo("y", out, "float32"),), attributes=attributes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "form", "spans"),
    [
        (((4, 6, 8), (4, 6, 8)), "same", 1),
        (((4, 6, 8), ()), "scalar", 1),
        (((4, 6, 8), (8,)), "rows", 24),
        (((4, 6, 8), (6, 8)), "rows", 4),
        (((4, 6, 8), (4, 6, 1)), "value and row", 24),
        (((4, 6, 8), (4, 1, 1)), "value and row", 4),
        (((4, 6, 1), (4, 1, 8)), "value and row", 24),
    ],
)
def test_how_two_operands_meet(shapes: tuple[tuple[int, ...], ...], form: str, spans: int) -> None:
    found = layer("Mul", *shapes, out=(4, 6, 8))
    assert kernel_of(found) == f"Mul {form}"
    assert features_of(found, CACHE)["runs"] == spans


def test_a_scalar_beside_a_last_axis_of_one() -> None:
    found = layer("Div", (4, 6, 1), (), out=(4, 6, 1))
    assert (kernel_of(found), features_of(found, CACHE)["runs"]) == ("Div scalar", 24)


@pytest.mark.parametrize(
    ("shape", "perm", "kind"),
    [
        ((4, 6, 3), (1, 0, 2), "blocks"),
        ((4, 6, 2), (1, 0, 2), "words"),
        ((4, 6, 8), (1, 2, 0), "values"),
        ((4, 6, 8), (0, 2, 1), "values"),
        ((4, 6, 8), (2, 1, 0), "scattered"),
        ((4, 2, 6, 1), (2, 0, 3, 1), "scattered"),
    ],
)
def test_how_axes_move(shape: tuple[int, ...], perm: tuple[int, ...], kind: str) -> None:
    found = layer("Transpose", shape, out=tuple(shape[axis] for axis in perm), perm=perm)
    assert kernel_of(found) == f"Transpose float32 {kind}"


def test_runs_of_moves() -> None:
    blocks = layer("Transpose", (4, 6, 8), out=(6, 4, 8), perm=(1, 0, 2))
    assert (kernel_of(blocks), features_of(blocks, CACHE)["runs"]) == ("Transpose float32 blocks", 24)
    values = layer("Transpose", (4, 6, 8), out=(8, 4, 6), perm=(2, 0, 1))
    assert (kernel_of(values), features_of(values, CACHE)["runs"]) == ("Transpose float32 values", 192)
    assert features_of(layer("Split", (4, 6, 8), out=(4, 3, 8), axis=1), CACHE)["runs"] == 4
    assert features_of(layer("ReduceSum", (4, 6, 8), out=(4, 6, 1)), CACHE)["runs"] == 24
    assert features_of(layer("Exp", (1, 1 << 18), out=(1, 1 << 18)), CACHE)["outside"] == 2 * 4 * (1 << 18) - CACHE


def test_the_fit_finds_what_a_kernel_costs() -> None:
    random = np.random.default_rng(0)
    rows = [layer("Exp", (1, int(n)), out=(1, int(n))) for n in random.integers(10, 300_000, 30)]
    seconds = [2e-6 + 3e-10 * x.outputs[0].numel + 5e-11 * features_of(x, CACHE)["outside"] for x in rows]
    found = fit_kernels(list(zip(rows, seconds, strict=True)), CACHE)["Exp float32"]
    assert found["call"] == pytest.approx(2e-6, rel=0.01)
    assert found["values"] == pytest.approx(3e-10, rel=0.01)
    assert found["outside"] == pytest.approx(5e-11, rel=0.01)
    assert fit_kernels(list(zip(rows, seconds, strict=True)), CACHE, 2e-11)["Exp float32"]["outside"] <= 2e-11


def test_micro_benchmarks_cover_what_an_artefact_runs(fixed_point: FixedPoint) -> None:
    """And their nodes survive ONNX Runtime's optimiser."""
    random, covered = np.random.default_rng(0), set[str]()
    for name, (case, _) in KINDS.items():
        found = layers_of_optimised(optimised_model(exact_form(bench_model([case] * 6, random))), "bench")
        kinds = {kernel_of(x) for x in found if x.operator not in WARMERS.values()}
        assert kinds, name
        covered |= kinds
    for graph in ("base", "qim"):
        layers = layers_of_kernels(fixed_point.artifact / f"{graph}.ort.onnx", graph)
        assert {kernel_of(x) for x in layers} <= covered


def test_layers_of_the_kernel_graph_have_modules_and_macs(fixed_point: FixedPoint) -> None:
    layers = layers_of_kernels(fixed_point.artifact / "base.ort.onnx", "base")
    modules = {name for name, _ in fixed_point.model.get_submodule("base").named_modules()}
    convolutions = [x for x in layers if x.operator == "QLinearConv"]
    assert convolutions
    assert all(x.macs and (x.module in modules or x.module == "values") for x in convolutions)
    assert len({x.name for x in layers}) == len(layers)


def test_a_described_host_predicts_an_artefact(tmp_path: Path, fixed_point: FixedPoint) -> None:
    """Roughly measured: no time is compared, but every layer gets one, and the file is a target."""
    describe_host(tmp_path / "here.json", repeats=2, share=0.02)
    target = load_target(str(tmp_path / "here.json"))
    assert (target.name, target.kind) == ("here", "host")
    assert {figure.source for kernel in target.kernels.values() for figure in kernel.values()} <= target.sources.keys()
    files = {name: fixed_point.artifact / f"{name}.ort.onnx" for name in ("base", "qim")}
    found = predict(target, {name: layers_of_kernels(file, name) for name, file in files.items()})
    assert all(cost.latency_ms >= 0 for cost in found.layers)
    assert found.graphs["base"]["latency_ms"] > found.graphs["qim"]["latency_ms"] > 0
    assert {float(size) >= 0 <= figure.value for size, figure in target.cold.items()} == {True}


def test_a_graph_is_slower_after_others_have_used_the_caches() -> None:
    """On a straight line from nothing over the sizes that were measured; longer than that no further."""
    figures = {"4000": Figure(2e-6, "assumed"), "10000": Figure(5e-6, "assumed")}
    known = {"Exp float32": {"values": Figure(1e-9, "assumed")}}
    host = replace(load_target("onnxruntime-cpu"), kernels=known, cold=figures)
    layers = [layer("Exp", (4, 8), out=(4, 8))] * 3
    warm = cost_of_kernels(host, layers, 0.0)
    for between, seconds in ((2000, 1e-6), (7000, 3.5e-6), (1e9, 5e-6)):
        found = cost_of_kernels(host, layers, between)
        assert found.latency_ms - warm.latency_ms == pytest.approx(3 * seconds * 1e3)
        assert [cost.latency_ms for cost in found.layers] == [cost.latency_ms for cost in warm.layers]
    assert cost_of_kernels(replace(host, cold={}), layers, 1e9).latency_ms == warm.latency_ms


def test_a_kernel_that_was_never_measured() -> None:
    known = {"Mul scalar": {"call": Figure(1e-6, "assumed")}}
    assert seconds_of(known, layer("Mul", (4, 8), (4, 8), out=(4, 8)), CACHE) == {"call": 1e-6}
    with pytest.raises(UserError, match="nothing of Exp; describe the host again"):
        seconds_of(known, layer("Exp", (4, 8), out=(4, 8)), CACHE)
