"""The portable files: float as torch computes it, and with every tensor on its grid, for any runtime."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from motrlab.config.scheme import Rule
from motrlab.data.preprocess import input_bytes
from motrlab.deploy.kernels import exact_form, onnxruntime_session, unsigned_weights
from motrlab.deploy.portable import portable_graphs
from motrlab.deploy.runtime import load_artifact, load_networks
from motrlab.model.motr import MotrGraphs
from tests.deploy.conftest import FixedPoint, Image, ranged

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def feeds(step: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    base = dict(zip(("image", "track_query", "track_mask", "track_reference"), step.base_inputs, strict=True))
    qim = dict(zip(("embedding", "query", "mask"), step.qim_inputs, strict=True))
    return tuple({k: v.contiguous().numpy() for k, v in x.items()} for x in (base, qim))  # type: ignore[return-value]


@torch.no_grad()
def outputs(graphs: Any, step: Any) -> list[np.ndarray]:
    logits, boxes, embedding = graphs.base(*step.base_inputs)
    return [logits[-1].numpy(), boxes[-1].numpy(), embedding.numpy(), graphs.qim(*step.qim_inputs).numpy()]


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray], level: str) -> list[np.ndarray]:
    options = {"graph_optimization_level": getattr(ort.GraphOptimizationLevel, level)}
    return onnxruntime_session(exact_form(model), 1, **options).run(None, inputs)  # type: ignore[no-any-return]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["float", "on grids"])
def test_computes_what_torch_computes(kind: str, level: str, fixed_point: FixedPoint) -> None:
    quantised, step = fixed_point.quantised, fixed_point.steps[-1]
    models = portable_graphs(fixed_point.model if kind == "float" else quantised)
    expected = outputs(MotrGraphs(fixed_point.model) if kind == "float" else quantised.graphs, step)
    base, qim = feeds(step)
    found = [*run(models["base"], base, level), *run(models["qim"], qim, level)]
    # On grids, what is between two tensors is float: now and then one is rounded the other way.
    limit = 1e-4 if kind == "float" else 0.15
    assert all(error(one, other) < limit for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_unsigned_weights_compute_it_too(level: str, fixed_point: FixedPoint) -> None:
    """What ONNX Runtime is given where signed ones may saturate (`deploy/kernels.py`)."""
    step = fixed_point.steps[-1]
    models = {
        name: onnx.load_from_string(unsigned_weights(model.SerializeToString()))
        for name, model in portable_graphs(fixed_point.quantised).items()
    }
    constants = [constant for model in models.values() for constant in model.graph.initializer]
    assert onnx.TensorProto.INT8 not in {constant.data_type for constant in constants}
    base, qim = feeds(step)
    found = [*run(models["base"], base, level), *run(models["qim"], qim, level)]
    expected = outputs(fixed_point.quantised.graphs, step)
    assert all(error(one, other) < 0.15 for one, other in zip(found, expected, strict=True))


def test_openvino_takes_the_portable_files(fixed_point: FixedPoint) -> None:
    step = fixed_point.steps[-1]
    base, qim = load_networks(fixed_point.artifact, "onnx", 1, "openvino")
    inputs = feeds(step)
    found, expected = [*base(inputs[0]), *qim(inputs[1])], outputs(fixed_point.quantised.graphs, step)
    assert all(error(one, other) < 0.15 for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_every_tensor_has_its_pair_of_quantisers_with_its_scale(graph: str, fixed_point: FixedPoint) -> None:
    """None is left for a vendor's tool to calibrate without a word: DequantizeLinear directly behind QuantizeLinear."""
    model, quantised = fixed_point.graphs[f"{graph}.onnx"], fixed_point.quantised
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    made = {out: node for node in model.graph.node for out in node.output}
    specs = {s.name: s for s in quantised.specs.values() if s.graph == graph and s.operator != "head"}
    last = {"base": f"decoder.{quantised.config.decoder_layers - 1}.norm4", "qim": "norm3"}[graph]
    assert last in specs  # it has the name of the output
    for name in specs.keys() - {last, "detect.query", "detect.residual"}:  # constants
        pair = made[f"{graph}/{name}"]
        assert pair.op_type == "DequantizeLinear", name
        assert made[pair.input[0]].op_type == "QuantizeLinear", name
        assert pair.input[1:] == made[pair.input[0]].input[1:], name
        scale, zero_point = (arrays[constant] for constant in pair.input[1:])
        assert float(scale) == np.float32(quantised.net.scale(specs[name])), name
        assert int(zero_point) == (0 if specs[name].low == 0 else 128), name


