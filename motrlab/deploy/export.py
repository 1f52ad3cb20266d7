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
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from motrlab.deploy.simplify import simplify
from motrlab.model.motr import Motr
from motrlab.quantization.graph_edits import undo_runtime_edits
from motrlab.quantization.prepare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import atomic_path

BASE_INPUTS = ("image", "track_query", "track_mask", "track_reference")
BASE_OUTPUTS = ("class_logits", "boxes", "embedding")
QIM_INPUTS = ("embedding", "query", "mask")
QIM_OUTPUTS = ("updated_query",)
OPSET = 21  # the first with int16 QuantizeLinear


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

    They are the reference for every runtime. `quantised` must be in mode `evaluate`, and stays as it is.
    """
    assert quantised.current_mode == "evaluate", quantised.current_mode
    return _convert(quantised.base), _convert(quantised.qim)


def _convert(prepared: GraphModule) -> GraphModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about copying its graphs
        copied = copy.deepcopy(prepared)
        undo_runtime_edits(copied)
        return convert_pt2e(copied)


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
