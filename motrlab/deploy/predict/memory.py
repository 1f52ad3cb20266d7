"""Which tensors stay in a target's on-chip memory, in which tiles layers work, and what goes to and from outside.

What a compiler would do, in a simple form, all of it assumed:

- `KEPT` of the on-chip memory holds tensors from the layer that makes them to the last that reads them. Smaller ones
  go first: a tensor stays if it fits beside all smaller ones that live at the same time, whether those stay or not. So
  more memory never means more traffic. Inputs and outputs of a graph, and what its host reads, are outside.
- The rest of it is for the tiles in work. A tensor that does not stay, and that only the next layer reads, is passed on
  in stripes of rows if the rows that this layer's kernel needs, twice, fit there with its weights and with all smaller
  stripes of the same chain.
- Weights are read from outside once in every call. A layer whose operands do not fit works in tiles: either its weights
  stay and rows pass by (rows that two tiles need are read twice), or one of both is read again for every tile of the
  other, whichever is less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.predict.units import is_layout

KEPT = 0.75
_ROW_LOCAL = {"Conv", "Add", "Mul", "Sub", "Relu", "Clip", "Sigmoid"}  # a row of the result needs a few rows


@dataclass(frozen=True)
class Traffic:
    """Of a layer, bytes: `load` and `store` from and to outside, `on_chip` through the on-chip memory."""

    load: int
    store: int
    on_chip: int
    tiles: int


@dataclass
class Life:
    """A tensor from its first layer to its last. `outside`: an input or output of the graph, or read by its host."""

    tensor: TensorInfo
    first: int
    last: int
    outside: bool
    readers: list[int] = field(default_factory=list)


class Plan:
    """Tensors of a graph in a memory of `size` bytes; `host`: the layers that run outside; `inner`: the tensors that
    are in no memory, because what reads them is fused with what makes them.
    """

    def __init__(
        self, layers: Sequence[Layer], size: float, host: Collection[int] = (), inner: Collection[str] = ()
    ) -> None:
        self.layers, self.working = layers, size * (1 - KEPT)
        self.host, self.inner = frozenset(host), frozenset(inner)
        self.roots: dict[str, str] = {}
        self.lives = self._find_lives()
        self.kept = self._keep(size * KEPT)
        self.streamed = self._stream()

    def root(self, tensor: TensorInfo) -> str:
        """A view, or another layout, is the tensor that it is of."""
        return self.roots.get(tensor.name, tensor.name)

    def near(self, tensor: TensorInfo) -> bool:
        return any(self.root(tensor) in names for names in (self.inner, self.kept, self.streamed))

    def _find_lives(self) -> dict[str, Life]:
        lives: dict[str, Life] = {}
        for index, layer in enumerate(self.layers):
            for tensor in layer.inputs:
                life = lives.setdefault(self.root(tensor), Life(tensor, 0, index, outside=True))
                life.last = index
                life.outside |= tensor.end or index in self.host
                if not is_layout(layer):
                    life.readers.append(index)
            if is_layout(layer) and layer.inputs:
                self.roots |= {t.name: self.root(layer.inputs[0]) for t in layer.outputs}
                lives[self.root(layer.inputs[0])].outside |= any(t.end for t in layer.outputs)
                continue
            for tensor in layer.outputs:
                lives[tensor.name] = Life(tensor, index, index, outside=tensor.end or index in self.host)
        return lives

    def _keep(self, size: float) -> set[str]:
        kept, profile = set(), [0] * len(self.layers)
        candidates = [(name, life) for name, life in self.lives.items() if not life.outside | (name in self.inner)]
        for name, life in sorted(candidates, key=lambda x: (x[1].tensor.num_bytes, x[1].first)):
            span = range(life.first, life.last + 1)
            for index in span:
                profile[index] += life.tensor.num_bytes
            if max(profile[index] for index in span) <= size:
                kept.add(name)
        return kept

    def _stream(self) -> set[str]:
        needs: dict[str, int] = {}
        chains: dict[str, int] = {}  # tensor → where its chain begins
        starts: dict[int, int] = {}  # layer → where the chain that ends in it begins
        for name, life in self.lives.items():
            if life.outside or name in self.inner or len(life.readers) != 1:
                continue
            maker, reader = self.layers[life.first], self.layers[life.readers[0]]
            between = self.layers[life.first + 1 : life.readers[0]]
            if {maker.operator, reader.operator} <= _ROW_LOCAL and all(map(is_layout, between)):
                chains[name] = starts[life.readers[0]] = starts.get(life.first, life.first)
                weights = sum(w.num_bytes for w in reader.weights)
                needs[name] = 2 * _kernel_rows(reader) * _row_bytes(life.tensor) + weights
        used: dict[int, int] = defaultdict(int)
        streamed = set()
        for name in sorted(needs, key=lambda n: needs[n]):
            used[chains[name]] += needs[name]
            if used[chains[name]] <= self.working and name not in self.kept:
                streamed.add(name)
        return streamed

    def traffic(self, index: int) -> Traffic:
        layer = self.layers[index]
        if index in self.host:
            load, store = (sum(t.num_bytes for t in side) for side in (layer.inputs, layer.outputs))
            return Traffic(load, store, on_chip=0, tiles=1)
        weights = sum(w.num_bytes for w in layer.weights)
        sides = (*layer.inputs, *layer.weights, *layer.outputs)
        on_chip = sum(t.num_bytes for t in sides if t.name not in self.inner)
        outer = sum(t.num_bytes for t in layer.inputs if not self.near(t))
        store = sum(t.num_bytes for t in layer.outputs if not self.near(t))
        half = max(self.working / 2, 1)
        of_weights, of_rows = max(1, math.ceil(weights / half)), max(1, math.ceil((outer + store) / half))
        halo = (of_rows - 1) * _halo_bytes(layer) if outer else 0
        if of_weights == 1:
            load, tiles = weights + outer + halo, of_rows
        else:
            load = min(weights + outer * of_weights, weights * of_rows + outer + halo)
            tiles = of_weights * of_rows
        return Traffic(load, store, on_chip, tiles)


def _kernel_rows(layer: Layer) -> int:
    rows = layer.attributes.get("kernel_shape", (1,))[0]
    return int(rows) + int(layer.attributes.get("strides", (1,))[0]) - 1


def _row_bytes(tensor: TensorInfo) -> int:
    return tensor.num_bytes // tensor.shape[2] if len(tensor.shape) == 4 else tensor.num_bytes


def _halo_bytes(layer: Layer) -> int:
    """Rows of the input that two neighbouring tiles need."""
    if layer.operator != "Conv":
        return 0
    rows, stride = layer.attributes["kernel_shape"][0], layer.attributes.get("strides", (1,))[0]
    return int(max(0, rows - stride)) * _row_bytes(layer.inputs[0])


def memory_split(layers: Sequence[Layer]) -> dict[str, Any]:
    """Bytes of a graph: inputs, outputs, weights, what lives between at most, their sum; the curve of what lives, layer
    by layer, weights apart, its peak and where.
    """
    plan = Plan(layers, 0)
    made = {t.name for layer in layers for t in layer.outputs}
    inputs = [life for name, life in plan.lives.items() if name not in made]
    outputs = [life for name, life in plan.lives.items() if name in made and life.outside]
    inner = [life for life in plan.lives.values() if not life.outside]
    weights = {w.name: w.num_bytes for layer in layers for w in layer.weights}
    curves = [_curve(lives, len(layers)) for lives in (inner, [*inputs, *outputs, *inner])]
    peak = max(range(len(layers)), key=lambda i: curves[1][i])
    parts = {
        "inputs_bytes": sum(life.tensor.num_bytes for life in inputs),
        "outputs_bytes": sum(life.tensor.num_bytes for life in outputs),
        "weights_bytes": sum(weights.values()),
        "intermediate_bytes": max(curves[0]),
    }
    return {
        **parts, "total_bytes": sum(parts.values()), "peak_bytes": curves[1][peak], "peak_layer": layers[peak].name,
        "curve": [[index, live] for index, live in enumerate(curves[1])],
    }  # fmt: skip


def used_bytes(split: Mapping[str, Any]) -> float:
    """Memory that a call goes through, by its graph's `memory_split`: weights, and the most that lives beside them."""
    return float(split["weights_bytes"] + split["peak_bytes"])


def _curve(lives: Sequence[Life], length: int) -> list[int]:
    return [sum(x.tensor.num_bytes for x in lives if x.first <= i <= x.last) for i in range(length)]
