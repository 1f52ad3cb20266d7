"""Edits of a prepared graph that torchao knows nothing of, and their removal before conversion.

Biases are rounded as conversion will round them, so that the fake-quantised graph computes what the converted one
does; and 1×1 convolutions run as matrix products, whose backward pass is a multiple faster on a handful of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node

from motrlab.quantization.fake_quantize import BiasRounding, FakeQuantize, PerChannelFakeQuantize

aten = torch.ops.aten
VIEWS = {  # operators that only rearrange their first input
    aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.transpose.int, aten.permute.default,
    aten.unsqueeze.default,
}  # fmt: skip


def edit_for_runtime(prepared: GraphModule) -> None:
    """Round biases, and speed up 1×1 convolutions."""
    _round_biases(prepared)
    for node in prepared.graph.nodes:
        if node.target is aten.conv2d.default and _is_pointwise(node):
            node.target = pointwise_conv2d
    prepared.recompile()


def _round_biases(prepared: GraphModule) -> None:
    """Put a `BiasRounding` behind the bias of every product with quantised inputs and weights."""
    modules = dict(prepared.named_modules())
    for number, node in enumerate(list(prepared.graph.nodes)):
        if node.target not in (aten.conv2d.default, aten.linear.default) or len(node.args) < 3:
            continue
        args: Any = node.args
        source, weight, bias = args[:3]
        while source.target in VIEWS:
            source = source.args[0]
        found = [modules.get(n.target) if n.op == "call_module" else None for n in (source, weight)]
        if bias is None or not isinstance(found[0], FakeQuantize) or not isinstance(found[1], PerChannelFakeQuantize):
            continue
        name = f"bias_rounding_{number}"
        prepared.add_submodule(name, BiasRounding(found[0], found[1]))
        with prepared.graph.inserting_before(node):
            rounded = prepared.graph.call_module(name, (bias,))
        rounded.meta = dict(bias.meta)
        node.replace_input_with(bias, rounded)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any) -> Tensor:
    """A 1×1 convolution as a matrix product over channels-last tokens, see `model.attention.PointwiseConv`."""
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


def _is_pointwise(node: Node) -> bool:
    args: Any = node.args
    weight = args[1].args[0] if args[1].op == "call_module" else args[1]
    defaults: list[Any] = [[1], [0], [1], 1]  # stride, padding, dilation, groups
    stride, padding, _, groups = [*list(args)[3:], *defaults[len(args) - 3 :]]
    plain = set(stride) == {1} and set(padding) == {0} and groups == 1
    return plain and tuple(weight.meta["val"].shape[2:]) == (1, 1)


def undo_runtime_edits(prepared: GraphModule) -> None:
    """Back to what torchao and ONNX know: plain convolutions, and rounded biases as constants.

    The graph must be in mode `evaluate`.
    """
    modules = dict(prepared.named_modules())
    for node in list(prepared.graph.nodes):
        if node.target is pointwise_conv2d:
            node.target = aten.conv2d.default
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, BiasRounding):
            bias = prepared.get_parameter(str(node.all_input_nodes[0].target))
            constant = f"rounded_{node.target}"
            with torch.no_grad(), prepared.graph.inserting_before(node):
                prepared.register_buffer(constant, module(bias).clone())
                fresh = prepared.graph.get_attr(constant)
            fresh.meta = dict(node.meta)
            node.replace_all_uses_with(fresh)
            prepared.graph.erase_node(node)
            prepared.delete_submodule(str(node.target))
    prepared.recompile()


def bias_roundings(prepared: GraphModule) -> Sequence[BiasRounding]:
    """The `BiasRounding` modules of a prepared graph."""
    return [m for m in prepared.modules() if isinstance(m, BiasRounding)]
