"""A layer cut out: the same numbers alone as in the whole graph, with its quantisers, and found by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from motrlab.__main__ import main
from motrlab.deploy.cutting import Cut, cut_layer, find_layer, run_cut, write_cut
from motrlab.deploy.layers import Layer, layers_of_model
from motrlab.deploy.perf import record_inputs
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from tests.deploy.conftest import FixedPoint, Image

GRAPHS = ("base", "qim")


@pytest.fixture(scope="module")
def whole(artifact: Path, images: list[Image]) -> dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]]:
    """Each portable graph with what it is given in the fourth frame of its closed loop."""
    recorded = record_inputs(load_artifact(artifact).on_files(artifact), images, most=4)
    return {name: (onnx.load(artifact / f"{name}.onnx"), dict(recorded[name][-1])) for name in GRAPHS}


@pytest.fixture(scope="module")
def layers(whole: dict[str, tuple[onnx.ModelProto, object]]) -> dict[str, list[Layer]]:
    return {name: layers_of_model(model, name) for name, (model, _) in whole.items()}


def cut(whole: dict, layers: dict, name: str, graph: str = "") -> Cut:  # type: ignore[type-arg]
    found = find_layer(layers, name, graph)
    return cut_layer(*whole[found.graph][:1], found, whole[found.graph][1])


def test_every_layer_alone_gives_what_it_gives_in_the_graph(whole: dict, layers: dict) -> None:  # type: ignore[type-arg]
    """One of each operator, of both graphs."""
    some = {(layer.graph, layer.operator): layer for key in GRAPHS for layer in layers[key]}
    assert len({operator for _, operator in some}) > 20
    for layer in some.values():
        found = cut(whole, layers, layer.name, layer.graph)
        again = run_cut(found)
        assert found.outputs.keys() == again.keys()
        for name, x in found.outputs.items():
            np.testing.assert_array_equal(again[name], x, err_msg=layer.name)
        assert layer.operator in {node.op_type for node in found.model.graph.node}
        assert len(found.model.graph.node) < 30


def test_a_product_comes_with_quantisers_bias_and_activation(whole: dict, layers: dict) -> None:  # type: ignore[type-arg]
    found = cut(whole, layers, "encoder.0.ffn.expand")
    kinds = [node.op_type for node in found.model.graph.node]
    assert kinds.count("Conv") == kinds.count("Relu") == 1
    assert kinds.count("QuantizeLinear") == 2
    assert list(found.outputs) == ["base/encoder.0.ffn.expand"]
    assert any(np.unique(x).size > 10 for x in found.inputs.values())


def test_what_is_moved_behind_its_quantiser_keeps_its_grid(whole: dict, layers: dict) -> None:  # type: ignore[type-arg]
    sample = next(layer for layer in layers["base"] if layer.operator == "GridSample")
    kinds = [node.op_type for node in cut(whole, layers, sample.name).model.graph.node]
    assert kinds.count("QuantizeLinear") == 2


def test_names(layers: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=r"no layer 'encoder\.0\.ffn\.expnd'; similar: encoder\.0\.ffn\.expand"):
        find_layer(layers, "encoder.0.ffn.expnd")
    with pytest.raises(UserError, match=r"layer 'refine': base refine/.* have that name: give one, and --graph"):
        find_layer(layers, "refine")


def test_files(whole: dict, layers: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    found = cut(whole, layers, "branch2", "qim")
    model, values = write_cut(tmp_path / "new", found)
    onnx.checker.check_model(onnx.load(model), full_check=True)
    with np.load(values) as stored:
        assert {name: x.tolist() for name, x in stored.items()} == {
            name: x.tolist() for name, x in {**found.inputs, **found.outputs}.items()
        }


def test_the_verb(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "cut")
    given = ["debug", "--artifact", str(artifact), "--layer", "backbone.stem", "--out", out]
    assert main([*given, "--frame", "2"]) == 0
    told = capsys.readouterr().out
    assert "in frame 2 of the closed loop" in told
    assert "alone it gives the same on ONNX Runtime: True" in told
    for path in told.splitlines()[-2:]:
        assert Path(path).is_file()
    assert main([*given, "--frame", "0"]) == 2
    assert "frame 0: the video has frames 1 to" in capsys.readouterr().err
    assert main([*given, "--float"]) == 2
    assert "--float is of a run" in capsys.readouterr().err


def test_float_graphs_are_cut_too(fixed_point: FixedPoint, images: list[Image]) -> None:
    recorded = record_inputs(load_artifact(fixed_point.artifact).on_files(fixed_point.floats), images, most=2)
    model = onnx.load(fixed_point.floats / "base.onnx")
    layer = find_layer({"base": layers_of_model(model, "base")}, "encoder.0.ffn.expand")
    found = cut_layer(model, layer, recorded["base"][-1])
    assert "QuantizeLinear" not in {node.op_type for node in found.model.graph.node}
    for name, x in run_cut(found).items():
        np.testing.assert_array_equal(x, found.outputs[name])
