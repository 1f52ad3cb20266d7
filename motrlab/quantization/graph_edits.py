"""Edits of a prepared graph that torchao knows nothing of, and their removal before conversion.

So that evaluation of the fake-quantised graph computes what the runtime computes, to the bit: biases are rounded as
conversion will round them, products of quantised operands are summed in integers, and operators whose float32 result is
the kernel's own affair are computed in double (`deploy/rewrite.py` does the same to the runtime's file). For training,
1×1 convolutions run as matrix products, whose backward pass is a multiple faster on a handful of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from motrlab.quantization.fake_quantize import BiasRounding, FakeQuantize, PerChannelFakeQuantize

aten = torch.ops.aten
_PRODUCTS = (aten.conv2d.default, aten.linear.default, aten.matmul.default)
_INEXACT = (  # reductions and functions, of which every library has its own
    aten.layer_norm.default, aten.softmax.int, aten.sigmoid.default, aten.exp.default, aten.log.default,
    aten.sin.default, aten.cos.default, aten.grid_sampler.default,
)  # fmt: skip
ACTIVATIONS = (aten.relu.default, aten.hardtanh.default)  # ReLU and, by its name in a captured graph, ReLU6
VIEWS = {  # operators that only rearrange their first input
    aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.transpose.int, aten.permute.default,
    aten.unsqueeze.default,
}  # fmt: skip


def edit_for_runtime(prepared: GraphModule) -> None:
    """Round biases, replace products and inexact operators, and speed up 1×1 convolutions."""
    _round_biases(prepared)
    modules = dict(prepared.named_modules())
    for number, node in enumerate(list(prepared.graph.nodes)):
        pointwise = node.target is aten.conv2d.default and _is_pointwise(node)
        edited: nn.Module | None = DoublePrecision(node.target) if node.target in _INEXACT else None
        if node.target in _PRODUCTS:
            first, second = (_quantiser(modules, operand) for operand in node.args[:2])
            if first is not None and second is not None:
                output = _output_quantiser(modules, node)
                edited = IntegerProduct(node.target, pointwise, first, second, output)
        if edited is not None:
            name = f"{type(edited).__name__.lower()}_{number}"
            prepared.add_submodule(name, edited)
            node.op, node.target = "call_module", name  # in place: the node keeps the name by which it is listed
        elif pointwise:
            node.target = pointwise_conv2d
    prepared.recompile()


def _quantiser(modules: dict[str, Any], node: Any) -> FakeQuantize | PerChannelFakeQuantize | None:
    """The quantiser that a value comes from, looking through what only rearranges."""
    while node.target in VIEWS:
        node = node.args[0]
    found = modules.get(node.target) if node.op == "call_module" else None
    return found if isinstance(found, FakeQuantize | PerChannelFakeQuantize) else None


def _output_quantiser(modules: dict[str, Any], node: Node) -> FakeQuantize | None:
    """The quantiser of a product's result, where that goes nowhere else, be it through a ReLU or a new shape."""
    follower = only_user(node)
    while follower is not None and follower.target in (*ACTIVATIONS, *VIEWS):
        follower = only_user(follower)
    found = modules.get(str(follower.target)) if follower is not None and follower.op == "call_module" else None
    return found if isinstance(found, FakeQuantize) else None


