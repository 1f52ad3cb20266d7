"""Taps: what stands between the operations of a graph in one frame, by the names of `GridOperations.record`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from motrlab.quantization.analysis.layers import Arrays, Float, TapPoint
from motrlab.quantization.equalisation import equalisable
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key
from motrlab.tracking.step import to_numpy
from motrlab.tracking.tracker import Bool

_OF_SLOTS = ("track_query", "embedding", "query")
_WHOLE = 1 - 1e-6  # of a ceiling, rounded to float32


def tap_point(quantised: QuantizedMotr, graph: str, tensor: str) -> TapPoint:
    """Grid of the tensor that is recorded as `tensor`, and what can be done about it."""
    spec = quantised.specs[graph, tensor.partition("@")[0]]
    scale = float(quantised.ranges.scale[spec.group])
    whole = spec.ceiling is not None and scale * spec.high >= spec.ceiling * _WHOLE
    observer = "fixed" if spec.fixed is not None else "ceiling" if whole else spec.rule.observer
    sharing = sum(s.group == spec.group for s in quantised.specs.values())
    free = spec.key in equalisable(quantised.specs)
    return TapPoint(graph, tensor, spec.name, spec.operator, observer, sharing, free, scale, spec.low, spec.high)


def recorded(
    quantised: QuantizedMotr,
    graph: str,
    inputs: Sequence[Tensor],
    mode: str = "evaluate",
    outputs: list[Any] | None = None,
) -> Arrays:
    """Real values of the tensors of `base` or `qim`, channels last: `[B, R, W, C]`; stays in `mode`.

    In graph order. What the graph returns is added to `outputs`. Call under `torch.no_grad()`.
    """
    found: dict[str, Tensor] = {}
    quantised.mode(mode)
    with quantised.net.hooked(record=found):
        made = getattr(quantised.graphs, graph)(*inputs)
    if outputs is not None:
        outputs.append(made)
    # On their grids the values that the layers of a decoder sample are one tensor, noted under the first one's name.
    return {name: to_numpy((x[0] if x.ndim == 5 else x).movedim(1, -1)) for name, x in found.items()}


def live_rows(x: Float, live: Bool) -> Float:
    """Of slots `[1, R, W, C]`, all or the last, those that are `live` `[N]`: `[n, C]`."""
    rows = x.reshape(-1, x.shape[3])
    chosen: Float = rows[live[-len(rows) :]]
    return chosen


def slot_tensors(quantised: QuantizedMotr) -> set[Key]:
    """Tensors of slots, which are somebody's or empty: all that is made of such inputs, but for detect slots alone."""
    found: set[Key] = set()
    waiting = [key for key, spec in quantised.specs.items() if spec.operator == "input" and spec.name in _OF_SLOTS]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting.extend(quantised.specs[key].readers)
    return {key for key in found if not key[1].endswith("/detect")}
