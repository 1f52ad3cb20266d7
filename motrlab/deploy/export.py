"""From prepared graphs to ONNX: the portable fixed-point model, and the float model it is compared with.

The portable files are QDQ graphs: int8 weights per output channel, int32 biases, QuantizeLinear / DequantizeLinear
around float operators. Any runtime that knows ONNX runs them; `rewrite` prepares them for ONNX Runtime's kernels.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from motrlab.deploy.simplify import simplify
from motrlab.model.motr import Motr
from motrlab.quantization.prepare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import atomic_path

BASE_INPUTS = ("image", "track_query", "track_mask", "track_reference")
BASE_OUTPUTS = ("class_logits", "boxes", "embedding")
QIM_INPUTS = ("embedding", "query", "mask")
QIM_OUTPUTS = ("updated_query",)
OPSET = 21  # the first with int16 QuantizeLinear

_decomposed = torch.ops.quantized_decomposed
_DEQUANTIZE = (_decomposed.dequantize_per_tensor.default, _decomposed.dequantize_per_channel.default)


class LastLayer(nn.Module):
    """The base graph without its auxiliary outputs: last class logits, last box outputs, embeddings."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(
        self, image: Tensor, track_query: Tensor, track_mask: Tensor, track_reference: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, boxes, embedding = self.base(image, track_query, track_mask, track_reference)
        return logits[-1], boxes[-1], embedding


def converted(quantised: QuantizedMotr) -> tuple[GraphModule, GraphModule]:
    """Base graph and QIM in fixed point (quantize / dequantize pairs, biases on the int32 grid).

    They are the reference for every runtime. `quantised` stays as it is.
    """
    return _convert(quantised.base), _convert(quantised.qim)


def _convert(prepared: GraphModule) -> GraphModule:
    with torch.no_grad():
        graph_module = convert_pt2e(copy.deepcopy(prepared))
        for node in list(graph_module.graph.nodes):
            if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
                _round_bias(graph_module, node)
    graph_module.recompile()
    return graph_module


def _round_bias(graph_module: GraphModule, node: Node) -> None:
    """Put the bias on the grid of the int32 accumulator: multiples of input scale × weight scale."""
    inputs, weight, bias = (*node.args[:3], None)[:3]
    if bias is None or not (_is_dequantised(inputs) and _is_dequantised(weight)):
        return
    assert isinstance(inputs, Node)
    assert isinstance(weight, Node)
    assert isinstance(bias, Node)
    value = _attribute(graph_module, bias)
    weight_scale = weight.args[1]
    assert isinstance(weight_scale, Node)
    grid = _input_scale(inputs) * _attribute(graph_module, weight_scale).double()
    rounded = ((value.double() / grid).round().clamp(-(2**31), 2**31 - 1) * grid).float()
    name = f"_bias_{node.name}"
    graph_module.register_buffer(name, rounded)
    with graph_module.graph.inserting_before(node):
        fresh = graph_module.graph.get_attr(name)
    fresh.meta = dict(bias.meta)
    node.replace_input_with(bias, fresh)


_VIEWS = {
    torch.ops.aten.reshape.default, torch.ops.aten.flatten.using_ints, torch.ops.aten.transpose.int,
    torch.ops.aten.permute.default, torch.ops.aten.unsqueeze.default,
}  # fmt: skip


def _through_views(node: object) -> object:
    while isinstance(node, Node) and node.target in _VIEWS:
        node = node.args[0]
    return node


def _is_dequantised(node: object) -> bool:
    source = _through_views(node)
    return isinstance(source, Node) and source.target in _DEQUANTIZE


def _input_scale(node: Node) -> float:
    source = _through_views(node)
    assert isinstance(source, Node)
    scale = source.args[1]
    assert isinstance(scale, float)
    # Runtimes hold it as float32.
    return float(torch.tensor(scale))


def _attribute(graph_module: GraphModule, node: Node) -> Tensor:
    value: object = graph_module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def export_portable(quantised: QuantizedMotr, folder: Path) -> None:
    """Write `base.onnx` and `qim.onnx`: QDQ, batch 1, every shape fixed."""
    base, qim = converted(quantised)
    base_inputs, qim_inputs = example_inputs(quantised.config)
    export_onnx(LastLayer(base), base_inputs, BASE_INPUTS, BASE_OUTPUTS, folder / "base.onnx")
    export_onnx(qim, qim_inputs, QIM_INPUTS, QIM_OUTPUTS, folder / "qim.onnx")


def export_float(model: Motr, folder: Path) -> None:
    """Write `base.onnx` and `qim.onnx` of a folded float model: the same graphs without quantisers."""
    base_inputs, qim_inputs = example_inputs(model.config)
    export_onnx(LastLayer(model.base), base_inputs, BASE_INPUTS, BASE_OUTPUTS, folder / "base.onnx")
    export_onnx(model.qim, qim_inputs, QIM_INPUTS, QIM_OUTPUTS, folder / "qim.onnx")


def export_onnx(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    path: Path,
) -> None:
    """Export one graph with static shapes, fold its constants, check it, and write it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its internals
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
                optimize=False,  # its pattern search takes two thirds of the time and finds little here
            )
            assert program is not None
            fold_constants(program.model)
        finally:
            logging.disable(previous)
    model = simplify(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)
