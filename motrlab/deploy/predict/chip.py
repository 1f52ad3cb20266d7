"""Both graphs on a chip that is described as data: cycles of every layer, and what a frame is made of.

How a layer takes its time: its unit, the on-chip memory and the memory outside work at once (tiles are double
buffered), so the slowest of the three decides; the target's overhead of a layer comes on top. Where the target says how
large a block of a result is, the first block is read, and the last one written, while nothing else works. Element-wise
work that alone reads a product, or what is fused with it, and keeps the number of values runs while the product leaves
its unit.
Of such a chain each unit adds up its own cycles, the slowest unit decides, and what lies between goes to no memory; a
layer's row has the time that it adds to its chain. (Assumed: a simple form of what compilers of such chips do.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.predict.memory import Plan, Traffic
from motrlab.deploy.predict.units import PRODUCTS, TABLES, Work, is_layout, work_of
from motrlab.deploy.target import Target

_ELEMENTWISE = {"Abs", "Add", "Clip", "Div", "Max", "Mul", "Relu", "Round", "Sub", *TABLES}


@dataclass(frozen=True)
class GraphCost:
    """A graph's layers with their costs. `spans`: lane, first and last millisecond from the graph's start, index."""

    layers: list[LayerCost]
    latency_ms: float
    spans: list[tuple[str, float, float, int]]
    load_bytes: int
    store_bytes: int


@dataclass
class _Chain:
    """A product and what is fused with it, so far: cycles by unit, of both memories, of reading scales and biases
    (`channels`), and of the latency of all passes.
    """

    units: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    on_chip: float = 0.0
    off_chip: float = 0.0
    channels: float = 0.0
    waited: float = 0.0  # share of all but the slowest that nothing overlaps
    passes: float = 0.0

    @property
    def cycles(self) -> float:
        stages = max(self.units.values()), self.on_chip, self.channels
        near = max(stages) + self.waited * (sum(stages) - max(stages)) + self.passes
        return max(near, self.off_chip)

    @property
    def bound(self) -> str:
        unit = max(self.units, key=lambda name: self.units[name])
        bounds = {unit: self.units[unit], "on_chip": self.on_chip, "off_chip": self.off_chip}
        return max(bounds, key=lambda name: bounds[name])


def cost_of_graph(target: Target, layers: Sequence[Layer]) -> GraphCost:
    """The layers of a portable graph on a chip, in its types (`as_deployed`)."""
    works = {index: work_of(target, layer) for index, layer in enumerate(layers) if not is_layout(layer)}
    fused = _fused(layers, works)
    host = [index for index, work in works.items() if work.unit == "host"]
    plan = Plan(layers, target.on_chip.size.value, host, inner={name for _, name in fused.values()})
    chains = {index: _Chain() for index in works if index not in fused}
    costs: list[LayerCost] = []
    spans: list[tuple[str, float, float, int]] = []
    start = now = target.graph_overhead.value * 1e3
    load = store = 0
    for index, layer in enumerate(layers):
        if index not in works:
            costs.append(LayerCost(layer, 0.0, 0, 0, "view", {"unit": "", "kept_on_chip": True}))
            continue
        leader = fused[index][0] if index in fused else index
        traffic = plan.traffic(index)
        cost = _cost(target, layer, works[index], traffic, chains[leader], fused=index in fused)
        more: dict[str, Any] = {"kept_on_chip": all(map(plan.near, layer.outputs))}
        more |= {"chain": leader, "fused_into": layers[leader].name if index in fused else ""}
        costs.append(replace(cost, more={**cost.more, **more}))
        start = start if index in fused else now
        now += cost.latency_ms
        spans += _spans(target, works[index], traffic, index, start, now)
        load, store = load + traffic.load, store + traffic.store
    return GraphCost(costs, now, spans, load, store)


def _fused(layers: Sequence[Layer], works: Mapping[int, Work]) -> dict[int, tuple[int, str]]:
    """Fused layer → the product that begins its chain, and the tensor that links it to the chain.

    Where both operands come from products, the later one; that goes behind what else its chain reads.
    """
    makers = {t.name: index for index, layer in enumerate(layers) for t in layer.outputs}
    readers = Counter(t.name for layer in layers for t in layer.inputs)
    fused: dict[int, tuple[int, str]] = {}
    for index, layer in enumerate(layers):
        if layer.operator not in _ELEMENTWISE or works[index].unit == "host":
            continue
        for tensor in sorted(layer.inputs, key=lambda t: -makers.get(t.name, -1)):
            maker = makers.get(tensor.name, -1)
            leader = fused.get(maker, (maker, ""))[0]
            alone = readers[tensor.name] == 1 and not tensor.end and tensor.numel == layer.outputs[0].numel
            if leader >= 0 and alone and layers[leader].operator in PRODUCTS and works[leader].unit != "host":
                fused[index] = (leader, tensor.name)
                break
    return fused


def _cost(target: Target, layer: Layer, work: Work, traffic: Traffic, chain: _Chain, *, fused: bool) -> LayerCost:
    """A layer's row; what it takes is added to its chain."""
    clock, before = target.clock.value, chain.cycles if fused else 0.0
    on_chip = traffic.on_chip / target.on_chip.bandwidth.value * clock
    outside = traffic.load + traffic.store
    wasted = sum(_wasted_bytes(t, target) for t in (*layer.inputs, *layer.outputs) if t.end)
    off_chip = (outside + wasted) / target.off_chip.bandwidth.value * clock
    off_chip += bool(outside) * target.off_chip.latency.value * clock
    if target.block is not None and not fused and work.unit != "host":
        chain.channels = _channel_cycles(target, layer)
        chain.waited = min(1.0, target.block.value / layer.outputs[0].numel)
        chain.passes = work.passes * 2 * target.on_chip.latency.value * clock
    chain.units[work.unit] += work.cycles
    chain.on_chip += on_chip
    chain.off_chip += off_chip
    cycles = chain.cycles - before
    overhead = 0.0 if fused else target.layer_overhead.value
    latency = cycles / clock + overhead
    bound = "fused" if fused and not cycles else "overhead" if overhead > cycles / clock else chain.bound
    more = {
        "unit": work.unit, "dtype": work.dtype, "cycles_compute": work.cycles, "cycles_on_chip": on_chip,
        "cycles_off_chip": off_chip, "load_bytes": traffic.load, "store_bytes": traffic.store,
        "on_chip_bytes": traffic.on_chip, "tiles": traffic.tiles, "cycles_channels": 0.0 if fused else chain.channels,
        "cycles_passes": 0.0 if fused else chain.passes, "waited": chain.waited,
        "utilisation": min(1.0, work.amount / work.rate / (latency * clock)) if latency else 1.0,
    }  # fmt: skip
    read = sum(t.num_bytes for t in (*layer.inputs, *layer.weights))
    written = sum(t.num_bytes for t in layer.outputs)
    return LayerCost(layer, latency * 1e3, read, written, "host" if work.unit == "host" else bound, more)


