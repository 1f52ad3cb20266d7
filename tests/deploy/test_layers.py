"""The table of layers: complete, typed by the quantisers, with the modules of our source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from motrlab.deploy.calops import count_operations
from motrlab.deploy.layers import layers_of_model, read_onnx
from motrlab.deploy.portable import portable_graphs
from motrlab.errors import UserError
from tests.deploy.conftest import FixedPoint


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_macs_of_every_part_are_those_of_calops(fixed_point: FixedPoint, graph: str) -> None:
    """Apart from what deployment leaves out: class heads but the last, and products of constants (overlap)."""
    ops = count_operations(fixed_point.model, fixed_point.config.model)[graph]
    layers = layers_of_model(read_onnx(fixed_point.artifact / f"{graph}.onnx"), graph)
    compared = [part for part in ops.modules if part.macs and not part.name.startswith(("class_heads", "overlap"))]
    assert len(compared) >= 4
    for part in compared:
        own = [x for x in layers if f"{x.module}.".startswith(f"{part.name}.")]
        assert sum(x.macs for x in own if x.operator != "GridSample") == part.macs, part.name
        assert sum(x.macs for x in own if x.operator == "GridSample") == part.sample_macs, part.name


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_the_same_layers_in_float_and_on_grids(fixed_point: FixedPoint, graph: str) -> None:
    floats = layers_of_model(portable_graphs(fixed_point.model)[graph], graph)
    integers = layers_of_model(read_onnx(fixed_point.artifact / f"{graph}.onnx"), graph)
    sums = [Counter[tuple[str, str]]() for _ in range(2)]  # the first decoder layer has two parts on grids
    for found, layers in zip(sums, (floats, integers), strict=True):
        for layer in layers:
            found[layer.module, layer.operator] += layer.macs
    assert +sums[0] == +sums[1]
    assert {t.dtype for x in floats for t in (*x.inputs, *x.outputs)} == {"float32"}


def test_types_are_those_of_the_quantisers(fixed_point: FixedPoint) -> None:
    layers = layers_of_model(read_onnx(fixed_point.artifact / "base.onnx"), "base")
    for layer in layers:
        if layer.operator == "Conv":
            assert layer.inputs[0].dtype in ("int8", "uint8"), layer.name
            assert layer.outputs[0].dtype == ("uint8" if layer.activation else "int8"), layer.name
            assert [w.dtype for w in layer.weights] == ["int8", "int32"], layer.name
    (sums,) = [x for x in layers if x.module == "encoder.0.norm1" and x.operator == "Add"]
    assert sums.outputs[0].inner
    assert sums.outputs[0].dtype == "int16"
    norm = next(x for x in layers if x.operator == "LayerNormalization")
    assert norm.outputs[0].dtype == "int8"
    assert not norm.outputs[0].inner
    sample = next(x for x in layers if x.operator == "GridSample")
    assert [t.dtype for t in sample.inputs] == ["int8", "int16"]


def test_every_product_names_a_module_of_the_model(fixed_point: FixedPoint) -> None:
    for graph in ("base", "qim"):
        modules = {name for name, _ in fixed_point.model.get_submodule(graph).named_modules()}
        for layer in layers_of_model(read_onnx(fixed_point.artifact / f"{graph}.onnx"), graph):
            assert layer.module, layer.name
            assert not layer.macs or layer.module in modules, layer.name


def test_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "base.onnx").write_bytes(b"\x00\x01nothing")
    with pytest.raises(UserError, match=r"base\.onnx: not an ONNX file"):
        read_onnx(tmp_path / "base.onnx")
