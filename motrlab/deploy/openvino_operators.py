"""NumPy operators for OpenVINO: division, and what it has not in double precision.

OpenVINO's CPU plugin computes double as float32, and division by a constant as a product. The functions here are
computed in double and rounded once to float32, as in the file for ONNX Runtime and in the evaluated QAT graph: a third
implementation, so that the three check each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray
from openvino.frontend.onnx import ConversionExtension

from motrlab.deploy.openvino_graph import DOMAIN, FUNCTIONS, explicit_form

Double = NDArray[np.float64]


def layer_norm(x: Double, weight: Double, bias: Double, epsilon: float) -> Double:
    """Over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + epsilon) * weight + bias)


def softmax(x: Double) -> Double:
    """Over the last axis."""
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def grid_sample(values: Double, grid: Double) -> Double:
    """Bilinear, zeros outside, corners not aligned: `[N, C, H, W]` at `[N, h, w, 2]` (x, y from -1 to 1)."""
    batch, channels, height, width = values.shape
    x, y = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    rows = values.transpose(0, 2, 3, 1).reshape(batch, height * width, channels)
    images = np.arange(batch)[:, None, None]
    out = np.zeros((*grid.shape[:3], channels))
    for row in (np.floor(y), np.floor(y) + 1):
        for column in (np.floor(x), np.floor(x) + 1):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = np.where(inside, (1 - abs(x - column)) * (1 - abs(y - row)), 0)
            place = np.where(inside, row * width + column, 0).astype(np.intp)
            out += rows[images, place] * share[..., None]
    return out.transpose(0, 3, 1, 2)


def _sigmoid(x: Double) -> Double:
    return np.asarray(1 / (1 + np.exp(-x)))


_IN_DOUBLE: dict[str, Callable[..., Any]] = {
    "LayerNormalization": layer_norm,
    "Softmax": softmax,
    "Sigmoid": _sigmoid,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "GridSample": grid_sample,
}


class NumpyOperator(openvino.Op):
    """One operator of our domain. A subclass each: OpenVINO merges nodes of one class that have the same inputs."""

    kind = ""

    def __init__(self, inputs: Sequence[Any] | None = None, epsilon: float = 0.0) -> None:
        super().__init__(self)
        self.epsilon = epsilon
        if inputs is not None:
            self.set_arguments(list(inputs))
            self.constructor_validate_and_infer_types()

    def validate_and_infer_types(self) -> None:
        shapes = [tuple(self.get_input_shape(index)) for index in range(self.get_input_size())]
        shape = shapes[0]
        if self.kind == "GridSample":
            shape = (*shape[:2], *shapes[1][1:3])
        elif self.kind == "Div":
            shape = np.broadcast_shapes(*shapes)
        self.set_output_type(0, openvino.Type.f32, openvino.PartialShape(list(shape)))

    def clone_with_new_inputs(self, new_inputs: Sequence[Any]) -> NumpyOperator:
        return type(self)(new_inputs, self.epsilon)

    def has_evaluate(self) -> bool:
        return True

    def evaluate(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> bool:
        arrays = [tensor.data for tensor in inputs]
        if self.kind == "Div":
            outputs[0].data[...] = arrays[0] / arrays[1]
        else:
            settings = (self.epsilon,) if self.kind == "LayerNormalization" else ()
            outputs[0].data[...] = _IN_DOUBLE[self.kind](*(x.astype(np.float64) for x in arrays), *settings)
        return True


_OPERATORS = {kind: type(f"Numpy{kind}", (NumpyOperator,), {"kind": kind}) for kind in FUNCTIONS}


def read_explicit(path: Path) -> tuple[openvino.Core, openvino.Model]:
    """A portable ONNX file in its explicit form, with the core that knows our operators."""
    core = openvino.Core()
    for kind, operator in _OPERATORS.items():
        core.add_extension(ConversionExtension(kind, DOMAIN, _converter(operator)))
    model = explicit_form(onnx.load(path))
    return core, core.read_model(model.SerializeToString())


def _converter(operator: type[NumpyOperator]) -> Callable[[Any], list[Any]]:
    def convert(node: Any) -> list[Any]:
        inputs = [node.get_input(index) for index in range(node.get_input_size())]
        made: list[Any] = operator(inputs, node.get_attribute("epsilon", 0.0)).outputs()
        return made

    return convert