def _channel_cycles(target: Target, layer: Layer) -> float:
    """Of reading scales and biases of a product with weights."""
    if target.channel_load is None or layer.operator not in PRODUCTS or not layer.weights:
        return 0.0
    return target.channel_load.value * target.clock.value * layer.weights[0].shape[0]


def _wasted_bytes(tensor: TensorInfo, target: Target) -> float:
    """What moves in vain with an input or output of a graph `[1, C, R, W]`: pixel by pixel, C values stand together."""
    burst, grain = target.off_chip.burst, target.off_chip.grain
    if burst is None or len(tensor.shape) < 4:
        return 0.0
    run = max(tensor.shape[1] * tensor.num_bytes / tensor.numel, grain.value if grain else 0.0)
    return tensor.num_bytes * (burst.value / min(run, burst.value) - 1)


def _spans(
    target: Target, work: Work, traffic: Traffic, index: int, start: float, end: float
) -> list[tuple[str, float, float, int]]:
    """When each lane works for a layer, ms; a fused one works while its product does."""
    bandwidth = target.off_chip.bandwidth.value
    busy = {work.unit: work.cycles / target.clock.value, "load": traffic.load / bandwidth}
    spans = [(lane, start, start + seconds * 1e3, index) for lane, seconds in busy.items() if seconds]
    if traffic.store:
        spans.append(("store", max(start, end - traffic.store / bandwidth * 1e3), end, index))
    return spans
