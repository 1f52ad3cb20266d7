"""Exact clean-up of an exported graph: what the exporter leaves in a form that runtimes handle badly.

Biases become the int32 constants that integer kernels add to their accumulators; their values stay the same because
conversion has put them on that grid. A DequantizeLinear moves behind operators that only rearrange values, so that it
stands directly before its product; ONNX Runtime 1.31 would move it itself, to types that it then refuses. Products
that share weights get a copy each: where int8 weights would saturate (`kernels.py`), ONNX Runtime makes them uint8
under a name made of theirs, and refuses the file at the second product that needs that name.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from motrlab.deploy.onnx_edit import GraphEditor, attribute, replace_input

VIEWS = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Flatten"}  # their first input is only rearranged


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """The clean-up of the module docstring; it changes no value."""
    editor = GraphEditor(model)
    _fold_weight_transposes(editor)
    _fold_zero_products(editor)
    _fuse_matmul_bias(editor)
    _store_integer_biases(editor)
    while _move_dequantisers_behind_views(editor):
        pass
    _copy_shared_weights(editor)
    return editor.finish()


def _fuse_matmul_bias(editor: GraphEditor) -> None:
    """MatMul of `[1, N, C]` with an int8 weight, and its bias: Gemm on rows, whose bias can join the accumulator."""
    producers, consumers = editor.producers(), editor.consumers()
    for node in list(editor.nodes):
        users = consumers.get(node.output[0], [])
        if node.op_type != "MatMul" or len(users) != 1 or users[0].op_type != "Add":
            continue
        add = users[0]
        bias = next((name for name in add.input if name in editor.constants), None)
        weight = producers.get(node.input[1])
        if bias is None or weight is None or weight.input[0] not in editor.constants:
            continue
        if dequantiser(producers, node.input[0]) is None or weight.op_type != "DequantizeLinear":
            continue
        columns, outputs = editor.constants[weight.input[0]].shape
        rows, product = editor.free_name(f"{node.output[0]}_rows"), editor.free_name(f"{node.output[0]}_product")
        row_shape = editor.add_constant("row_shape", np.array([-1, columns], np.int64))
        token_shape = editor.add_constant("token_shape", np.array([1, -1, outputs], np.int64))
        editor.nodes.extend(
            (
                helper.make_node("Reshape", [node.input[0], row_shape], [rows], f"{node.name}_rows"),
                helper.make_node("Gemm", [rows, node.input[1], bias], [product], node.name),
                helper.make_node("Reshape", [product, token_shape], list(add.output), f"{node.name}_tokens"),
            )
        )
        editor.nodes.remove(node)
        editor.nodes.remove(add)


def _fold_weight_transposes(editor: GraphEditor) -> None:
    """DequantizeLinear(weight) → Transpose becomes DequantizeLinear(transposed weight)."""
    producers = editor.producers()
    for node in list(editor.nodes):
        source = producers.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in editor.constants:
            continue
        order = attribute(node, "perm")
        weight = np.ascontiguousarray(editor.constants[source.input[0]].transpose(order))
        name = editor.add_constant(f"{source.input[0]}_t", weight)
        axis = list(order).index(attribute(source, "axis", 1))
        inputs = [name, *source.input[1:]]
        editor.nodes.append(helper.make_node("DequantizeLinear", inputs, list(node.output), node.name, axis=axis))
        editor.nodes.remove(node)


def _fold_zero_products(editor: GraphEditor) -> None:
    """x · 0 becomes 0: how the model spreads learned slots over a dynamic batch."""
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in editor.model.graph.value_info
    }  # fmt: skip
    for node in list(editor.nodes):
        constant = next((editor.constants[i] for i in node.input if i in editor.constants), None)
        if node.op_type != "Mul" or constant is None or constant.ndim > 0 or float(constant) != 0:
            continue
        if node.output[0] not in shapes:
            continue
        zero = editor.add_constant(f"{node.output[0]}_zero", np.zeros(shapes[node.output[0]], constant.dtype))
        replace_input(editor.nodes, node.output[0], zero)
        editor.nodes.remove(node)


def _store_integer_biases(editor: GraphEditor) -> None:
    """Float biases of products of int8 inputs and weights become int32 with a DequantizeLinear."""
    producers = editor.producers()
    for node in list(editor.nodes):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in editor.constants:
            continue
        inputs = dequantiser(producers, node.input[0])
        weight = dequantiser(producers, node.input[1])
        if inputs is None or weight is None:
            continue
        scale = accumulator_scale(editor.constants[inputs.input[1]], editor.constants[weight.input[1]])
        bias = editor.constants[node.input[2]].astype(np.float64)
        integers = np.clip(np.rint(bias / scale), -(2**31), 2**31 - 1).astype(np.int32)
        names = [
            editor.add_constant(f"{node.output[0]}_bias", integers),
            editor.add_constant(f"{node.output[0]}_bias_scale", scale),
        ]
        output = editor.free_name(f"{node.output[0]}_bias_float")
        editor.nodes.append(helper.make_node("DequantizeLinear", names, [output], f"{node.name}_bias", axis=0))
        node.input[2] = output


def accumulator_scale(inputs: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale of the int32 accumulator per output channel."""
    return np.atleast_1d(inputs.astype(np.float32) * weight.astype(np.float32))


def dequantiser(producers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The DequantizeLinear that a value comes from, looking through operators that only rearrange."""
    node = producers.get(name)
    while node is not None and node.op_type in VIEWS:
        node = producers.get(node.input[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _move_dequantisers_behind_views(editor: GraphEditor) -> bool:
    """One sweep; whether anything moved."""
    producers, consumers = editor.producers(), editor.consumers()
    moved = False
    for node in list(editor.nodes):
        source = producers.get(node.input[0]) if node.input else None
        if source is None or source.op_type != "DequantizeLinear" or not _only_rearranges(node):
            continue
        if source.input[0] in editor.constants or node.output[0] in editor.outputs:
            continue
        output, integers = node.output[0], editor.free_name(f"{node.output[0]}_integer")
        floats = editor.free_name(f"{output}_float")
        node.input[0], node.output[0] = source.input[0], integers
        fresh = helper.make_node("DequantizeLinear", [integers, *source.input[1:]], [floats], f"{node.name}_dequantise")
        replace_input(consumers.get(output, []), output, floats)
        editor.nodes.append(fresh)
        moved = True
        producers[floats] = fresh
    return moved


def _copy_shared_weights(editor: GraphEditor) -> None:
    """Zero points as well: they are renamed together with their weights."""
    consumers = editor.consumers()
    for node in list(editor.nodes):
        if node.op_type == "DequantizeLinear" and node.input[0] in editor.constants:
            for user in consumers.get(node.output[0], [])[1:]:
                fresh = onnx.NodeProto()
                fresh.CopyFrom(node)
                fresh.output[0] = fresh.name = editor.free_name(node.output[0])
                replace_input([user], node.output[0], fresh.output[0])
                editor.nodes.append(fresh)
    seen: set[str] = set()
    for node in editor.nodes:
        for index, name in enumerate(node.input):
            if name in editor.constants and editor.constants[name].dtype == np.int8:
                if name in seen:
                    node.input[index] = editor.add_constant(name, editor.constants[name])
                seen.add(name)


def _only_rearranges(node: onnx.NodeProto) -> bool:
    nearest = node.op_type == "Resize" and attribute(node, "mode") == b"nearest"
    return node.op_type in VIEWS or nearest
