"""Which unit of a target runs a layer, in which type, and how many cycles that takes.

Work is counted from the definition of an operator: multiply-accumulates of products, passes over the larger of input
and output of everything else, bytes of what only moves. What does not fill the lanes of a unit is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from motrlab.deploy.layers import MOVES, Layer, TensorInfo
from motrlab.deploy.target import LANES, Figure, Target

PRODUCTS = ("Conv", "MatMul")
TABLES = ("Cos", "Exp", "Log", "Sigmoid", "Sin", "Sqrt")  # functions of one value: a table, or pieces of one
# Passes over the values: statistics, then what is done with them; four neighbours of a sample. All others: one.
_PASSES = {"LayerNormalization": 7, "Softmax": 5, "GridSample": 4}
HOST_OPERATIONS = Figure(1.0, "assumed")  # a cycle of the target's clock, where it says nothing of its own host
_WIDTH = {"int8": 0, "int16": 1, "float16": 2, "float32": 3}
_LAYOUTS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1))  # channels to the end of `[1, C, …]` and back


@dataclass(frozen=True)
class Work:
    """Of a layer on a unit. `amount`: multiply-accumulates, elements or bytes; `cycles`: at `rate` (amount per cycle)
    and with what is lost in `lanes` (share that is filled, 0 to 1). `passes`: how often its values come and go.
    """

    unit: str
    dtype: str
    amount: float
    rate: float
    lanes: float
    passes: int = 1

    @property
    def cycles(self) -> float:
        return self.amount / self.rate / self.lanes


def as_deployed(target: Target, layers: Sequence[Layer]) -> list[Layer]:
    """The layers in the types that the target computes in.

    Tensors of a float graph become what its matrix unit has, int8 first. In a graph on grids what still is float
    (masks, constants of functions) becomes int16, and uint8 with a zero point is int8.
    """
    every = {t.dtype for layer in layers for t in (*layer.inputs, *layer.outputs)}
    known = target.operations.get("matrix", {})
    on_grids = bool(every & {"int8", "uint8"})
    dtype = "int16" if on_grids else next((t for t in ("int8", "float16", "float32") if t in known), "int8")

    def cast(tensors: Sequence[TensorInfo], kind: str) -> tuple[TensorInfo, ...]:
        types = {"float32": kind, "uint8": "int8"}
        free = {"float32"} if on_grids else set()
        return tuple(replace(t, dtype=types.get(t.dtype, t.dtype), inner=t.inner or t.dtype in free) for t in tensors)

    found = []
    for layer in layers:
        weights = cast(layer.weights[:1], dtype) if layer.operator in PRODUCTS else ()
        biases = cast(layer.weights[len(weights) :], "int32" if weights and dtype == "int8" else dtype)
        inputs, outputs = cast(layer.inputs, dtype), cast(layer.outputs, dtype)
        found.append(replace(layer, inputs=inputs, weights=(*weights, *biases), outputs=outputs))
    return found


def is_layout(layer: Layer) -> bool:
    """Whether a layer is only a matter of how a tensor is laid out: views, and channels moved to the end or back."""
    order = tuple(layer.attributes.get("perm", ()))
    return layer.view or (layer.operator == "Transpose" and order in _LAYOUTS and layer.inputs[0].shape[0] == 1)


def work_of(target: Target, layer: Layer) -> Work:
    """Where a layer runs and what it takes there; on the unit `host` where no unit has its type.

    A tensor without a grid of its own gets one from the toolchain: int16 where the unit has it, else int8.
    """
    unit, known = _unit(target, layer), target.operators.get(layer.operator)
    figures: Mapping[str, Figure] = target.operations.get(unit, {})
    taken = [t for t in figures if known is None or t in known.types]
    given = {t.dtype for t in layer.inputs if not t.inner} or {"int8"}
    free = {next((t for t in ("int16", "int8") if t in taken), "int16") for t in layer.inputs if t.inner}
    dtype = max(given | free, key=lambda t: _WIDTH.get(t, 0))
    if dtype not in taken:
        unit, figures = "host", target.operations.get("host", {})
    parts, batches = known.parts if known else (), math.prod(layer.outputs[0].shape[:-2])
    if parts and unit != "host":
        amount = float(layer.macs or _largest(layer))
        rate = 1 / sum(1 / _rate_of_part(target, part, dtype) for part in parts)
        columns = batches * layer.outputs[0].shape[-1] if layer.operator == "MatMul" else 1
        return Work(unit, dtype, amount, rate, 1.0, len(parts) * columns)
    rate = figures.get(dtype, next(iter(figures.values()), HOST_OPERATIONS)).value
    rate = known.rate.value if known and known.rate and unit != "host" else rate
    passes = batches if layer.operator == "MatMul" else 1
    return Work(unit, dtype, _amount(layer, unit), rate, _filled(target, layer, unit), passes)


def _rate_of_part(target: Target, name: str, dtype: str) -> float:
    """Values per cycle of an operator that another one is taken apart into."""
    known = target.operators.get(name)
    if known is not None and known.rate is not None:
        return known.rate.value
    figures = target.operations[known.unit if known is not None else unit_by_operator(name)]
    return figures.get(dtype, next(iter(figures.values()))).value


def _unit(target: Target, layer: Layer) -> str:
    known = target.operators.get(layer.operator)
    if layer.depthwise and "depthwise" in target.operations:
        return "depthwise"
    return known.unit if known is not None else unit_by_operator(layer.operator)


def unit_by_operator(operator: str) -> str:
    """What computes an operator where nobody says."""
    if operator in PRODUCTS:
        return "matrix"
    return "table" if operator in TABLES else "move" if operator in MOVES else "vector"


def _largest(layer: Layer) -> int:
    """Values of the larger side."""
    return max(sum(t.numel for t in side) for side in (layer.inputs, layer.outputs))


def _amount(layer: Layer, unit: str) -> float:
    if unit in ("matrix", "depthwise") or (unit == "host" and layer.operator in PRODUCTS):
        return max(layer.macs, 1)
    if unit == "move":
        return max(sum(t.num_bytes for t in side) for side in (layer.inputs, layer.outputs))
    return _largest(layer) * _PASSES.get(layer.operator, 1)


def _filled(target: Target, layer: Layer, unit: str) -> float:
    """The share of a product's lanes that its dimensions fill, 0 to 1, in the best of the unit's ways."""
    ways = [lanes for name, lanes in target.lanes.items() if name.partition(":")[0] == unit]
    if not ways or layer.operator not in PRODUCTS:
        return 1.0
    sizes = _dimensions(layer)
    return max(
        math.prod(sizes[name] / (math.ceil(sizes[name] / f.value) * f.value) for name, f in lanes.items())
        for lanes in ways
    )


def _dimensions(layer: Layer) -> dict[str, int]:
    shape = layer.outputs[0].shape
    if layer.operator == "Conv":
        groups = int(layer.attributes.get("group", 1))
        depth = layer.inputs[0].shape[1] // groups
        taps = math.prod(layer.attributes["kernel_shape"])
        sizes = (shape[1], depth, shape[3], shape[2], taps)
    else:  # a matrix product: a convolution of one place over a row of tokens
        sizes = (shape[-1], layer.inputs[0].shape[-1], shape[-2], 1, 1)
    return dict(zip(LANES, sizes, strict=True))
