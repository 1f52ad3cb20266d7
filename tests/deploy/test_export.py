"""The portable files: static QDQ graphs with int8 weights and int32 biases, which compute what the graphs compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from motrlab.deploy.export import BASE_INPUTS, BASE_OUTPUTS, QIM_INPUTS, QIM_OUTPUTS, converted
from motrlab.deploy.kernels import onnxruntime_options

Arrays = list[NDArray[np.float32]]
INPUTS = {"base": BASE_INPUTS, "qim": QIM_INPUTS}
TOLERANCE = 0.02  # relative error of a whole output
OUTPUTS = {"base": BASE_OUTPUTS, "qim": QIM_OUTPUTS}


def untouched_session(path: str, level: str = "ORT_ENABLE_BASIC") -> ort.InferenceSession:
    options = onnxruntime_options(1)
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_inputs_outputs_and_types(graph, fixed_point) -> None:
    model = onnx.load(fixed_point.folder / f"{graph}.onnx")
    assert [i.name for i in model.graph.input] == list(INPUTS[graph])
    assert [o.name for o in model.graph.output] == list(OUTPUTS[graph])
    for value in (*model.graph.input, *model.graph.output):
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        assert shape[0] == 1
        assert all(size > 0 for size in shape)
    kinds = {numpy_helper.to_array(i).dtype.name for i in model.graph.initializer}
    assert {"int8", "int32"} <= kinds
    assert next(o.version for o in model.opset_import if o.domain == "") == 21


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_weights_are_symmetric_int8_per_channel(graph, fixed_point) -> None:
    model = onnx.load(fixed_point.folder / f"{graph}.onnx")
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    makers = {n.output[0]: n for n in model.graph.node}
    assert products
    for node in products:
        weight = makers[node.input[1]]
        assert weight.op_type == "DequantizeLinear", node.name
        integers, scales = values[weight.input[0]], values[weight.input[1]]
        axis = next(a.i for a in weight.attribute if a.name == "axis")
        assert integers.dtype == np.int8
        assert integers.min() >= -127
        assert scales.shape == (integers.shape[axis],)
        if len(node.input) > 2:
            assert values[makers[node.input[2]].input[0]].dtype == np.int32


def test_no_auxiliary_heads_are_left(fixed_point) -> None:
    model = onnx.load(fixed_point.folder / "base.onnx")
    layers = fixed_point.config.model.decoder_layers
    # Class heads of earlier layers are gone; box heads stay, because they move the references.
    linear = [n for n in model.graph.node if n.op_type == "Gemm"]
    deformable = fixed_point.config.model.encoder_layers + layers
    assert len(linear) == 2 * deformable + layers + 1


def test_converted_graphs_match_the_fake_quantised(fixed_point) -> None:
    """Torch's float kernels tip a tie now and then, which moves an activation by one step."""
    quantised = fixed_point.quantised
    base, qim = converted(quantised)
    inputs = [torch.from_numpy(x) for x in fixed_point.inputs["base"].values()]
    with torch.no_grad():
        expected, found = quantised.base(*inputs), base(*inputs)
        tokens = [torch.from_numpy(x) for x in fixed_point.inputs["qim"].values()]
        expected_query, found_query = quantised.qim(*tokens), qim(*tokens)
    for one, other in ((found[2], expected[2]), (found_query, expected_query)):
        assert float((one - other).norm() / other.norm()) < TOLERANCE


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_file_matches_the_converted_graph(graph, fixed_point) -> None:
    """ONNX Runtime on the untouched file against torch. Sums in another order tip rounding ties now and then."""
    session = untouched_session(str(fixed_point.folder / f"{graph}.onnx"))
    inputs = fixed_point.inputs[graph]
    outputs = session.run(None, inputs)
    module = converted(fixed_point.quantised)[graph == "qim"]
    with torch.no_grad():
        expected = module(*(torch.from_numpy(x) for x in inputs.values()))
    wanted = [expected[0][-1], expected[1][-1], expected[2]] if graph == "base" else [expected]
    for name, one, other in zip(OUTPUTS[graph], outputs, wanted, strict=True):
        error = np.linalg.norm(one - other.numpy()) / np.linalg.norm(other.numpy())
        assert error < TOLERANCE, (name, error)


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_files_load_at_every_optimisation_level(graph, fixed_point) -> None:
    """As anybody would load them; ONNX Runtime makes their activations unsigned by itself."""
    path, inputs = fixed_point.folder / f"{graph}.onnx", fixed_point.inputs[graph]
    expected = untouched_session(str(path), "ORT_DISABLE_ALL").run(None, inputs)
    for level in ("ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
        for one, other in zip(untouched_session(str(path), level).run(None, inputs), expected, strict=True):
            assert np.linalg.norm(one - other) / np.linalg.norm(other) < TOLERANCE, level


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_float_files_match_the_model(graph, fixed_point) -> None:
    path = fixed_point.folder / "float" / f"{graph}.onnx"
    session = ort.InferenceSession(str(path), onnxruntime_options(1), providers=["CPUExecutionProvider"])
    inputs = fixed_point.inputs[graph]
    with torch.no_grad():
        expected = getattr(fixed_point.model, graph)(*(torch.from_numpy(x) for x in inputs.values()))
    wanted = [expected[0][-1], expected[1][-1], expected[2]] if graph == "base" else [expected]
    for one, other in zip(session.run(None, inputs), wanted, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-3, atol=2e-4)


def feed_forward_before_last_norm(model: onnx.ModelProto, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The convolution whose dequantised output is added to the residual that the last LayerNormalization norms."""
    norm = [n for n in model.graph.node if n.op_type == "LayerNormalization"][-1]
    add = makers[makers[norm.input[0]].input[0]]
    assert add.op_type == "Add"
    dequantiser = next(makers[i] for i in add.input if makers[i].op_type == "DequantizeLinear")
    return makers[makers[dequantiser.input[0]].input[0]]


@pytest.mark.parametrize(("of_weight", "factor"), [(True, 4.0), (True, 0.25), (False, 0.25)])
def test_a_broken_scale_is_noticed(of_weight: bool, factor: float, fixed_point, tmp_path) -> None:
    """Negative control: with one scale of the file wrong, the comparisons above fail clearly."""
    model = onnx.load(fixed_point.folder / "base.onnx")
    makers = {n.output[0]: n for n in model.graph.node}
    conv = feed_forward_before_last_norm(model, makers)
    quantiser = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == conv.output[0])
    broken = makers[conv.input[1]].input[1] if of_weight else quantiser.input[1]
    for item in model.graph.initializer:
        if item.name == broken:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * np.float32(factor), broken))
    onnx.save(model, tmp_path / "broken.onnx")
    inputs = fixed_point.inputs["base"]
    good = untouched_session(str(fixed_point.folder / "base.onnx")).run(None, inputs)[2]
    bad = untouched_session(str(tmp_path / "broken.onnx")).run(None, inputs)[2]
    assert np.linalg.norm(bad - good) / np.linalg.norm(good) > 2 * TOLERANCE
