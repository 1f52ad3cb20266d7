"""The rewrite changes no value, and is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.kernels import onnxruntime_options
from motrlab.deploy.rewrite import rewrite, rewrite_for_onnxruntime
from motrlab.errors import UserError


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Without graph optimisations: every node as the standard defines it."""
    options = onnxruntime_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_same_values_node_by_node(graph, fixed_point) -> None:
    inputs = fixed_point.inputs[graph]
    before = run(onnx.load(fixed_point.folder / f"{graph}.onnx"), inputs)
    after = run(rewrite(onnx.load(fixed_point.folder / f"{graph}.onnx")), inputs)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_the_deployed_graph_is_the_fake_quantised_one(graph, fixed_point) -> None:
    """To the bit: integer products on both sides, and nothing left to the kernels' own last bits."""
    inputs = fixed_point.inputs[graph]
    path = str(fixed_point.folder / f"{graph}.ort.onnx")
    found = ort.InferenceSession(path, onnxruntime_options(1), providers=["CPUExecutionProvider"]).run(None, inputs)
    with torch.no_grad():
        output = getattr(fixed_point.quantised, graph)(*(torch.from_numpy(x) for x in inputs.values()))
    expected = (output[0][-1], output[1][-1], output[2]) if graph == "base" else (output,)
    for one, other in zip(found, expected, strict=True):
        # -0.0 and 0.0 count as the same.
        np.testing.assert_array_equal(one, other.numpy())


def test_functions_and_reductions_run_in_double(fixed_point) -> None:
    model = onnx.load(fixed_point.folder / "base.ort.onnx")
    makers = {name: n for n in model.graph.node for name in n.output}
    constants = {i.name: i.data_type for i in model.graph.initializer}
    inexact = [
        n for n in model.graph.node if n.op_type in ("LayerNormalization", "Softmax", "GridSample", "Exp", "Sin")
    ]
    assert {n.op_type for n in inexact} == {"LayerNormalization", "Softmax", "GridSample", "Exp", "Sin"}
    for node in inexact:
        for name in node.input:
            double = constants.get(name) == TensorProto.DOUBLE
            assert double or makers[name].op_type == "Cast", (node.name, name)
    portable = onnx.load(fixed_point.folder / "base.onnx")
    assert "Cast" not in {n.op_type for n in portable.graph.node}  # the portable file is as a chip wants it


def test_functions_stay_in_float32_on_request(fixed_point, tmp_path: Path) -> None:
    """The same graph otherwise, close to the exact one."""
    rewrite_for_onnxruntime(fixed_point.folder / "base.onnx", tmp_path / "fast.onnx", exact=False)
    assert "Cast" not in {n.op_type for n in onnx.load(tmp_path / "fast.onnx").graph.node}
    inputs = fixed_point.inputs["base"]
    exact = run(onnx.load(fixed_point.folder / "base.ort.onnx"), inputs)
    for one, other in zip(run(onnx.load(tmp_path / "fast.onnx"), inputs), exact, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(other) < 0.02


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_integer_kernels_stay_near(graph, fixed_point) -> None:
    """With all optimisations the products are integer; only float sums before a rounding can tip a tie."""
    inputs = fixed_point.inputs[graph]
    path = str(fixed_point.folder / f"{graph}.ort.onnx")
    found = ort.InferenceSession(path, onnxruntime_options(1), providers=["CPUExecutionProvider"]).run(None, inputs)
    expected = run(onnx.load(path), inputs)
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(other) < 0.02


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_activations_are_unsigned_and_no_relu_stands_before_a_quantiser(graph, fixed_point) -> None:
    model = onnx.load(fixed_point.folder / f"{graph}.ort.onnx")
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    makers = {name: n for n in model.graph.node for name in n.output}
    quantisers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert quantisers
    grids = Counter((values[n.input[2]].dtype.name, int(values[n.input[2]])) for n in quantisers)
    assert set(grids) <= {("uint8", 128), ("int16", 0)}
    sampled = sum(n.op_type == "GridSample" for n in model.graph.node)
    assert grids["int16", 0] == sampled  # the sampling grids
    assert not [n for n in quantisers if n.input[0] in makers and makers[n.input[0]].op_type == "Relu"]
    assert Counter(n.op_type for n in model.graph.node)["Clip"] > 0


def tiny(zero_point: int = 3) -> onnx.ModelProto:
    """Relu → quantise → dequantise → reshape, with one value used twice."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["flat"]),
        helper.make_node("Transpose", ["d"], ["turned"], perm=[1, 0]),
        helper.make_node("Add", ["turned", "d"], ["sum"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array(zero_point, np.int8), "z"),
        numpy_helper.from_array(np.array([-1]), "shape"),
    ]
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [4, 4]), ("flat", [16]), ("sum", [4, 4]))
    ]
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("zero_point", [-128, -5, 0, 3, 127])
def test_any_zero_point(zero_point: int) -> None:
    x = np.random.default_rng(0).normal(0, 60, (4, 4)).astype(np.float32)
    before = run(tiny(zero_point), {"x": x})
    rewritten = rewrite(tiny(zero_point))
    onnx.checker.check_model(rewritten, full_check=True)
    for one, other in zip(run(rewritten, {"x": x}), before, strict=True):
        np.testing.assert_array_equal(one, other)


def with_clip(low: float, high: float, zero_point: int) -> onnx.ModelProto:
    """`tiny` with a Clip in place of its Relu."""
    model = tiny(zero_point)
    model.graph.node[0].CopyFrom(helper.make_node("Clip", ["x", "low", "high"], ["r"]))
    for name, value in (("low", low), ("high", high)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model


@pytest.mark.parametrize("zero_point", [-128, 0, 3])
@pytest.mark.parametrize(("low", "high"), [(0, 6), (0, 6.25), (-7.2, 21.3), (0, 1e6)], ids=str)
def test_any_clip(low: float, high: float, zero_point: int) -> None:
    """ReLU6 (0 to 6) among them, bounds on the grid of .5, between its steps and beyond its range."""
    x = np.random.default_rng(0).normal(0, 15, (4, 4)).astype(np.float32)
    before = run(with_clip(low, high, zero_point), {"x": x})
    rewritten = rewrite(with_clip(low, high, zero_point))
    makers = {name: n.op_type for n in rewritten.graph.node for name in n.output}
    assert [n.input[0] for n in rewritten.graph.node if n.op_type == "QuantizeLinear"] == ["x"]
    assert sorted(makers.values()).count("Clip") == 1
    for one, other in zip(run(rewritten, {"x": x}), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ONNX file .*none\.onnx"):
        rewrite_for_onnxruntime(tmp_path / "none.onnx", tmp_path / "out.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match="not an ONNX model"):
        rewrite_for_onnxruntime(tmp_path / "text.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
