"""Cross-layer equalisation before calibration (arXiv 1906.04721, section 4.1).

Between two convolutions with nothing but a ReLU between them, channel i may be divided by any positive s_i in the first
and multiplied by it in the second. s_i = √(r1_i / r2_i), of the largest weights of channel i in the two, makes both
ranges equal: no channel of the activation between them is then much wider than the others, which share one scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from motrlab.quantization.graph_edits import only_user

aten = torch.ops.aten


@torch.no_grad()
def equalise(graph_module: GraphModule, sweeps: int = 3) -> int:
    """Equalise every pair of a captured graph in place, `sweeps` times over; how many pairs there are.

    What the graph computes stays the same but for rounding. ReLU6 is left alone: it does not scale.
    """
    pairs = _pairs(graph_module)
    for _ in range(sweeps if pairs else 0):
        for first, second in pairs:
            _equalise_pair(graph_module, first, second)
    return len(pairs)


def _pairs(graph_module: GraphModule) -> list[tuple[Node, Node]]:
    """Convolutions whose result has one user, a ReLU, whose result has one user, a convolution or linear layer."""
    found = []
    for node in graph_module.graph.nodes:
        relu = only_user(node) if node.target is aten.conv2d.default else None
        if relu is None or relu.target is not aten.relu.default:
            continue
        second = only_user(relu)
        while second is not None and second.target in (aten.flatten.using_ints, aten.transpose.int):
            second = only_user(second)  # as `TokenLinear` begins
        if second is not None and second.target in (aten.conv2d.default, aten.linear.default):
            found.append((node, second))
    return found


def _equalise_pair(graph_module: GraphModule, first: Node, second: Node) -> None:
    weight, bias = _parameter(graph_module, first, 1), _parameter(graph_module, first, 2)
    following = _parameter(graph_module, second, 1)
    if weight is None or following is None:
        return
    groups = _groups(second)
    depthwise = groups == len(weight)
    if groups != 1 and not depthwise:
        return
    out_range = weight.abs().flatten(1).amax(1)
    in_range = following.abs().flatten(1).amax(1) if depthwise else following.abs().transpose(0, 1).flatten(1).amax(1)
    usable = (out_range > 0) & (in_range > 0)  # a dead channel is left as it is
    factor = torch.where(usable, (out_range / in_range.clamp(min=1e-12)).sqrt(), torch.ones_like(out_range))
    weight.div_(_spread(factor, weight, 0))
    if bias is not None:
        bias.div_(factor)
    following.mul_(_spread(factor, following, 0 if depthwise else 1))


def _spread(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    return factor.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


def _parameter(graph_module: GraphModule, node: Node, index: int) -> Tensor | None:
    source: Any = node.args[index] if len(node.args) > index else None
    return (
        graph_module.get_parameter(str(source.target)) if isinstance(source, Node) and source.op == "get_attr" else None
    )


def _groups(node: Node) -> int:
    arguments: Any = node.args
    return int(arguments[6]) if node.target is aten.conv2d.default and len(arguments) > 6 else 1
