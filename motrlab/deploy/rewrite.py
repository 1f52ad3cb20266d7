"""Exact rewrite of a portable QDQ file into the form whose products ONNX Runtime runs on integer kernels.

Two rules that change no value (tests compare the outputs), and one that settles its last bit:

1. Signed int8 activations become uint8 with the zero point 128 higher: the same grid, and the kernels want uint8.
2. A ReLU or Clip before a quantiser moves behind it as an integer Clip with the quantised bounds, because rounding to
   a grid is monotone. The product then has its quantiser at hand.
3. LayerNorm, softmax, sampling and functions such as exp run in double and are rounded once. In float32 each library
   has its own last bit; one value in some 100,000 then falls to the other side of a rounding tie, attention spreads
   that over all slots, the tracks' state keeps it, and one model gives different tracks (docs/LOG.md).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from motrlab.deploy.onnx_edit import GraphEditor, is_per_tensor
from motrlab.errors import UserError
from motrlab.run import atomic_path

_SHIFT = 128
INEXACT = {"LayerNormalization", "Softmax", "Sigmoid", "Exp", "Log", "Sin", "Cos", "GridSample"}


def rewrite_for_onnxruntime(source: Path, destination: Path, *, exact: bool = True) -> None:
    """Rewrite one file. Raises UserError if `source` is missing or no ONNX model.

    Args:
        source, destination: the portable file, and where the rewritten one goes.
        exact: False leaves out the third rule. Functions then run in float32: a quarter less time on `street`, and
            tracks that differ from QAT's by tenths of a point.
    """
    if not source.is_file():
        raise UserError(f"no ONNX file {source}: export the model first")
    try:
        model = onnx.load(source)
    except Exception as error:
        raise UserError(f"{source}: not an ONNX model ({type(error).__name__}); export it again") from error
    model = settle(rewrite(model)) if exact else rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(destination) as temporary:
        onnx.save(model, temporary)


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rules that change no value, on a loaded model."""
    editor = GraphEditor(model)
    _make_activations_unsigned(editor)
    _move_clips_behind_quantisers(editor)
    return editor.finish()


def settle(model: onnx.ModelProto) -> onnx.ModelProto:
    """The rule that settles last bits, on a loaded model."""
    editor = GraphEditor(model)
    _compute_in_double(editor)
    return editor.finish()


def _make_activations_unsigned(editor: GraphEditor) -> None:
    for node in editor.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in editor.constants:
            continue
        assert is_per_tensor(editor, node), f"{node.name}: activations are quantised per tensor"
        zero_point = editor.constants[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
        if zero_point.dtype != np.int8:
            continue
        shifted = np.array(int(zero_point) + _SHIFT, np.uint8)
        node.input[2] = editor.add_constant(f"{node.output[0]}_zero_point", shifted)


def _move_clips_behind_quantisers(editor: GraphEditor) -> None:
    producers, consumers = editor.producers(), editor.consumers()
    for node in list(editor.nodes):
        clip = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if clip is None or len(consumers[clip.output[0]]) > 1:
            continue
        bounds = _integer_bounds(editor, clip, node)
        if bounds is None:
            continue
        output, unclipped = node.output[0], editor.free_name(f"{node.output[0]}_unclipped")
        node.input[0], node.output[0] = clip.input[0], unclipped
        editor.nodes.append(helper.make_node("Clip", [unclipped, *bounds], [output], f"{clip.name}_clip"))


def _integer_bounds(editor: GraphEditor, clip: onnx.NodeProto, quantiser: onnx.NodeProto) -> list[str] | None:
    """The bounds of a Relu or of a Clip with two constant ones, quantised; None where it is neither."""
    if clip.op_type == "Relu":
        return [quantiser.input[2]]
    if clip.op_type != "Clip" or len(clip.input) != 3 or any(name not in editor.constants for name in clip.input[1:]):
        return None
    scale, zero_point = (editor.constants[name] for name in quantiser.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    names = []
    for side, name in zip(("low", "high"), clip.input[1:], strict=True):
        level = np.rint(editor.constants[name].astype(np.float32) / scale) + zero_point
        value = np.clip(level, limits.min, limits.max).astype(zero_point.dtype).reshape(())
        names.append(editor.add_constant(f"{quantiser.output[0]}_{side}", value))
    return names


def _compute_in_double(editor: GraphEditor) -> None:
    for node in list(editor.nodes):
        if node.op_type not in INEXACT:
            continue
        for index, name in enumerate(node.input):
            if name in editor.constants:
                node.input[index] = editor.add_constant(f"{name}_double", editor.constants[name].astype(np.float64))
                continue
            cast = editor.free_name(f"{name}_double")
            editor.nodes.append(helper.make_node("Cast", [name], [cast], cast, to=onnx.TensorProto.DOUBLE))
            node.input[index] = cast
        output = node.output[0]
        node.output[0] = editor.free_name(f"{output}_double")
        editor.nodes.append(
            helper.make_node("Cast", [node.output[0]], [output], f"{output}_float", to=onnx.TensorProto.FLOAT)
        )
