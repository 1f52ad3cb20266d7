"""One grid changed in a calibrated model: what its tensors lose, and what the outputs do, on a few frames.

Every other tensor stays as it is. The outputs are compared with those of the float model on the same inputs (`Probe`),
in fake-quant, whose integers are those of the deployed network for int8. The model is left as it was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from motrlab.config.scheme import OBSERVERS, PRECISIONS
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import LayerRow, Sums, layer_row, measure
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.taps import recorded, slot_tensors, tap_point
from motrlab.quantization.observers import BINS, FROM_HISTOGRAM
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key, TensorSpec, grid_ends
from motrlab.tracking.step import to_numpy

MAX_VALUES = 200_000  # of a tensor that are kept, evenly spread
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Multiples of `scale` from `low` to `high`; None instead of a grid is float."""

    scale: float
    low: int
    high: int

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest value on it."""
        return self.low * self.scale, self.high * self.scale

    def put(self, values: Float32) -> Float32:
        """`values` rounded to it."""
        return (np.clip(np.rint(values / self.scale), self.low, self.high) * self.scale).astype(np.float32)

    def clipped_share(self, values: Float32) -> float:
        """How many of `values` lie outside (0 to 1)."""
        steps = values / self.scale
        return float(np.mean((steps < self.low - 0.5) | (steps > self.high + 0.5)))

    def sqnr_db(self, values: Float32) -> float:
        """Signal to rounding noise; infinite without any, NaN without a signal."""
        signal, noise = float(np.sum(np.square(values))), float(np.sum(np.square(self.put(values) - values)))
        return 10 * math.log10(signal / noise) if signal and noise else math.inf if signal else math.nan


@dataclass(frozen=True)
class Observed:
    """What one tensor is on the frames: `values` `[n]`, its float values, and `row`, how fake-quant differs."""

    row: LayerRow
    values: Float32


def observe(quantised: QuantizedMotr, probe: Probe) -> dict[Key, Observed]:
    """Every tensor of both graphs that is on a grid, in graph order; empty track slots do not count."""
    slots, found, kept = slot_tensors(quantised), dict[Key, Sums](), dict[Key, list[Float32]]()
    for graph, inputs in probe.inputs():
        floating = recorded(quantised, graph, inputs, "float")
        fake = recorded(quantised, graph, inputs, "evaluate")
        mask = to_numpy(inputs[2]).reshape(len(inputs[0]), -1)
        live = np.concatenate((np.ones((len(mask), quantised.config.num_detect)), mask), 1) > 0
        for name in floating:
            key, sides = (graph, name), [floating[name], fake[name]]
            if not quantised.specs[graph, name.partition("@")[0]].quantised:
                continue
            if (graph, name.partition("@")[0]) in slots:
                rows = [x.reshape(len(mask), -1, x.shape[-1]) for x in sides]
                sides = [x[live[:, -x.shape[1] :]] for x in rows]
            if sides[0].size:
                found[key] = measure(tap_point(quantised, *key), sides[0], sides[1], sides[1], before=found.get(key))
                kept.setdefault(key, []).append(sides[0].ravel())
    quantised.mode("evaluate")
    return {key: Observed(layer_row(tap_point(quantised, *key), sums), _some(kept[key])) for key, sums in found.items()}


def _some(parts: Sequence[Float32]) -> Float32:
    values = np.concatenate(parts)
    return np.ascontiguousarray(values[:: -(-len(values) // MAX_VALUES)])


def grid_of(quantised: QuantizedMotr, key: Key) -> Grid:
    """The grid that a tensor has now."""
    spec = spec_of(quantised, key)
    return Grid(float(quantised.ranges.scale[spec.group]), spec.low, spec.high)


def spec_of(quantised: QuantizedMotr, key: Key) -> TensorSpec:
    """Raises UserError for a tensor that the model does not have."""
    found = quantised.specs.get((key[0], key[1].partition("@")[0]))
    if found is None:
        raise UserError(f"no tensor {key[1]!r} in {key[0]!r}; see the listing of calibration")
    return found


def changed_grid(
    quantised: QuantizedMotr,
    key: Key,
    values: Mapping[Key, Float32],
    *,
    precision: str = "int8",
    observer: str = "",
    reach: float | None = None,
    percentile: float = 99.99,
) -> Grid | None:
    """The grid of a tensor under another rule; None is float.

    `reach`: the largest magnitude on it. Without, what `observer` chooses from the values of all tensors that share the
    grid; without either, as it is now. (Moving averages need the frames apart: without them it is the present range.)
    Raises UserError for unknown words, for a grid that is fixed, and for a reach that is not positive.
    """
    spec = spec_of(quantised, key)
    if precision not in PRECISIONS or observer not in ("", *OBSERVERS):
        known = ", ".join((*PRECISIONS, *OBSERVERS))
        raise UserError(f"quantisation: no rule {precision!r} with observer {observer!r}; there are {known}")
    if precision == "float":
        return None
    if spec.fixed is not None and (observer or reach is not None or precision != "int8"):
        raise UserError(f"{spec.graph} {spec.name}: its grid is fixed by the scheme; it can be left in float only")
    grid = grid_of(quantised, key)
    low, high = grid.low, grid.high
    if precision != spec.rule.precision:
        low, high = grid_ends(precision, quantised.scheme.levels, unsigned=low == 0)
    if reach is None:
        own = quantised.specs.items()
        shared = [values[k] for k, s in own if s.group == spec.group and k in values] or [values[key]]
        reach = _chosen(np.concatenate(shared), observer, high, percentile)
        if not reach:
            return Grid(grid.scale * grid.high / high if high != grid.high else grid.scale, low, high)
    if not 0 < reach < math.inf:
        raise UserError(f"{spec.graph} {spec.name}: the range must be a positive number, not {reach}")
    return Grid(reach / high, low, high)


def _chosen(values: Float32, observer: str, levels: int, percentile: float) -> float:
    """The reach that an observer chooses; 0 where it cannot say."""
    magnitude = torch.from_numpy(values).abs()
    limit = float(magnitude.max())
    if observer == "min_max" or not limit:
        return limit
    if observer not in FROM_HISTOGRAM:
        return 0.0
    return FROM_HISTOGRAM[observer](torch.histc(magnitude, BINS, 0, limit), limit, levels, percentile)


@contextmanager
def with_grid(quantised: QuantizedMotr, key: Key, grid: Grid | None) -> Iterator[None]:
    """Inside, the tensor and all that share its grid are on `grid`, or in float; the mode is `evaluate`."""
    spec = spec_of(quantised, key)
    group = {k: s for k, s in quantised.specs.items() if s.group == spec.group}
    scale = quantised.ranges.scale.clone()
    on = frozenset(k for k, s in quantised.specs.items() if s.quantised and (grid is not None or k not in group))
    try:
        if grid is not None:
            quantised.specs.update({k: replace(s, low=grid.low, high=grid.high) for k, s in group.items()})
            with torch.no_grad():
                quantised.ranges.scale[spec.group] = grid.scale
        quantised.mode("evaluate")
        with quantised.net.hooked(active=on):
            yield
    finally:
        quantised.specs.update(group)
        with torch.no_grad():
            quantised.ranges.scale.copy_(scale)
        quantised.mode("evaluate")


def output_error(quantised: QuantizedMotr, probe: Probe, key: Key, grid: Grid | None) -> OutputError:
    """Error of the outputs with that grid. Raises UserError where an accumulator would overflow."""
    with with_grid(quantised, key, grid):
        return probe.output_error(quantised.graphs)
