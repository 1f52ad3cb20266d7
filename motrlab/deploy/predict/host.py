"""Both graphs on a host that was described by micro-benchmarks (`describe_host.py`).

A kernel of ONNX Runtime takes a sum: seconds a call, for each multiply-accumulate, value, run of values that stand side
by side, byte that no cache holds. `features_of` counts them for a layer; the target has the seconds of each, found by
non-negative least squares from micro-benchmarks. What kind of kernel a layer runs (`kernel_of`) depends on its
operator, its types and how it broadcasts or moves values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from motrlab.deploy.kernel_layers import FLOAT_OPERATORS, INTEGER_OPERATORS
from motrlab.deploy.layers import Layer
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.predict.chip import GraphCost
from motrlab.deploy.predict.units import unit_by_operator
from motrlab.deploy.target import Figure, Target
from motrlab.errors import UserError

_VECTOR = 16  # sums of 32 bits in a vector register of 64 bytes
_ARITHMETIC = {"Add", "Div", "Max", "Mul", "QLinearAdd", "Sub"}


def kernel_of(layer: Layer) -> str:
    """The kind of kernel: operator, type of its values, and what else decides its speed."""
    first = (layer.inputs or layer.weights)[0]
    if layer.operator == "QLinearConv":
        if int(layer.attributes.get("group", 1)) > 1:
            return "QLinearConv depthwise"
        return f"QLinearConv {'1x1' if max(_kernel(layer)) == 1 else 'spatial'}"
    if layer.operator in _ARITHMETIC:
        return f"{layer.operator} {_broadcast(layer)[0]}"
    if layer.operator == "Transpose":
        return f"Transpose {first.dtype} {_movement(layer)}"
    return f"{layer.operator} {first.dtype}"


def features_of(layer: Layer, cache: float) -> dict[str, float]:
    """What a layer's kernel does; `cache`: bytes of the cache near the core."""
    if layer.operator == "Reshape":
        return {"call": 1.0}
    moved = sum(t.num_bytes for t in (*layer.inputs, *layer.weights, *layer.outputs))
    values = float(sum(t.numel for t in layer.outputs))
    found = {"call": 1.0, "values": values, "outside": max(0.0, moved - cache)}
    if layer.macs and layer.operator != "GridSample":
        return found | {"macs": float(layer.macs), **_product(layer)}
    if layer.operator.startswith("Reduce"):
        return found | {"values": float(layer.inputs[0].numel), "runs": values}
    return found | {"runs": _runs(layer)}


