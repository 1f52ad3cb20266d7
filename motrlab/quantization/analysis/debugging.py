"""What quantisation costs each tensor with only the weights quantised, only the activations, and all; and what its
values are: ranges of its channels, and a histogram.

Only weights: the float network with the weights that the integers stand for. Only activations: every tensor on its
grid, weights of the float model, not rounded. All three see the inputs of the float run, in closed loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.model.motr import Motr
from motrlab.quantization.analysis.layers import Arrays, Float, SplitRow, sqnr_db
from motrlab.quantization.analysis.taps import live_rows, recorded, slot_tensors
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key
from motrlab.quantization.torch_arithmetic import IntegerLayer
from motrlab.tracking.step import FrameStep, to_numpy

BINS = 64
_REACH = 1.25  # of the grid: as far does a histogram go, and its last bin has what is beyond


@dataclass
class TensorValues:
    """Float values of a tensor in steps of its grid (of weights: of the widest channel's), which reaches from
    `quant_min` to `quant_max`: least and largest of every channel, and counts of `BINS` bins over `bins`.
    """

    graph: str
    tensor: str
    kind: str  # activation | weight
    step: float
    quant_min: int
    quant_max: int
    low: Float
    high: Float
    counts: Float

    @property
    def bins(self) -> tuple[float, float]:
        return _REACH * self.quant_min, _REACH * self.quant_max

    def add(self, steps: Float) -> None:
        """`steps`: `[n, channels]`, n > 0."""
        self.low, self.high = np.minimum(self.low, steps.min(0)), np.maximum(self.high, steps.max(0))
        self.counts = self.counts + np.histogram(np.clip(steps, *self.bins), BINS, self.bins)[0]

    def json(self) -> dict[str, Any]:
        """For a file: ranges to a tenth of a step."""
        told: dict[str, Any] = {n: getattr(self, n) for n in ("graph", "tensor", "kind", "quant_min", "quant_max")}
        told |= {name: np.round(getattr(self, name).astype(np.float64), 1).tolist() for name in ("low", "high")}
        return told | {"step": self.step, "bins": self.bins, "counts": self.counts.astype(int).tolist()}


@torch.no_grad()
def inspect_tensors(
    quantised: QuantizedMotr, videos: Iterable[Iterable[Tensor]], config: Config, floating: Motr | None = None
) -> tuple[list[SplitRow], list[TensorValues]]:
    """Both of every tensor, in graph order, over all frames of `videos`; ends in mode `evaluate`.

    `videos`: for each one its network inputs `[1, 3, H, W]` in order. Empty track slots do not count. The rows end with
    the outputs; the values with the weights. `floating`: the model (folded; equalised if `quantised` was) whose weights
    are the reference; None: those of `quantised`, which calibration or QAT has moved to their grid already.
    """
    reference = floating or quantised.model
    sums: dict[Key, np.ndarray] = {}  # of squares: float values, then errors of each form
    values: dict[Key, TensorValues] = {}
    layers: dict[int, tuple[Any, IntegerLayer]] = {}
    slots = slot_tensors(quantised)
    for images in videos:
        quantised.mode("float")
        with _weights_of(reference, quantised.model):
            steps = list(closed_loop(quantised.graphs, list(images), config))
        for step in steps:
            for graph, inputs in _calls(step):
                live = np.append(np.ones(config.model.num_detect), to_numpy(inputs[2])) > 0
                forms = _forms(quantised, reference, graph, inputs, layers)
                for tensor in forms[0]:
                    key, path = (graph, tensor), (graph, tensor.partition("@")[0])
                    found = [form[tensor] for form in forms]
                    if path in slots or path not in quantised.specs:
                        found = [live_rows(x, live) for x in found]
                    if found[0].size:
                        _add(quantised, key, found, sums, values)
    quantised.mode("evaluate")
    rows = [_row(quantised, key, found) for key, found in sums.items()]
    rows.sort(key=lambda row: row.operator == "output")
    return rows, [*values.values(), *_weights(quantised, layers)]


def _calls(step: FrameStep) -> Iterator[tuple[str, Sequence[Any]]]:
    yield "base", step.base_inputs
    yield "qim", step.qim_inputs


def _run(quantised: QuantizedMotr, graph: str, inputs: Sequence[Any], mode: str) -> Arrays:
    """As `recorded`, with what the base graph gives to the tracker: class logits and boxes."""
    outputs: list[Any] = []
    found = recorded(quantised, graph, inputs, mode, outputs=outputs)
    if graph == "base":
        logits, boxes = (to_numpy(side[-1].movedim(1, -1)) for side in outputs[0][:2])
        found |= {"class logits": logits, "boxes": boxes}
    return found


def _forms(
    quantised: QuantizedMotr,
    reference: Motr,
    graph: str,
    inputs: Sequence[Any],
    layers: dict[int, tuple[Any, IntegerLayer]],
) -> list[Arrays]:
    """Float, then `FORMS`; `layers` gets the integers of every product, by the id of its module."""

    def watch(module: Any, x: Any, layer: IntegerLayer) -> None:
        layers[id(module)] = module, layer

    with quantised.net.hooked(watch_product=watch):
        complete = _run(quantised, graph, inputs, "evaluate")
    with _rounded_weights(layers):
        weights = _run(quantised, graph, inputs, "float")
    with _weights_of(reference, quantised.model):
        floating = _run(quantised, graph, inputs, "float")
        with torch.enable_grad():  # then weights are not rounded (`torch_arithmetic.trained_layer`)
            activations = _run(quantised, graph, inputs, "evaluate")
    return [floating, weights, activations, complete]


@contextmanager
def _weights_of(source: Motr, model: Motr) -> Iterator[None]:
    """Inside, `model` has the parameters of `source`, and no gradients."""
    own, kept = dict(model.named_parameters()), {}
    for name, parameter in source.named_parameters():
        kept[name] = own[name].data, own[name].requires_grad
        own[name].data = parameter.data
        own[name].requires_grad_(False)
    try:
        yield
    finally:
        for name, (data, learned) in kept.items():
            own[name].data = data
            own[name].requires_grad_(learned)


@contextmanager
def _rounded_weights(layers: dict[int, tuple[Any, IntegerLayer]]) -> Iterator[None]:
    """Inside, the modules have the weights and biases that their integers stand for."""
    kept = [(module, module.weight.data, module.bias.data) for module, _ in layers.values()]
    try:
        for module, layer in layers.values():
            shape = (-1, *[1] * (layer.weight.ndim - 1))
            module.weight.data = (layer.weight * layer.scale.reshape(shape)).reshape(module.weight.shape)
            module.bias.data = layer.bias * layer.step
        yield
    finally:
        for module, weight, bias in kept:
            module.weight.data, module.bias.data = weight, bias


def _add(
    quantised: QuantizedMotr,
    key: Key,
    found: Sequence[Float],
    sums: dict[Key, np.ndarray],
    values: dict[Key, TensorValues],
) -> None:
    x, *others = (np.asarray(v, np.float64).reshape(-1, v.shape[-1]) for v in found)
    sums[key] = sums.get(key, 0) + np.array([(x * x).sum(), *(((y - x) ** 2).sum() for y in others)])
    spec = quantised.specs.get((key[0], key[1].partition("@")[0]))
    if spec is None:
        return
    step = float(quantised.ranges.scale[spec.group])
    if key not in values:
        empty = np.zeros(x.shape[1])
        values[key] = TensorValues(
            *key, "activation", step, spec.low, spec.high, empty + np.inf, empty - np.inf, np.zeros(BINS)
        )
    values[key].add(x / step)


def _row(quantised: QuantizedMotr, key: Key, sums: np.ndarray) -> SplitRow:
    spec = quantised.specs.get((key[0], key[1].partition("@")[0]))
    return SplitRow(*key, spec.operator if spec else "output", *(sqnr_db(float(sums[0]), float(e)) for e in sums[1:]))


def _weights(quantised: QuantizedMotr, layers: dict[int, tuple[Any, IntegerLayer]]) -> Iterator[TensorValues]:
    """Of every product, its outputs as channels."""
    limit = quantised.scheme.weight_limit
    for module, layer in layers.values():
        graph, path = quantised.net.paths[id(module)]
        step = float(layer.scale.max())
        rows = to_numpy(module.weight.detach().flatten(1).T) / step
        ends = rows.min(0), rows.max(0)
        found = TensorValues(graph, path, "weight", step, -limit, limit, *ends, np.zeros(BINS))
        found.add(rows)
        yield found
