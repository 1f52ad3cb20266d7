"""Taps of the deployed graphs: matched with the model's quantisers, and equal to them value by value.

The evaluated QAT graph, ONNX Runtime and OpenVINO are three implementations of the same integers: exact sums, one
factor to the next grid, functions in double rounded once. The converted torch graph, which runs on torch's float
kernels, is held against the fake-quantised one in tests/quantization/analysis/test_taps.py, with room for tipped ties.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.onnx_edit import GraphEditor
from motrlab.deploy.runtime import BACKENDS, graph_file, load_artifact
from motrlab.deploy.taps import OUTPUTS, TappedRuntime, load_tapped, map_taps
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import LayerRow, TapPoint, layer_row, measure
from motrlab.quantization.analysis.taps import GRAPHS, run_with_taps, tap_points
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.tracking.sequence import track_frames


def layer_rows(fixed_point: Any, runtime: TappedRuntime, points: list[TapPoint]) -> list[LayerRow]:
    """The model, as it is now, against a runtime on one frame; in place of the float values stand the fake ones."""
    rows = []
    for graph in GRAPHS:
        own = [point for point in points if point.graph == graph]
        inputs = fixed_point.inputs[graph]
        with torch.no_grad():
            module, tensors = getattr(fixed_point.quantised, graph), [torch.from_numpy(x) for x in inputs.values()]
            _, fake = run_with_taps(module, tensors, [point.tensor for point in own])
        fixed = runtime.run(graph, list(inputs.values()))
        for point in own:
            values = fake[point.tensor].numpy()
            rows.append(layer_row(point, measure(point, values, values, fixed[point.tensor])))
    return rows


def disagreements(rows: list[LayerRow]) -> list[str]:
    """What the check of a runtime finds; empty where every value of every tensor is the same."""
    return [
        f"{row.name}: {row.mismatch_share:.4f} differ, by up to {row.largest_step:.1f} steps"
        for row in rows
        if row.mismatch_share > 0
    ]


@contextlib.contextmanager
def broken_scale(quantised: Any, name: str, factor: float) -> Iterator[None]:
    """One activation scale of the model wrong, as long as the block lasts."""
    node = next(n for n in quantised.base.graph.nodes if n.name == name)
    modules = [quantised.base.get_submodule(str(u.target)) for u in node.users if u.op == "call_module"]
    (module,) = [m for m in modules if isinstance(m, FakeQuantize)]
    kept = module.scale.clone()
    module.scale.mul_(factor)
    quantised.mode("evaluate")
    try:
        yield
    finally:
        module.scale.copy_(kept)
        quantised.mode("evaluate")


@pytest.fixture(scope="module")
def points(fixed_point: Any) -> list[TapPoint]:
    return tap_points(fixed_point.quantised)


@pytest.fixture(scope="module")
def runtimes(fixed_point: Any, points: list[TapPoint]) -> dict[str, TappedRuntime]:
    return {backend: TappedRuntime(fixed_point.folder, points, backend=backend) for backend in BACKENDS}


def activation_quantisers(path: Path) -> list[onnx.NodeProto]:
    editor = GraphEditor(onnx.load(path))
    return [n for n in editor.nodes if n.op_type == "QuantizeLinear" and n.input[0] not in editor.constants]


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_quantiser_of_the_files_is_mapped(graph: str, fixed_point: Any, points: list[TapPoint]) -> None:
    own = [point for point in points if point.graph == graph]
    portable, rewritten = fixed_point.folder / f"{graph}.onnx", fixed_point.folder / f"{graph}.ort.onnx"
    taps = map_taps(own, portable, rewritten)
    assert [tap.point for tap in taps] == own
    assert {tap.output for tap in taps} == {node.output[0] for node in activation_quantisers(portable)}
    # The rewrite keeps the names, and puts integer Clips between some of them and their quantiser.
    quantisers = {node.output[0] for node in activation_quantisers(rewritten)}
    assert len(quantisers) == len(taps)
    assert {tap.output for tap in taps} >= {name.removesuffix("_unclipped") for name in quantisers}
    assert {(tap.point.quant_max, tap.dtype.name) for tap in taps} <= {(127, "uint8"), (32767, "int16")}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_taps_leave_the_outputs_as_they_are(graph: str, backend: str, fixed_point: Any, runtimes: Any) -> None:
    """So the graph with taps is the graph that is deployed: nothing is fused otherwise for them."""
    path, inputs = graph_file(fixed_point.folder, graph, backend), fixed_point.inputs[graph]
    _, plain = load_tapped(path, OUTPUTS[graph], [], 1, backend)
    outputs, _ = runtimes[backend].run_with_outputs(graph, list(inputs.values()))
    for one, other in zip(outputs, plain(inputs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_runtimes_agree_with_the_model_tap_by_tap(
    backend: str, fixed_point: Any, runtimes: Any, points: list[TapPoint]
) -> None:
    rows = layer_rows(fixed_point, runtimes[backend], points)
    assert len(rows) == len(points)
    assert disagreements(rows) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_scale_broken_in_the_model_fails_the_check(
    backend: str, factor: float, fixed_point: Any, points: list[TapPoint]
) -> None:
    """Negative control: the mapping is told to take the order for proof, and the values give the scale away."""
    with broken_scale(fixed_point.quantised, "relu_1", factor):
        broken = tap_points(fixed_point.quantised)
        with pytest.raises(UserError, match=r"scale of base relu_1"):
            TappedRuntime(fixed_point.folder, broken)
        runtime = TappedRuntime(fixed_point.folder, broken, backend=backend, check_scales=False)
        found = disagreements(layer_rows(fixed_point, runtime, broken))
    assert any(text.startswith("base relu_1 ") for text in found)
    runtime = TappedRuntime(fixed_point.folder, points, backend=backend)
    assert disagreements(layer_rows(fixed_point, runtime, points)) == []


@pytest.mark.parametrize("file", ["base.onnx", "base.ort.onnx"])
def test_a_scale_broken_in_a_file_is_refused(
    file: str, fixed_point: Any, points: list[TapPoint], tmp_path: Path
) -> None:
    own = [point for point in points if point.graph == "base"]
    paths = {name: fixed_point.folder / name for name in ("base.onnx", "base.ort.onnx")}
    tap = next(t for t in map_taps(own, *paths.values()) if t.point.tensor == "relu_1")
    model = onnx.load(paths[file])
    nodes = activation_quantisers(paths[file])
    scale = next(n.input[1] for n in nodes if n.output[0].removesuffix("_unclipped") == tap.output)
    kept = next(i for i in model.graph.initializer if i.name == scale)
    value = np.nextafter(numpy_helper.to_array(kept), np.float32(1)).astype(np.float32)  # the smallest change there is
    kept.CopyFrom(numpy_helper.from_array(value, scale))
    paths[file] = tmp_path / file
    onnx.save(model, paths[file])
    with pytest.raises(UserError, match=rf"{file}: the scale of base relu_1 is .* in the model .*; convert") as caught:
        map_taps(own, *paths.values())
    assert "\n" not in str(caught.value)
    assert len(map_taps(own, *paths.values(), check_scales=False)) == len(own)


def test_a_file_of_another_model_is_refused(fixed_point: Any, points: list[TapPoint], tmp_path: Path) -> None:
    files = fixed_point.folder / "qim.onnx", fixed_point.folder / "qim.ort.onnx"
    own = [point for point in points if point.graph == "qim"]
    with pytest.raises(
        UserError, match=rf"qim.onnx: {len(own)} quantised activations, but the model has {len(own) - 1}"
    ):
        map_taps(own[1:], *files)
    wide = [TapPoint(p.graph, p.tensor, p.path, p.scale, -32768, 32767) for p in own]
    with pytest.raises(UserError, match=r"grid of qim \w+ goes from -128 to 127, in the model from -32768 to 32767"):
        map_taps(wide, *files)
    with pytest.raises(UserError, match=r"no ONNX file .*gone\.onnx"):
        map_taps(own, tmp_path / "gone.onnx", files[1])
    with pytest.raises(UserError, match=r"not the rewritten form"):
        map_taps(own, files[0], fixed_point.folder / "float" / "qim.onnx")


def save_chain(path: Path, kinds: list[type[np.signedinteger[Any]]]) -> None:
    """x → quantise → dequantise for each of `kinds` in turn, with scale 0.5 / (number + 1)."""
    nodes, constants, value = [], [], "x"
    for number, kind in enumerate(kinds):
        names = [f"scale_{number}", f"zero_{number}"]
        scale, zero = np.float32(0.5 / (number + 1)), kind(0)
        constants += [numpy_helper.from_array(np.asarray(v), n) for v, n in zip((scale, zero), names, strict=True)]
        integers = "quantize_per_tensor" + (f"_{number}" if number else "")
        nodes.append(helper.make_node("QuantizeLinear", [value, *names], [integers]))
        value = f"float_{number}"
        nodes.append(helper.make_node("DequantizeLinear", [integers, *names], [value]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def test_int16_and_int8_taps_give_real_values(tmp_path: Path) -> None:
    """More than ten quantisers, so that order by number is not order by name."""
    kinds = [np.int8, np.int16] * 6
    save_chain(tmp_path / "chain.onnx", kinds)
    points = [
        TapPoint("base", f"t{i}", "", float(np.float32(0.5 / (i + 1))), int(np.iinfo(k).min), int(np.iinfo(k).max))
        for i, k in enumerate(kinds)
    ]
    taps = map_taps(points, tmp_path / "chain.onnx", tmp_path / "chain.onnx")
    assert [tap.output.rpartition("_")[2] for tap in taps[1:]] == [str(i) for i in range(1, 12)]
    names, network = load_tapped(tmp_path / "chain.onnx", (), taps, 1, "onnxruntime")
    assert names == ["x"]
    x = np.array([-100, -3.25, -0.24, 0, 0.26, 40], np.float32)
    expected = x
    for tap, integers in zip(taps, network({"x": x}), strict=True):
        levels = np.clip(np.rint(expected / tap.scale), tap.point.quant_min, tap.point.quant_max)
        expected = (levels * tap.scale).astype(np.float32)
        assert integers.dtype == tap.dtype
        np.testing.assert_array_equal(tap.dequantise(integers), expected)


def test_both_runtimes_give_the_tracks_of_the_model(fixed_point: Any, fixed_point_artifact: Path, images: Any) -> None:
    """In closed loop, where a single tipped tie would come back through the state."""
    runtime = load_artifact(fixed_point_artifact)
    config = fixed_point.config
    with torch.no_grad():
        expected = list(
            track_frames(
                fixed_point.quantised.graphs,
                images,
                lambda i: torch.from_numpy(runtime.preprocess(i)),
                config.model,
                runtime.tracker,
            )
        )
    assert sum(len(boxes.track_id) for boxes in expected) > 20
    for backend in BACKENDS:
        found = list(load_artifact(fixed_point_artifact, backend=backend).track(images))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one.track_id, other.track_id)
            # Boxes are decoded to pixels by torch or NumPy: the last digit is theirs.
            np.testing.assert_allclose(one.cxcywh, other.cxcywh, rtol=1e-5, atol=1e-3)
