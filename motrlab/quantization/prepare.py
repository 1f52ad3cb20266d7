"""Capture of the two graphs and placement of the quantisers.

`torch.export` turns each graph of a folded model into an fx graph; `IntegerQuantizer` marks its tensors by the
scheme, and torchao puts a `FakeQuantize` module at each mark. That one graph serves calibration, evaluation and QAT.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

from motrlab.config import ModelConfig
from motrlab.config.scheme import ACTIVATION_RANGE, PRODUCTS, WEIGHT_RANGE, Rule, Scheme
from motrlab.errors import UserError
from motrlab.model.motr import Motr
from motrlab.quantization.fake_quantize import FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.graph_edits import ACTIVATIONS, VIEWS, edit_for_runtime

aten = torch.ops.aten
_OPERATOR = {
    aten.conv2d.default: "conv",
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.grid_sampler.default: "sampling",
    aten.layer_norm.default: "norm",
}  # a placeholder is an "input"
_ANNOTATION = "quantization_annotation"  # where torchao looks for our marks
Marker = functools.partial["Mark"]  # everything but tensor and user


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


@dataclass(frozen=True)
class Mark:
    """A quantiser's place and the rule that put it there.

    `tensor`: node of the captured graph whose value is quantised; `user`: the node that it is quantised for, "" for
    all. `operator` and `path` are those of the product, norm, sampling or input that the rule was looked up for.
    """

    graph: str
    tensor: str
    user: str
    operator: str
    path: str
    rule: Rule


@dataclass(frozen=True)
class Prepared:
    """A graph with its quantisers. `decisions`: kind, module path and rule of each operator that is quantised."""

    graph_module: GraphModule
    decisions: list[tuple[str, str, Rule]]
    marks: list[Mark]
    fitting: set[Rule]  # rules that fit at least one operator, even if a later one decided


def prepare(graph_module: GraphModule, name: str, scheme: Scheme) -> Prepared:
    """Put quantisers into a captured graph (`name`: base or qim)."""
    quantizer = IntegerQuantizer(scheme, name)
    prepared = prepare_qat_pt2e(graph_module, quantizer)
    edit_for_runtime(prepared)
    return Prepared(prepared, quantizer.decisions, quantizer.marks, quantizer.fitting)


class IntegerQuantizer(Quantizer):
    """Marks tensors by a `Scheme`: inputs, weights and outputs of products, and single tensors (`scheme.TENSORS`)."""

    def __init__(self, scheme: Scheme, name: str) -> None:
        super().__init__()
        self.scheme = scheme
        self.name = name
        self.decisions: list[tuple[str, str, Rule]] = []
        self.marks: list[Mark] = []
        self.fitting: set[Rule] = set()

    def annotate(self, model: GraphModule) -> GraphModule:
        data = _depends_on_inputs(model)
        for node in model.graph.nodes:
            operator = "input" if node.op == "placeholder" else _OPERATOR.get(node.target)
            if operator is None or node not in data:
                continue
            path = str(node.target) if operator == "input" else module_path(node)
            self.fitting.update(rule for rule in self.scheme.rules if rule.fits(self.name, operator, path))
            rule = self.scheme.find(self.name, operator, path)
            if rule is None or rule.precision == "float":
                continue
            self.decisions.append((operator, path, rule))
            marker = functools.partial(Mark, self.name, operator=operator, path=path, rule=rule)
            if operator in PRODUCTS:
                self._mark_product(node, operator, marker)
            elif operator == "sampling":
                self._mark_input(node, node.args[1], marker)
            else:
                self._mark_output(node, marker)
        return model

    def validate(self, model: GraphModule) -> None:
        """Every mark is of a kind that ONNX and both runtimes know."""

    def _mark_product(self, node: Node, operator: str, marker: Marker) -> None:
        num_activations = 2 if operator == "matmul" else 1
        for operand in node.args[:num_activations]:
            self._mark_input(node, operand, marker)
        rule = marker.keywords["rule"]
        if operator != "matmul":
            weight = node.args[1]
            assert isinstance(weight, Node)
            _annotation(node).input_qspec_map[weight] = _weight_spec(rule.per_channel)
            self.marks.append(marker(tensor=weight.name, user=node.name))
        if rule.quantise_output:
            # Behind the ReLU or ReLU6, where one follows alone: the runtime folds it into the product.
            followers = list(node.users)
            alone = len(followers) == 1 and followers[0].target in ACTIVATIONS
            self._mark_output(followers[0] if alone else node, marker)

    def _mark_input(self, node: Node, operand: Any, marker: Marker) -> None:
        """Quantise the operand before the view operations that only this product sees.

        Views of one tensor then share one quantiser, and there is none where the producer has it already.
        """
        user = node
        while operand.target in VIEWS and len(operand.users) == 1:
            user, operand = operand, operand.args[0]
        source = operand
        while source.target in VIEWS:
            source = source.args[0]
        made = source.meta[_ANNOTATION].output_qspec if _ANNOTATION in source.meta else None
        rule = marker.keywords["rule"]
        if made is not None:
            if made.dtype != torch.int8:
                raise UserError(
                    f"quantisation scheme: {source.name} is asked for in int16, but {module_path(node) or node.name} "
                    f"multiplies it (rule {rule.label!r}), and no runtime has int16 products: give it int8 or float, "
                    "or leave the product in float"
                )
            return
        scale = rule.softmax_scale if source.target is aten.softmax.int else rule.input_scale
        _annotation(user).input_qspec_map[operand] = _activation_spec(rule, scale)
        self.marks.append(marker(tensor=operand.name, user=user.name))

    def _mark_output(self, node: Node, marker: Marker) -> None:
        rule = marker.keywords["rule"]
        scale = rule.input_scale if node.op == "placeholder" else None
        _annotation(node).output_qspec = _activation_spec(rule, scale)
        self.marks.append(marker(tensor=node.name, user=""))


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


def _activation_spec(rule: Rule, fixed_scale: float | None) -> QuantizationSpec:
    return _activation(rule.precision, rule.observer, rule.percentile, fixed_scale)


@functools.cache
def _activation(precision: str, observer: str, percentile: float, fixed_scale: float | None) -> QuantizationSpec:
    """One object for equal settings, so that torchao puts one quantiser where two operators want the same."""
    low, high = ACTIVATION_RANGE[precision]
    constructor = FakeQuantize.with_args(observer=observer, percentile=percentile, fixed_scale=fixed_scale)
    return QuantizationSpec(
        dtype=getattr(torch, precision),
        quant_min=low,
        quant_max=high,
        qscheme=torch.per_tensor_symmetric,
        observer_or_fake_quant_ctr=constructor,
    )


@functools.cache
def _weight_spec(per_channel: bool) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=WEIGHT_RANGE[0],
        quant_max=WEIGHT_RANGE[1],
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelFakeQuantize.with_args(per_channel=per_channel),
    )


def fake_quantizers(graph_module: GraphModule) -> Sequence[Any]:
    """The `FakeQuantize` and `PerChannelFakeQuantize` modules of a prepared graph."""
    return [m for m in graph_module.modules() if isinstance(m, FakeQuantize | PerChannelFakeQuantize)]
