"""The form of a graph in which OpenVINO has no choice, so that it computes what ONNX Runtime computes, to the bit.

Left to itself OpenVINO multiplies by reciprocals where a quantiser divides, adds the zero point before it rounds, folds
scales into weights, contracts products and sums (`kernels.openvino_options` keeps it from that), and, without VNNI,
saturates. Each tips rounding ties, and one tipped tie gives other tracks in the end (docs/LOG.md). Here nothing of that
is left to be done:

- Integers are float32 values that hold integers, less their zero point. A quantiser is a division, Round and Clip.
- A product of quantised operands is a product of their integers; such sums are exact in float32 below 2²⁴, whatever
  their order. (1,032 inputs at their extremes reach that. `mot17` has up to 2,304; only extreme ones would matter.)
  One factor leads from the sum to the grid of the result, as in ONNX Runtime's integer kernels. Round between sum and
  factor changes nothing, and keeps the factor out of the weights.
- Division, and the functions of which every library has a last bit of its own, become operators of domain `motrlab`,
  which `openvino_operators.py` computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from motrlab.deploy.onnx_edit import GraphEditor, attribute, replace_input
from motrlab.deploy.rewrite import INEXACT
from motrlab.deploy.simplify import VIEWS

DOMAIN = "motrlab"
FUNCTIONS = INEXACT | {"Div"}
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def explicit_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """The form described above, of a portable graph (`simplify.simplify`). Inputs and outputs stay as they are."""
    editor = GraphEditor(model)
    _multiply_integers(editor)
    _spell_out_quantisers(editor)
    finished = editor.finish()
    _mark_functions(finished)
    finished.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return finished


def _add(editor: GraphEditor, kind: str, inputs: Sequence[str], output: str = "") -> str:
    output = output or editor.free_name(f"{inputs[0]}_{kind.lower()}")
    editor.nodes.append(helper.make_node(kind, list(inputs), [output], f"{output}_{kind.lower()}"))
    return output


def _constant(editor: GraphEditor, name: str, value: Any) -> str:
    return editor.add_constant(name, np.asarray(value, np.float32))


def _limits(zero_point: NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest integer of a grid, less its zero point."""
    limits = np.iinfo(zero_point.dtype)
    return float(limits.min - int(zero_point)), float(limits.max - int(zero_point))


def _multiply_integers(editor: GraphEditor) -> None:
    producers = editor.producers()
    for node in [n for n in editor.nodes if n.op_type in _PRODUCTS]:
        left, right = (_operand(editor, producers.get(name)) for name in node.input[:2])
        if left is None or right is None:
            continue
        (first, first_scale), (second, second_scale) = left, right
        steps = first_scale * second_scale
        bias = [editor.constants[producers[name].input[0]] for name in node.input[2:]]
        inputs = [first, second, *(_constant(editor, f"{node.name}_bias", b) for b in bias)]
        result = node.output[0]
        accumulator = editor.free_name(f"{result}_accumulator")
        product = onnx.NodeProto()
        product.CopyFrom(node)
        del product.input[:]
        product.input.extend(inputs)
        product.output[0] = accumulator
        editor.nodes.remove(node)
        editor.nodes.append(product)
        rounded = _add(editor, "Round", [accumulator])
        shape = (-1, 1, 1) if node.op_type == "Conv" and steps.ndim else steps.shape
        if not _requantise(editor, result, rounded, steps.reshape(shape)):
            _add(editor, "Mul", [rounded, _constant(editor, f"{result}_steps", steps.reshape(shape))], result)


def _operand(editor: GraphEditor, dequantiser: onnx.NodeProto | None) -> tuple[str, NDArray[np.float32]] | None:
    """Name of an operand's integers as float32, and its scale; None where it is no quantised value."""
    if dequantiser is None or dequantiser.op_type != "DequantizeLinear":
        return None
    integers, scale = dequantiser.input[0], editor.constants[dequantiser.input[1]].astype(np.float32)
    if integers not in editor.constants:
        return integers, scale
    zero_point = editor.constants[dequantiser.input[2]] if len(dequantiser.input) > 2 else np.zeros((), np.int8)
    assert not zero_point.any(), f"{dequantiser.name}: weights are quantised symmetrically"
    return _constant(editor, f"{integers}_float", editor.constants[integers]), scale


