"""Taps of the deployed graphs: the model's own integers, value by value, on both runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from motrlab.data.preprocess import input_bytes
from motrlab.deploy.kernels import BACKENDS, load_network
from motrlab.deploy.runtime import OUTPUTS, named
from motrlab.deploy.taps import TappedRuntime
from motrlab.errors import UserError
from motrlab.quantization.analysis.comparison import compare_taps
from motrlab.quantization.analysis.layers import Arrays
from motrlab.quantization.analysis.taps import recorded
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import to_numpy
from tests.deploy.conftest import FixedPoint, noise


@pytest.fixture(scope="module", params=["default", "signed integers and seven bits", "boxes as logits"])
def converted(
    request: pytest.FixtureRequest, fixed_point: FixedPoint, other: Callable[[str], FixedPoint]
) -> FixedPoint:
    return fixed_point if request.param == "default" else other(request.param)


def inputs_of(converted: FixedPoint) -> dict[str, Sequence[torch.Tensor]]:
    """Those of both graphs in a frame with five tracks."""
    step = converted.steps[-1]
    frame, query, mask, reference = step.base_inputs
    mask = torch.ones_like(mask) * (torch.arange(mask.numel()) < 5)
    return {"base": (frame, query, mask, reference), "qim": (*step.qim_inputs[:2], mask)}


@pytest.fixture(scope="module", params=BACKENDS)
def tapped(request: pytest.FixtureRequest, converted: FixedPoint) -> TappedRuntime:
    return TappedRuntime(converted.artifact, converted.quantised, backend=request.param)


@torch.no_grad()
def of_model(converted: FixedPoint, graph: str) -> Arrays:
    return recorded(converted.quantised, graph, inputs_of(converted)[graph])


@pytest.mark.parametrize("graph", OUTPUTS)
def test_every_value_of_every_tensor_is_the_models(tapped: TappedRuntime, converted: FixedPoint, graph: str) -> None:
    """Empty slots too."""
    expected = of_model(converted, graph)
    for constant in ("detect.query", "detect.residual"):
        expected.pop(constant, None)
    found = tapped.run(graph, [to_numpy(x) for x in inputs_of(converted)[graph]])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].reshape(values.shape), values, err_msg=name)
    assert len({value.tobytes() for value in found.values()}) == len(found), "no two tensors are the same"


def test_taps_leave_the_outputs_as_they_are(tapped: TappedRuntime, converted: FixedPoint) -> None:
    """So the graph with taps is the graph that is deployed: nothing is fused otherwise for them."""
    for graph, outputs in OUTPUTS.items():
        inputs = [to_numpy(x) for x in inputs_of(converted)[graph]]
        path = converted.artifact / f"{graph}.ort.onnx"
        own = named(graph, [input_bytes(inputs[0]), *inputs[1:]] if graph == "base" else inputs)
        assert own.keys() == {item.name for item in onnx.load(path).graph.input}
        plain = load_network(path, outputs, 1, weight_bits=converted.config.scheme.weight_bits)(own)
        for one, other in zip(plain, tapped.networks[graph](own)[: len(outputs)], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_columns_that_prove_it(tapped: TappedRuntime, converted: FixedPoint) -> None:
    rows = compare_taps(converted.quantised, tapped, [noise(converted.config, 3, 5)], converted.config)
    assert {(row.largest_step, row.mismatch_share) for row in rows} == {(0, 0.0)}
    assert {row.graph for row in rows} == {"base", "qim"}
    assert np.mean([row.fixed_sqnr_db < 60 for row in rows]) > 0.9, "float is something else"


@pytest.fixture
def rescaled(converted: FixedPoint) -> Iterator[QuantizedMotr]:
    """The model, for the test to break a scale of; it is repaired afterwards."""
    kept = converted.quantised.ranges.scale.clone()
    yield converted.quantised
    converted.quantised.ranges.scale.copy_(kept)
    converted.quantised.mode("evaluate")


def test_a_product_with_another_scale_is_refused(rescaled: QuantizedMotr, converted: FixedPoint) -> None:
    group = rescaled.specs["base", "encoder.0.ffn.expand"].group
    rescaled.ranges.scale[group] = rescaled.ranges.scale[group].nextafter(torch.tensor(1.0))  # the least there is
    rescaled.mode("evaluate")
    with pytest.raises(
        UserError, match=r"base\.ort\.onnx: the scale of base/encoder\.0\.ffn\.expand is .* in the model"
    ):
        TappedRuntime(converted.artifact, rescaled)


def test_a_function_with_another_scale_shows(rescaled: QuantizedMotr, converted: FixedPoint) -> None:
    """Negative control: the files do not hold this scale as it is, the values give it away."""
    name = "decoder.0.self_attention.mixed"
    rescaled.ranges.scale[rescaled.specs["base", name].group] *= 0.8
    rescaled.mode("evaluate")
    tapped = TappedRuntime(converted.artifact, rescaled)
    rows = compare_taps(rescaled, tapped, [noise(converted.config, 2, 5)], converted.config)
    differing = [row.tensor for row in rows if row.mismatch_share > 0]
    assert differing[0] == name
    assert len(differing) > 10


def test_files_of_another_model_are_refused(converted: FixedPoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no ONNX file .*base\.ort\.onnx: convert"):
        TappedRuntime(tmp_path, converted.quantised)
    model = onnx.load(converted.artifact / "base.ort.onnx")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("decoder.1", "decoder.7") for name in names]
    onnx.save(model, tmp_path / "base.ort.onnx")
    with pytest.raises(
        UserError, match=r"'base/decoder\.7\S+' is not a tensor of the model: the file is of another one"
    ):
        TappedRuntime(tmp_path, converted.quantised)