def _product(layer: Layer) -> dict[str, float]:
    """What a product does beside multiplying: values that it gathers from patches or rows, the places of its kernel,
    work in whole vectors and results in broken ones, batches of small products.
    """
    shape = layer.outputs[0].shape
    columns, rows = shape[-1], math.prod(shape[:-1])
    depth = round(layer.macs / rows / columns)
    full = -(-columns // _VECTOR) * _VECTOR
    found = {"gathered": float(rows * depth), "vector_macs": float(rows * full * (-(-depth // 4) * 4))}
    found["broken"] = float(rows * (columns % _VECTOR))
    if layer.operator == "QLinearConv":
        return found | {"taps": float(rows * math.prod(_kernel(layer)))}
    return found | {"batches": float(math.prod(shape[:-2]))}


def _kernel(layer: Layer) -> Sequence[int]:
    return next(w.shape[2:] for w in layer.weights if len(w.shape) == 4)


def _runs(layer: Layer) -> float:
    """How many pieces, each of values that stand side by side, a kernel goes through."""
    shape, operator = layer.outputs[0].shape, layer.operator
    if operator in _ARITHMETIC:
        return _broadcast(layer)[1]
    if operator == "Transpose":
        order = _order(layer)
        kept = len(order)
        while kept and order[kept - 1] == kept - 1:
            kept -= 1
        return float(math.prod(shape[:kept]))
    if operator in ("Concat", "Slice", "Split"):
        axis = int(layer.attributes.get("axis", 0)) if operator != "Slice" else _cut_axis(layer)
        pieces = len(layer.inputs) + len(layer.outputs) - 1
        return float(math.prod(shape[: axis % len(shape)]) * pieces)
    if operator == "Gather":
        return float(math.prod(layer.inputs[-1].shape))
    if operator == "GridSample":
        return float(shape[0] * math.prod(shape[2:]))
    return float(math.prod(shape[:-1])) if operator == "Expand" else 0.0


def _order(layer: Layer) -> Sequence[int]:
    return tuple(layer.attributes["perm"])


def _movement(layer: Layer) -> str:
    """`blocks`: the last axis stays, `words`: in pieces of 2, 4 or 8 bytes; `values`: one axis moves past others;
    `scattered`: several do.
    """
    order = list(_order(layer))
    if order[-1] == len(order) - 1:
        return "words" if layer.inputs[0].num_bytes / _runs(layer) in (2, 4, 8) else "blocks"
    rest = [[a for a in order if a != axis] for axis in order]
    return "values" if any(axes == sorted(axes) for axes in rest) else "scattered"


def _cut_axis(layer: Layer) -> int:
    pairs = zip(layer.inputs[0].shape, layer.outputs[0].shape, strict=True)
    return max((axis for axis, (x, y) in enumerate(pairs) if x != y), default=0)


def _broadcast(layer: Layer) -> tuple[str, float]:
    """How two operands meet: `same`, `scalar`, or in spans of a value with a row, or of rows; and how many spans.

    A scalar meets a tensor whose last axis is 1 value by value.
    """
    out = layer.outputs[0].shape
    operands = [t for t in (*layer.inputs, *layer.weights) if len(t.shape) or layer.operator != "QLinearAdd"][:2]
    if len(operands) < 2 or all(t.shape == out for t in operands):
        return "same", 1.0
    if min(t.numel for t in operands) == 1:
        return "scalar", float(math.prod(out)) if out and out[-1] == 1 else 1.0
    patterns = []
    for axis, size in enumerate(out):
        sizes = [t.shape[axis - len(out)] if len(out) - axis <= len(t.shape) else 1 for t in operands]
        patterns.append(tuple(s == size for s in sizes) if size > 1 else None)
    spans, last = math.prod(out), next(p for p in reversed(patterns) if p)
    for size, pattern in zip(reversed(out), reversed(patterns), strict=True):
        if pattern not in (None, last):
            break
        spans //= size
    return ("rows" if all(last) else "value and row"), float(spans)


def seconds_of(kernels: Mapping[str, Mapping[str, Figure]], layer: Layer, cache: float) -> dict[str, float]:
    """Feature → seconds of a layer. A kind that no micro-benchmark ran takes what another of its operator does.

    Raises UserError where there is none.
    """
    kind, found = kernel_of(layer), features_of(layer, cache)
    if kind not in kernels:
        alike = sorted(name for name in kernels if name.split()[0] == layer.operator)
        if not alike:
            raise UserError(f"target: kernels: nothing of {layer.operator}; describe the host again")
        kind = alike[0]
    return {name: figure.value * found.get(name, 0.0) for name, figure in kernels[kind].items()}


def cost_of_kernels(target: Target, layers: Sequence[Layer], between: float) -> GraphCost:
    """The layers of a kernel graph on a described host, one after the other on one core; `between`: bytes of
    memory that other graphs have used since its last call.
    """
    costs: list[LayerCost] = []
    spans: list[tuple[str, float, float, int]] = []
    cache, clock = target.on_chip.size.value, target.clock.value
    now = (target.graph_overhead.value + _cold(target, between) * len(layers)) * 1e3
    for index, layer in enumerate(layers):
        parts = seconds_of(target.kernels, layer, cache)
        call, outside = parts.pop("call", 0.0) + target.layer_overhead.value, parts.pop("outside", 0.0)
        work = sum(parts.values())
        unit = unit_of(layer)
        bounds = {"overhead": call, "off_chip": outside, unit: work}
        more = {
            "unit": unit, "dtype": layer.inputs[0].dtype if layer.inputs else "", "kernel": kernel_of(layer),
            "cycles_compute": work * clock, "cycles_on_chip": 0.0, "cycles_off_chip": outside * clock,
            "utilisation": _utilisation(target, layer, unit, call + outside + work),
        }  # fmt: skip
        latency_ms = (call + outside + work) * 1e3
        read = sum(t.num_bytes for t in (*layer.inputs, *layer.weights))
        written = sum(t.num_bytes for t in layer.outputs)
        costs.append(LayerCost(layer, latency_ms, read, written, max(bounds, key=lambda b: bounds[b]), more))
        spans.append((unit, now, now + latency_ms, index))
        now += latency_ms
    return GraphCost(costs, now, spans, 0, 0)


def _cold(target: Target, between: float) -> float:
    """Seconds for each layer, by the target's `cold`: 0 where it has none."""
    sizes = sorted(target.cold, key=float)
    seconds = [target.cold[size].value for size in sizes]
    return float(np.interp(between, [0.0, *map(float, sizes)], [0.0, *seconds]))


def _utilisation(target: Target, layer: Layer, unit: str, seconds: float) -> float:
    """Of the best that a micro-benchmark of this unit and type has reached, 0 to 1."""
    figures = target.operations.get(unit, {})
    dtype = (layer.inputs or layer.outputs)[0].dtype.removeprefix("u")
    if dtype not in figures:
        return 1.0
    return min(1.0, amount_of(layer, unit) / (figures[dtype].value * target.clock.value * seconds))


def amount_of(layer: Layer, unit: str) -> float:
    """Multiply-accumulates of a product, values of everything else."""
    return float(layer.macs if unit in ("matrix", "depthwise") else sum(t.numel for t in layer.outputs))


def unit_of(layer: Layer) -> str:
    """The lane of a kernel: what a chip would call it."""
    if layer.operator in INTEGER_OPERATORS | FLOAT_OPERATORS:
        return "depthwise" if int(layer.attributes.get("group", 1)) > 1 else "matrix"
    return unit_by_operator(layer.operator)