def test_the_form_that_compilers_take(fixed_point: FixedPoint) -> None:
    """Static shapes, constants as initialisers, standard operators of opset 21."""
    for name in ("base", "qim"):
        model = fixed_point.graphs[f"{name}.onnx"]
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
        assert not [n for n in model.graph.node if n.op_type == "Constant"]
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["boxes as logits", "signed integers and seven bits"])
def test_other_networks_and_schemes(name: str, level: str, other: Callable[[str], FixedPoint]) -> None:
    network = other(name)
    step = network.steps[-1]
    expected = outputs(network.quantised.graphs, step)
    base, qim = feeds(step)
    found = [*run(network.graphs["base.onnx"], base, level), *run(network.graphs["qim.onnx"], qim, level)]
    assert all(error(one, wanted) < 0.2 for one, wanted in zip(found, expected, strict=True))
    kinds = {constant.data_type for constant in network.graphs["base.onnx"].graph.initializer}
    assert (onnx.TensorProto.UINT8 in kinds) == name.startswith("boxes")


def test_int16_stands_in_the_portable_file(fixed_point: FixedPoint) -> None:
    """For tools that have it; integer kernels refuse it."""
    model = portable_graphs(ranged(fixed_point, Rule(path="box_heads.*.hidden?", precision="int16")))["base"]
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    (pair,) = [n for n in model.graph.node if "base/box_heads.0.hidden1" in n.output]
    assert arrays[pair.input[2]].dtype == np.int16


def test_what_a_rule_leaves_in_float_is_float_in_the_portable_file(fixed_point: FixedPoint) -> None:
    """The result and the weights of that product: tools that read the file must not take them for int8."""
    quantised = ranged(fixed_point, Rule(path="decoder.0.ffn.expand", precision="float"))
    model = portable_graphs(quantised)["base"]
    (product,) = [n for n in model.graph.node if n.op_type == "Conv" and "decoder.0.ffn.expand/" in n.name]
    initialisers = {i.name for i in model.graph.initializer}
    assert set(product.input[1:]) <= initialisers, "no DequantizeLinear before them"
    readers = [n.op_type for n in model.graph.node if product.output[0] in n.input]
    assert readers == ["Relu"]
    step = fixed_point.steps[-1]
    base, qim = feeds(step)
    found = [*run(model, base, LEVELS[-1]), *run(portable_graphs(quantised)["qim"], qim, LEVELS[-1])]
    assert all(error(one, other) < 0.15 for one, other in zip(found, outputs(quantised.graphs, step), strict=True))


def test_the_benchmark_starts_each_frame_from_our_state(
    fixed_point: FixedPoint, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours from our own state are our tracks; a changed byte is a change."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("portable_vs_integers")
    ours = load_artifact(fixed_point.artifact)
    closed, stepped = (
        [f.rows(n) for n, f in enumerate(found)]
        for found in (ours.track(images), benchmark.one_step(ours, ours, images))
    )
    assert sum(map(len, closed)) > 0
    np.testing.assert_array_equal(np.concatenate(stepped), np.concatenate(closed))
    base = feeds(fixed_point.steps[-1])[0]
    base["image"] = input_bytes(base["image"])
    once, again = (run.graphs.base_network(base) for run in (ours, benchmark.changed(ours, 0)))
    assert any(not np.array_equal(a, b) for a, b in zip(once, again, strict=True))


def test_logits_of_several_classes_come_in_their_order(other: Callable[[str], FixedPoint]) -> None:
    network = other("three classes")
    step, level = network.steps[-1], "ORT_ENABLE_ALL"
    for model, graphs, limit in (
        (network.model, MotrGraphs(network.model), 1e-4),
        (network.quantised, network.quantised.graphs, 0.15),
    ):
        logits = run(portable_graphs(model)["base"], feeds(step)[0], level)[0]
        expected = outputs(graphs, step)[0]
        assert logits.shape == expected.shape == (1, 3, *logits.shape[2:])
        assert all(error(logits[:, k], expected[:, k]) < limit for k in range(3))
        assert error(logits[:, 0], expected[:, 1]) > limit
