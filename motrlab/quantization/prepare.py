"""Capture of the two graphs and placement of the quantisers.

`torch.export` turns each graph of a folded model into an fx graph; `IntegerQuantizer` marks its tensors by the
scheme, and torchao puts a `FakeQuantize` module at each mark. That one graph serves calibration, evaluation and QAT.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr
from motrlab.quantization.fake_quantize import FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.graph_edits import VIEWS, edit_for_runtime
from motrlab.quantization.scheme import ACTIVATION_RANGE, WEIGHT_RANGE, Rule, Scheme

aten = torch.ops.aten
_OPERATOR = {aten.conv2d.default: "conv", aten.linear.default: "linear", aten.matmul.default: "matmul"}
_ACTIVATIONS = (aten.relu.default, aten.hardtanh.default)  # ReLU and, by its name in a captured graph, ReLU6
_ANNOTATION = "quantization_annotation"  # where torchao looks for our marks


def example_inputs(config: ModelConfig, batch: int = 1) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs of the right shapes for the base graph and the QIM; the values are arbitrary."""
    channels, tracks, rows = config.d_model, config.num_track, config.num_track // config.slot_columns
    state = (batch, channels, rows, config.slot_columns)
    mask = torch.ones(batch, 1, 1, tracks)
    image = torch.zeros(batch, 3, config.height, config.width)
    base = (image, torch.zeros(state), mask, torch.full((batch, 4, *state[2:]), 0.5))
    qim = (torch.zeros(batch, channels, 1, tracks), torch.zeros(batch, channels, 1, tracks), mask)
    return base, qim


def capture(model: Motr) -> tuple[GraphModule, GraphModule]:
    """The two graphs of a folded model as fx graphs: batch dynamic, height and width fixed.

    They share the model's parameters. The base graph keeps its auxiliary outputs, which QAT's losses need.
    """
    base, qim = example_inputs(model.config, batch=2)
    return _capture(model.base, base), _capture(model.qim, qim)


def _capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    device = next(module.parameters()).device
    batch = torch.export.Dim("batch", min=1, max=256)
    inputs = tuple(x.to(device) for x in inputs)
    program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    graph_module = program.module(check_guards=False)
    assert isinstance(graph_module, GraphModule)
    _drop_no_ops(graph_module)
    return graph_module


def _drop_no_ops(graph_module: GraphModule) -> None:
    """Remove what export leaves behind of `.float()` on float32: checks and casts to the type there already is."""
    for node in list(graph_module.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph_module.graph.erase_node(node)
        elif node.target is aten.to.dtype and node.args[0].meta["val"].dtype == node.args[1]:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def prepare(graph_module: GraphModule, name: str, scheme: Scheme) -> tuple[GraphModule, list[tuple[str, str, Rule]]]:
    """Put quantisers into a captured graph (`name`: base or qim).

    Returns:
        The prepared graph, and for each operator its kind, its module path and the rule that decided.
    """
    quantizer = IntegerQuantizer(scheme, name)
    prepared = prepare_qat_pt2e(graph_module, quantizer)
    edit_for_runtime(prepared)
    return prepared, quantizer.decisions


class IntegerQuantizer(Quantizer):
    """Marks the inputs, weights and outputs of convolutions and matrix products by a `Scheme`."""

    def __init__(self, scheme: Scheme, name: str) -> None:
        super().__init__()
        self.scheme = scheme
        self.name = name
        self.decisions: list[tuple[str, str, Rule]] = []

    def annotate(self, model: GraphModule) -> GraphModule:
        data = _depends_on_inputs(model)
        for node in model.graph.nodes:
            operator = _OPERATOR.get(node.target)
            if operator is None or node not in data:
                continue
            path = module_path(node)
            rule = self.scheme.find(self.name, operator, path)
            if rule is None or rule.precision == "float":
                continue
            self.decisions.append((operator, path, rule))
            num_activations = 2 if operator == "matmul" else 1
            for operand in node.args[:num_activations]:
                self._mark_input(node, operand, rule)
            if operator != "matmul":
                _annotation(node).input_qspec_map[node.args[1]] = _weight_spec()
            if rule.quantise_output:
                self._mark_output(node, rule)
        return model

    def validate(self, model: GraphModule) -> None:
        """Every mark is of a kind that ONNX and both runtimes know."""

    def _mark_input(self, node: Node, operand: Node, rule: Rule) -> None:
        """Quantise the operand before the view operations that only this product sees.

        Views of one tensor then share one quantiser, and there is none where the producer has it already.
        """
        user = node
        while operand.target in VIEWS and len(operand.users) == 1:
            user, operand = operand, operand.args[0]  # type: ignore[assignment]
        source = operand
        while source.target in VIEWS:
            source = source.args[0]  # type: ignore[assignment]
        if _ANNOTATION in source.meta and source.meta[_ANNOTATION].output_qspec is not None:
            return
        scale = rule.softmax_scale if source.target is aten.softmax.int else rule.input_scale
        _annotation(user).input_qspec_map[operand] = _activation_spec(rule.observer, scale)

    def _mark_output(self, node: Node, rule: Rule) -> None:
        """Behind the ReLU or ReLU6, where one follows alone: the runtime folds it into the product."""
        followers = list(node.users)
        last = followers[0] if len(followers) == 1 and followers[0].target in _ACTIVATIONS else node
        _annotation(last).output_qspec = _activation_spec(rule.observer, None)


def module_path(node: Node) -> str:
    """Path of the module that a node came from, such as `decoder.0.self_attention.query`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.replace("L['self'].", "")


def _annotation(node: Node) -> QuantizationAnnotation:
    annotation = node.meta.setdefault(_ANNOTATION, QuantizationAnnotation(_annotated=True))
    assert isinstance(annotation, QuantizationAnnotation)
    return annotation


def _depends_on_inputs(graph_module: GraphModule) -> set[Node]:
    """Nodes that see an input of the graph; products of constants alone are folded at export."""
    found: set[Node] = set()
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" or any(x in found for x in node.all_input_nodes):
            found.add(node)
    return found


@functools.cache
def _activation_spec(observer: str, fixed_scale: float | None) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=ACTIVATION_RANGE[0],
        quant_max=ACTIVATION_RANGE[1],
        qscheme=torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=FakeQuantize.with_args(observer=observer, fixed_scale=fixed_scale),
    )


@functools.cache
def _weight_spec() -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=WEIGHT_RANGE[0],
        quant_max=WEIGHT_RANGE[1],
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelFakeQuantize.with_args(),
    )


def fake_quantizers(graph_module: GraphModule) -> Sequence[Any]:
    """The `FakeQuantize` and `PerChannelFakeQuantize` modules of a prepared graph."""
    return [m for m in graph_module.modules() if isinstance(m, FakeQuantize | PerChannelFakeQuantize)]
