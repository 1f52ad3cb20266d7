"""OpenVINO's explicit form: its functions are torch's, and it leaves nothing to be rounded otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy import rewrite
from motrlab.deploy.integer import integer_share
from motrlab.deploy.kernels import openvino_options
from motrlab.deploy.openvino_graph import DOMAIN, FUNCTIONS, explicit_form
from motrlab.deploy.openvino_operators import grid_sample, layer_norm, softmax
from motrlab.deploy.runtime import BACKENDS, graph_file, load_network, load_openvino
from motrlab.deploy.taps import OUTPUTS
from motrlab.errors import UserError
from motrlab.quantization import graph_edits

RNG = np.random.default_rng(0)


def test_all_three_settle_the_same_functions() -> None:
    """Torch names some otherwise."""
    torchs = {str(target).split(".")[1].replace("_", "") for target in graph_edits._INEXACT}
    ours = {"gridsampler" if kind == "GridSample" else kind.lower() for kind in rewrite.INEXACT}
    assert {name.replace("layernorm", "layernormalization") for name in torchs} == ours
    assert set(FUNCTIONS) == rewrite.INEXACT | {"Div"}


def test_functions_are_torchs() -> None:
    x, weight, bias = RNG.normal(size=(2, 3, 8)) * 5, RNG.normal(size=8), RNG.normal(size=8)
    expected = F.layer_norm(torch.from_numpy(x), (8,), torch.from_numpy(weight), torch.from_numpy(bias), 1e-3)
    np.testing.assert_allclose(layer_norm(x, weight, bias, 1e-3), expected, atol=1e-13)
    np.testing.assert_allclose(softmax(x * 100), torch.from_numpy(x * 100).softmax(-1), atol=1e-13)


def test_grid_sample_inside_outside_and_on_the_border() -> None:
    values = RNG.normal(size=(2, 3, 4, 6))
    grid = RNG.uniform(-1.6, 1.6, (2, 50, 3, 2))
    grid[:, :4, 0] = [(-1, -1), (1, 1), (-1, 1), (0, 0)]
    found = grid_sample(values, grid)
    expected = F.grid_sample(torch.from_numpy(values), torch.from_numpy(grid), align_corners=False)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_nothing_is_left_to_be_done(graph: str, fixed_point) -> None:
    portable = onnx.load(fixed_point.folder / f"{graph}.onnx")
    products = sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in portable.graph.node)
    model = explicit_form(portable)
    nodes = list(model.graph.node)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert not {n.op_type for n in nodes} & {"QuantizeLinear", "DequantizeLinear"}
    ours = [n for n in nodes if n.domain == DOMAIN]
    assert {n.op_type for n in ours} == {n.op_type for n in nodes if n.op_type in FUNCTIONS}
    found = [n for n in nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(found) == products
    for node in found:  # integers in, and out through Round
        for name in node.input[1:]:
            if name in constants:
                np.testing.assert_array_equal(constants[name], np.rint(constants[name]))
        assert [n.op_type for n in nodes if node.output[0] in n.input] == ["Round"]


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_other_schemes_are_exact_as_well(graph: str, with_more_rules) -> None:
    """QAT graph, ONNX Runtime, OpenVINO: all three the same, but for sums of LayerNorms in int8."""
    assert integer_share(with_more_rules.folder / f"{graph}.ort.onnx").macs_share == 1.0
    inputs = with_more_rules.inputs[graph]
    with torch.no_grad():
        output = getattr(with_more_rules.quantised, graph)(*(torch.from_numpy(x) for x in inputs.values()))
    expected = (output[0][-1], output[1][-1], output[2]) if graph == "base" else (output,)
    for backend in BACKENDS:
        network = load_network(graph_file(with_more_rules.folder, graph, backend), OUTPUTS[graph], 1, backend)
        for one, other in zip(network(inputs), expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_equal_on_many_inputs(graph: str, fixed_point) -> None:
    """Inputs that a frame does not bring as well: large, and on ties of the first grid."""
    networks = [load_network(graph_file(fixed_point.folder, graph, b), OUTPUTS[graph], 1, b) for b in BACKENDS]
    for factor in (0.5, 1.0, 4.0):
        inputs = {
            name: x if "mask" in name else np.round(x * factor * 64).astype(np.float32) / 128
            for name, x in fixed_point.inputs[graph].items()
        }
        for one, other in zip(*(network(inputs) for network in networks), strict=True):
            np.testing.assert_array_equal(one, other)


def scaled_sum(path: Path) -> Path:
    """x / 3 + y, where one rounding gives another result than two."""
    nodes = [helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("Add", ["m", "y"], ["z"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4096]) for n in "xyz"]
    constant = numpy_helper.from_array(np.array([[1 / 3]], np.float32), "c")
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_products_and_sums_are_rounded_one_by_one(tmp_path: Path) -> None:
    """Its snippets contract them; when this fails, `kernels.openvino_options` need not turn them off for that."""
    path = scaled_sum(tmp_path / "model.onnx")
    x, y = (RNG.normal(size=(1, 4096)).astype(np.float32) for _ in range(2))
    inputs = {"x": x, "y": y}
    expected = x * np.float32(1 / 3) + y
    options = {k: v for k, v in openvino_options(1).items() if k != "SNIPPETS_MODE"}
    plain = openvino.Core().compile_model(str(path), "CPU", options)(inputs)["z"]
    assert not np.array_equal(plain, expected)
    np.testing.assert_array_equal(load_openvino(path, ("z",), 1)(inputs)[0], expected)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.onnx").write_text("not a model")
    with pytest.raises(UserError, match=r"base\.onnx: OpenVINO cannot load it \(.*convert the run anew"):
        load_openvino(tmp_path / "base.onnx", ("y",), 1)