def _requantise(editor: GraphEditor, result: str, rounded: str, steps: NDArray[np.float32]) -> bool:
    """Lead the integer sums `rounded` to the grid on which `result` is quantised, be it behind a ReLU or a new shape.

    False where `result` is used as a real value as well, or not quantised at all.
    """
    consumers = editor.consumers()
    chain: list[onnx.NodeProto] = []
    value = result
    while True:
        users = consumers.get(value, [])
        if len(users) != 1 or value in editor.outputs:
            return False
        if users[0].op_type == "QuantizeLinear":
            quantiser = users[0]
            break
        clips = users[0].op_type == "Clip" and all(name in editor.constants for name in users[0].input[1:3])
        if not clips and users[0].op_type not in (*VIEWS, "Relu"):
            return False
        chain.append(users[0])
        value = users[0].output[0]
    scale, zero_point = (editor.constants[name] for name in quantiser.input[1:3])
    low, high = _limits(zero_point)
    for clip in [n for n in chain if n.op_type in ("Relu", "Clip")]:
        bounds = [0.0, np.inf] if clip.op_type == "Relu" else [float(editor.constants[i]) for i in clip.input[1:3]]
        limits = [float(np.rint(np.float32(bound) / np.float32(scale))) for bound in bounds]
        low, high = (float(np.clip(limit, low, high)) for limit in limits)
    factor = _constant(editor, f"{result}_factor", steps / scale.astype(np.float32))
    value = _to_grid(editor, _add(editor, "Mul", [rounded, factor]), low, high)
    for view in chain:
        editor.nodes.remove(view)
        if view.op_type in VIEWS:
            view.input[0] = value
            value = view.output[0] = editor.free_name(f"{view.output[0]}_levels")
            editor.nodes.append(view)
    editor.nodes.remove(quantiser)
    _finish_quantiser(editor, value, quantiser)
    return True


def _spell_out_quantisers(editor: GraphEditor) -> None:
    for node in list(editor.nodes):
        if node.op_type == "QuantizeLinear":
            editor.nodes.remove(node)
            levels = _to_grid(editor, _add(editor, "Div", node.input[:2]), *_limits(editor.constants[node.input[2]]))
            _finish_quantiser(editor, levels, node)
        elif node.op_type == "DequantizeLinear" and node.input[0] not in editor.constants:
            editor.nodes.remove(node)
            _add(editor, "Mul", node.input[:2], node.output[0])


def _to_grid(editor: GraphEditor, steps: str, low: float, high: float) -> str:
    rounded = _add(editor, "Round", [steps])
    return _add(editor, "Clip", [rounded, _constant(editor, "low", low), _constant(editor, "high", high)])


def _finish_quantiser(editor: GraphEditor, levels: str, quantiser: onnx.NodeProto) -> None:
    """Let who used the integers of `quantiser` use `levels`. As outputs of the graph they are integers as before."""
    integers, zero_point = quantiser.output[0], editor.constants[quantiser.input[2]]
    replace_input(editor.nodes, integers, levels)
    if integers in editor.outputs:
        shifted = _add(editor, "Add", [levels, _constant(editor, f"{integers}_shift", zero_point)])
        kind = helper.np_dtype_to_tensor_dtype(zero_point.dtype)
        editor.nodes.append(helper.make_node("Cast", [shifted], [integers], f"{integers}_cast", to=kind))


def _mark_functions(model: onnx.ModelProto) -> None:
    """Move the functions to our domain; of their attributes only an epsilon is not the exporter's constant choice."""
    for node in model.graph.node:
        if node.op_type in FUNCTIONS:
            epsilon = attribute(node, "epsilon", 1e-5)
            assert attribute(node, "axis", -1) == -1, node.name
            assert not attribute(node, "align_corners", 0), node.name
            assert attribute(node, "mode", b"linear") == b"linear", node.name
            assert attribute(node, "padding_mode", b"zeros") == b"zeros", node.name
            del node.attribute[:]
            node.domain = DOMAIN
            node.attribute.append(helper.make_attribute("epsilon", float(epsilon)))