def only_user(node: Node) -> Node | None:
    """The one node that uses `node`; None where there are several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


class IntegerProduct(nn.Module):
    """A product of two quantised operands: in training the plain operator, else on their integers.

    Sums of integers below 2²⁴ are exact in float32, whatever their order. So the result is that of an integer kernel,
    where a float kernel, with a rounding of 1e-6 of the sum, moves one value in some thousands to the next step, and
    others on every machine. With `output`, the result is put on that grid at once, by one factor from accumulator to
    grid, as integer kernels do it.
    """

    def __init__(
        self,
        operator: Any,
        pointwise: bool,
        first: FakeQuantize | PerChannelFakeQuantize,
        second: FakeQuantize | PerChannelFakeQuantize,
        output: FakeQuantize | None = None,
    ) -> None:
        super().__init__()
        self.operator, self.pointwise = operator, pointwise
        self._operands, self._output = (first, second), (output,)  # tuples, so that their state is not saved twice
        self.quantising = False
        self._weight: Tensor | None = None

    def set_mode(self, *, observing: bool, quantising: bool, calibrating: bool = False) -> None:
        """As `FakeQuantize.set_mode`."""
        self.quantising = quantising and not observing and all(module.quantising for module in self._operands)
        self._weight = None

    def forward(self, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
        """As the operator: `rest` is a bias and what else it has."""
        if not self.quantising or torch.is_grad_enabled():
            out: Tensor = (pointwise_conv2d if self.pointwise else self.operator)(first, second, *rest)
            return out
        scales = [module.scale for module in self._operands]
        left = (first / scales[0]).round_()
        if self.operator is aten.matmul.default:
            right = (second / scales[1]).round_()
        else:
            if self._weight is None:
                self._weight = (second / scales[1].reshape(-1, *[1] * (second.ndim - 1))).round_()
            right = self._weight
        steps = scales[0] * scales[1]
        if rest and rest[0] is not None:
            rest = ((rest[0].double() / steps.double()).round().float(), *rest[1:])
        product: Tensor = (pointwise_conv2d if self.pointwise else self.operator)(left, right, *rest)
        (output,) = self._output
        shape = (-1, 1, 1) if self.operator is aten.conv2d.default else (-1,)
        if output is None or not output.quantising:
            return product * steps.reshape(shape)
        return (product * (steps / output.scale).reshape(shape)).round_().mul_(output.scale)


class DoublePrecision(nn.Module):
    """An operator that outside training is computed in double and rounded once to float32."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator = operator
        self.quantising = False

    def set_mode(self, *, observing: bool, quantising: bool, calibrating: bool = False) -> None:
        """As `FakeQuantize.set_mode`."""
        self.quantising = quantising and not observing

    def forward(self, *arguments: Any) -> Tensor:
        """As the operator."""
        if not self.quantising or torch.is_grad_enabled():
            out: Tensor = self.operator(*arguments)
            return out
        exact: Tensor = self.operator(*(x.double() if isinstance(x, Tensor) else x for x in arguments))
        return exact.float()


def _round_biases(prepared: GraphModule) -> None:
    """Put a `BiasRounding` behind the bias of every product with quantised inputs and weights."""
    modules = dict(prepared.named_modules())
    for number, node in enumerate(list(prepared.graph.nodes)):
        if node.target not in (aten.conv2d.default, aten.linear.default) or len(node.args) < 3:
            continue
        args: Any = node.args
        source, weight, bias = args[:3]
        inputs, weights = (_quantiser(modules, operand) for operand in (source, weight))
        if bias is None or not isinstance(inputs, FakeQuantize) or not isinstance(weights, PerChannelFakeQuantize):
            continue
        name = f"bias_rounding_{number}"
        prepared.add_submodule(name, BiasRounding(inputs, weights))
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
    """Back to what torchao and ONNX know: plain operators, and rounded biases as constants.

    The graph must be in mode `evaluate`.
    """
    modules = dict(prepared.named_modules())
    for node in list(prepared.graph.nodes):
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.target is pointwise_conv2d:
            node.target = aten.conv2d.default
        elif isinstance(module, BiasRounding | DoublePrecision) and node.all_input_nodes[0].op == "get_attr":
            # A function of a parameter: a constant, which the exporter would compute its own way.
            _replace_by_constant(prepared, node, module(prepared.get_parameter(str(node.all_input_nodes[0].target))))
        elif isinstance(module, IntegerProduct | DoublePrecision):
            prepared.delete_submodule(str(node.target))
            node.op, node.target = "call_function", module.operator
    prepared.recompile()


@torch.no_grad()
def _replace_by_constant(prepared: GraphModule, node: Node, value: Tensor) -> None:
    name = f"constant_{node.target}"
    prepared.register_buffer(name, value.detach().clone())
    with prepared.graph.inserting_before(node):
        fresh = prepared.graph.get_attr(name)
    fresh.meta = dict(node.meta)
    node.replace_all_uses_with(fresh)
    prepared.graph.erase_node(node)
    prepared.delete_submodule(str(node.target))


def runtime_edits(prepared: GraphModule) -> Sequence[BiasRounding | IntegerProduct | DoublePrecision]:
    """The modules that `edit_for_runtime` put into a graph; they have modes, as quantisers have."""
    return [m for m in prepared.modules() if isinstance(m, BiasRounding | IntegerProduct | DoublePrecision)]
