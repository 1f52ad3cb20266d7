"""Taps: what stands between the operations of a graph in one frame, by the names of `GridOperations.record`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from motrlab.quantization.analysis.layers import Arrays, TapPoint
from motrlab.quantization.equalisation import equalisable
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key, TensorSpec
from motrlab.tracking.step import to_numpy

_OF_SLOTS = ("track_query", "embedding", "query")
_WHOLE = 1 - 1e-6  # of a ceiling, rounded to float32


def tap_point(quantised: QuantizedMotr, graph: str, tensor: str) -> TapPoint:
    """Grid of the tensor that is recorded as `tensor`, and what can be done about it."""
    spec = quantised.specs[graph, tensor.partition("@")[0]]
    scale = float(quantised.ranges.scale[spec.group])
    return TapPoint(
        graph=graph,
        tensor=tensor,
        path=spec.name,
        operator=spec.operator,
        observer=_range_source(spec, scale * spec.high),
        num_sharing=sum(s.group == spec.group for s in quantised.specs.values()),
        equalisable=spec.key in equalisable(quantised.specs),
        scale=scale,
        quant_min=spec.low,
        quant_max=spec.high,
    )


def _range_source(spec: TensorSpec, reach: float) -> str:
    if spec.fixed is not None:
        return "fixed"
    if spec.ceiling is not None and reach >= spec.ceiling * _WHOLE:
        return "ceiling"
    return spec.rule.observer


def recorded(quantised: QuantizedMotr, graph: str, inputs: Sequence[Tensor], mode: str = "evaluate") -> Arrays:
    """Real values of the tensors of `base` or `qim`, channels last: `[B, R, W, C]`; stays in `mode`.

    In graph order. Call under `torch.no_grad()`.
    """
    found: dict[str, Tensor] = {}
    quantised.mode(mode)
    quantised.net.record = found
    try:
        getattr(quantised.graphs, graph)(*inputs)
    finally:
        quantised.net.record = None
    # On their grids the values that the layers of a decoder sample are one tensor, noted under the first one's name.
    return {name: to_numpy((x[0] if x.ndim == 5 else x).movedim(1, -1)) for name, x in found.items()}


def slot_tensors(quantised: QuantizedMotr) -> set[Key]:
    """Tensors of slots, which are somebody's or empty: all that is made of the inputs of that kind.

    Without those of the detect slots alone, which are nobody's yet.
    """
    found: set[Key] = set()
    waiting = [key for key, spec in quantised.specs.items() if spec.operator == "input" and spec.name in _OF_SLOTS]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(quantised.specs[key].readers)
    return {key for key in found if not key[1].endswith("/detect")}
