"""No tensor of the float graph is left to a vendor's calibration, and its encodings say what our integers are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from motrlab.deploy.compile import sqnr
from motrlab.deploy.encodings import FloatForm, float_form, opset_19
from motrlab.deploy.kernels import onnxruntime_session
from motrlab.deploy.qdq import qdq_form
from motrlab.deploy.ranges import find_ranges
from motrlab.deploy.runtime import OUTPUTS, load_artifact
from motrlab.deploy.samples import closed_loop
from tests.deploy.conftest import FixedPoint, Image

GRAPHS = pytest.mark.parametrize("graph", ["base", "qim"])


def form_of(fixed_point: FixedPoint, graph: str) -> FloatForm:
    return float_form(fixed_point.graphs[f"{graph}.onnx"])


def assert_complete(form: FloatForm) -> None:
    """Walks the graph: inputs, outputs of nodes, and every float constant that is computed with."""
    graph = form.model.graph
    floats = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    missing = [item.name for item in graph.input if item.name not in form.encodings]
    for node in graph.node:
        assert node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        given = [name for name in node.input if name in floats and node.op_type not in ("Clip", "Resize")]
        missing += [name for name in (*node.output, *given) if name not in form.encodings]
    assert missing == []


@GRAPHS
def test_every_tensor_has_an_encoding(graph: str, fixed_point: FixedPoint) -> None:
    form = form_of(fixed_point, graph)
    assert_complete(form)
    assert {e.dtype for e in form.encodings.values()} == {"int8", "uint8", "int16", "int32"}
    for name, encoding in form.encodings.items():
        assert np.all(encoding.scale > 0), name
        assert not encoding.inner or encoding.dtype == "int16", name


@pytest.mark.parametrize("name", ["boxes as logits", "signed integers and seven bits"])
def test_also_of_other_networks_and_schemes(name: str, other: Callable[[str], FixedPoint]) -> None:
    for graph in OUTPUTS:
        form = form_of(other(name), graph)
        assert_complete(form)
        assert ("uint8" in {e.dtype for e in form.encodings.values()}) == name.startswith("boxes")
        onnx.checker.check_model(qdq_form(form), full_check=True)


@GRAPHS
def test_grids_are_those_of_the_model(graph: str, fixed_point: FixedPoint) -> None:
    form, quantised = form_of(fixed_point, graph), fixed_point.quantised
    compared = 0
    for spec in quantised.specs.values():
        found = form.encodings.get(f"{graph}/{spec.name}")
        if spec.graph == graph and found is not None:
            assert found.scale == np.float32(quantised.net.scale(spec)), spec.name
            assert found.dtype == ("uint8" if spec.unsigned else "int8")
            compared += 1
    assert compared > 10


@GRAPHS
def test_weights_quantised_again_are_the_same_integers(graph: str, fixed_point: FixedPoint) -> None:
    form, source = form_of(fixed_point, graph), fixed_point.graphs[f"{graph}.onnx"].graph
    stored = {numpy_helper.to_array(i).tobytes() for i in source.initializer if i.data_type == TensorProto.INT8}
    arrays = {i.name: numpy_helper.to_array(i) for i in form.model.graph.initializer}
    weights = [node.input[1] for node in form.model.graph.node if node.op_type == "Conv"]
    assert weights
    for name in weights:
        assert form.encodings[name].axis == 0
        assert form.encodings[name].integers(arrays[name]).tobytes() in stored, name


@GRAPHS
def test_no_two_nodes_share_a_float_constant(graph: str, fixed_point: FixedPoint) -> None:
    model = form_of(fixed_point, graph).model
    floats = {i.name for i in model.graph.initializer if i.data_type == TensorProto.FLOAT}
    computing = [node for node in model.graph.node if node.op_type not in ("Clip", "Resize")]
    read = [name for node in computing for name in node.input if name in floats]
    assert len(read) == len(set(read)) > 10


@GRAPHS
def test_float_graph_and_encodings_compute_what_the_artefact_does(
    graph: str, fixed_point: FixedPoint, images: list[Image]
) -> None:
    """With a pair at every tensor, inner ones too: nothing that a grid cuts off was needed."""
    form, runtime = form_of(fixed_point, graph), load_artifact(fixed_point.artifact)
    models = {"pairs": qdq_form(form), "pairs inside": qdq_form(form, inner=True), "opset 19": opset_19(form.model)}
    sessions = {name: onnxruntime_session(model.SerializeToString(), 1) for name, model in models.items()}
    samples = list(closed_loop(runtime, images[:4]))
    for index, output in enumerate(OUTPUTS[graph]):
        expected = np.concatenate([s.outputs[graph][output] for s in samples])
        for name, session in sessions.items():
            found = np.concatenate([session.run(list(OUTPUTS[graph]), s.float_inputs(graph))[index] for s in samples])
            assert sqnr(found, expected) > 15, (name, output)


def test_the_form_with_pairs_is_what_chips_take(fixed_point: FixedPoint) -> None:
    """DequantizeLinear directly behind QuantizeLinear, zero points written out, no constant read twice."""
    for graph in OUTPUTS:
        model = qdq_form(form_of(fixed_point, graph))
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
        made = {out: node for node in model.graph.node for out in node.output}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert len(node.input) == 3, node.name
            if node.op_type == "Conv":
                assert all(made[name].op_type == "DequantizeLinear" for name in node.input), node.name
        for name, found in readers.items():
            if name in made and made[name].op_type == "QuantizeLinear":
                assert [node.op_type for node in found] == ["DequantizeLinear"], name
        integers = [i.name for i in model.graph.initializer if i.data_type in (TensorProto.INT8, TensorProto.INT32)]
        assert {len(readers[name]) for name in integers} == {1}


def test_ranges_are_cut_to_what_can_be_told_apart(fixed_point: FixedPoint) -> None:
    """The mask is -10,000; a softmax cannot tell that from what is out of its reach."""
    form = form_of(fixed_point, "qim")
    ranges = find_ranges(form.model, {n: e.range for n, e in form.encodings.items() if not e.inner})
    (masked,) = [node.output[0] for node in form.model.graph.node if node.op_type == "Mul" and "mask" in node.name]
    assert -200 < ranges[masked][0] < -16
    assert ranges["mask"] == (0, 1)
