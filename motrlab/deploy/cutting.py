"""One layer of a portable graph as a file of its own, with what goes in and comes out: for a vendor's ticket."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, shape_inference
from onnx.utils import Extractor

from motrlab.deploy.kernels import Array, onnxruntime_session
from motrlab.deploy.layers import MOVES, Layer
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.errors import UserError
from motrlab.files import atomic_path

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Cut:
    """A layer with its quantisers, bias and activation as a model; what it is given in a frame, and what it gives."""

    layer: Layer
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def find_layer(layers: Mapping[str, Sequence[Layer]], name: str, graph: str = "") -> Layer:
    """By its name, or by its module if that has one layer only; `graph`: `base`, `qim` or either.

    Raises UserError that names the candidates.
    """
    there = [layer for key, some in layers.items() if graph in ("", key) for layer in some]
    found = [layer for layer in there if name == layer.name] or [layer for layer in there if name == layer.module]
    if len(found) == 1:
        return found[0]
    if found:
        told = ", ".join(f"{layer.graph} {layer.name}" for layer in found[:10])
        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        raise UserError(f"layer {name!r}: {told}{more} have that name: give one, and --graph where both have it")
    names = {layer.name for layer in there} | {layer.module for layer in there}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    where = f" in {graph}" if graph else ""
    raise UserError(f"no layer {name!r}{where}; similar: {', '.join(near) or 'none'}; `check --json` lists all names")


def cut_layer(model: onnx.ModelProto, layer: Layer, feed: Mapping[str, Array]) -> Cut:
    """`feed`: what the whole graph is given in a frame, by name."""
    inputs = list(dict.fromkeys(_before_quantisers(model, tensor.name) for tensor in layer.inputs))
    outputs = [_behind_quantisers(model, tensor.name) for tensor in layer.outputs]
    part = Extractor(shape_inference.infer_shapes(model, strict_mode=True)).extract_model(inputs, outputs)
    values = {**feed, **_run(_with_outputs(model, [*inputs, *outputs]), feed)}
    given = {name: values[name] for name in inputs}
    return Cut(layer, part, given, {name: values[name] for name in outputs})


def run_cut(cut: Cut) -> dict[str, Array]:
    """What ONNX Runtime makes of the cut's model: the same as in the whole graph."""
    return _run(cut.model, cut.inputs)


def write_cut(folder: Path, cut: Cut) -> tuple[Path, Path]:
    """`NAME.onnx` and `NAME.npz` (arrays by tensor name). Returns both paths."""
    name = f"{cut.layer.graph}_{cut.layer.name}".replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    model, values = folder / f"{name}.onnx", folder / f"{name}.npz"
    save_onnx(cut.model, model)
    with atomic_path(values) as temporary, temporary.open("wb") as file:
        np.savez(file, **{**cut.inputs, **cut.outputs})  # type: ignore[arg-type]
    return model, values


def _before_quantisers(model: onnx.ModelProto, name: str) -> str:
    """The tensor before its pair, with whatever only moves its values between the pair and the layer."""
    producers, at = {x: node for node in model.graph.node for x in node.output}, name
    while (node := producers.get(at)) is not None and node.op_type in (MOVES - {"Concat"}) | set(_QUANTISERS):
        at = node.input[0]
        if node.op_type == "QuantizeLinear":
            return at
    return name


def _behind_quantisers(model: onnx.ModelProto, name: str) -> str:
    """The tensor as the next layers read it: behind its pair of quantisers, if it has one."""
    for node in model.graph.node:  # in order, so a pair is met one after the other
        if node.op_type in _QUANTISERS and node.input[0] == name:
            name = node.output[0]
    return name


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """With these tensors as outputs too, but for inputs and what is an output already."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    ends = {end.name for end in (*whole.graph.input, *whole.graph.output)}
    new = [name for name in dict.fromkeys(names) if name not in ends]
    whole.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in new)
    return whole


def _run(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name, node by node as the file has them."""
    import onnxruntime

    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime_session(model.SerializeToString(), 1, graph_optimization_level=level)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))
