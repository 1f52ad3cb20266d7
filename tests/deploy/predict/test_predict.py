"""A chip's prediction: bounds, clocks, memory, lanes, and that every layer is there."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from motrlab.deploy.layers import Layer, TensorInfo, layers_of_model, read_onnx
from motrlab.deploy.performance import LayerCost, Performance
from motrlab.deploy.predict.chip import cost_of_graph
from motrlab.deploy.predict.frame import LANES, figures_of, predict
from motrlab.deploy.predict.memory import Plan, memory_split
from motrlab.deploy.predict.units import as_deployed, is_layout, work_of
from motrlab.deploy.source import source_of
from motrlab.deploy.target import Figure, Memory, Operator, Target, load_target, target_names
from tests.deploy.conftest import FixedPoint

CHIPS = [name for name in target_names() if load_target(name).kind == "chip"]
CONTRACT = {
    "graph", "name", "module", "operator", "macs", "bytes_read", "bytes_written", "latency_ms", "bound",
}  # fmt: skip


def figure(value: float) -> Figure:
    return Figure(float(value), "assumed")


def chip(**changes: Any) -> Target:
    """A small chip of our own; every figure is made up."""
    both = {"int8": figure(32), "int16": figure(16)}
    values: dict[str, Any] = {
        "schema": 1, "name": "toy", "title": "", "kind": "chip", "toolchain": "", "clock": figure(1e9),
        "cores": figure(1), "layer_overhead": figure(0), "graph_overhead": figure(0), "operators": {}, "sources": {},
        "operations": {
            "matrix": {"int8": figure(256), "int16": figure(64)}, "depthwise": both, "vector": both, "table": both,
            "move": both,
        },
        "on_chip": Memory(figure(1 << 18), figure(64e9), figure(0)),
        "off_chip": Memory(figure(1 << 32), figure(8e9), figure(1e-7)),
    }  # fmt: skip
    return Target(**(values | changes))


@pytest.fixture(scope="module")
def graphs(fixed_point: FixedPoint) -> dict[str, list[Layer]]:
    return {name: layers_of_model(read_onnx(fixed_point.artifact / f"{name}.onnx"), name) for name in ("base", "qim")}


def by_chain(layers: Iterable[LayerCost]) -> list[list[LayerCost]]:
    """Layers that run as one, of graphs one after the other."""
    found: dict[Any, list[LayerCost]] = {}
    for cost in layers:
        if cost.bound != "view":
            found.setdefault((cost.layer.graph, cost.more["chain"]), []).append(cost)
    return list(found.values())


@pytest.mark.parametrize("name", ["toy", *CHIPS])
def test_a_layer_is_never_faster_than_what_bounds_it(name: str, graphs: dict[str, list[Layer]]) -> None:
    """What is fused counts together; no frame is faster than all layers."""
    target = chip() if name == "toy" else load_target(name)
    found = predict(target, graphs)
    for costs in by_chain(found.layers):
        seconds = sum(cost.latency_ms for cost in costs) / 1e3
        units = Counter[str]()
        for cost in costs:
            units[cost.more["unit"]] += cost.more["cycles_compute"]
        memories = [sum(cost.more[f"cycles_{level}"] for cost in costs) for level in ("on_chip", "off_chip")]
        assert seconds >= max(*units.values(), *memories) / target.clock.value * (1 - 1e-9), costs[0].layer.name
        assert all(0 < cost.more["utilisation"] <= 1 for cost in costs)
    for graph, told in found.graphs.items():
        own = sum(cost.latency_ms for cost in found.layers if cost.layer.graph == graph)
        assert told["latency_ms"] == pytest.approx(own + target.graph_overhead.value * 1e3)
    assert found.frame["latency_ms"] == pytest.approx(
        sum(graph["latency_ms"] for graph in found.graphs.values()) + found.frame["host_ms"]
    )


@pytest.mark.parametrize("name", CHIPS)
def test_what_bounds_a_graph_adds_up_to_its_latency(name: str, graphs: dict[str, list[Layer]]) -> None:
    target = load_target(name)
    for graph in predict(target, graphs).graphs.values():
        assert sum(graph["bound_ms"].values()) == pytest.approx(graph["latency_ms"])
        assert graph["bound_ms"]["call"] == pytest.approx(target.graph_overhead.value * 1e3)


def test_double_clock_halves_what_computing_bounds(graphs: dict[str, list[Layer]]) -> None:
    memory = Memory(figure(1 << 40), figure(1e18), figure(0))  # bounds nothing
    slow, fast = (predict(chip(clock=figure(c), on_chip=memory, off_chip=memory), graphs) for c in (1e9, 2e9))
    assert fast.graphs["base"]["latency_ms"] == pytest.approx(slow.graphs["base"]["latency_ms"] / 2, rel=1e-6)
    bound = chip(off_chip=Memory(figure(1 << 32), figure(1e6), figure(0)))  # by memory: the clock does nothing
    still = [predict(replace(bound, clock=figure(c)), graphs).graphs["qim"]["latency_ms"] for c in (1e9, 2e9)]
    assert still[1] > 0.9 * still[0]


def test_more_memory_on_the_chip_never_means_more_traffic(graphs: dict[str, list[Layer]]) -> None:
    sizes = [0, 500, 3000, 10_000, 33_000, 65_536, 100_000, 150_000, 262_144, 500_000, 1 << 20, 1 << 24]
    traffic = []
    for size in sizes:
        target = chip(on_chip=Memory(figure(size), figure(64e9), figure(0)))
        traffic.append(predict(target, graphs).sections["traffic"]["off_chip_bytes_per_frame"])
    assert all(later <= earlier for earlier, later in pairwise(traffic)), traffic
    assert traffic[0] > 3 * traffic[-1]
    weights = sum(split["weights_bytes"] for split in predict(chip(), graphs).sections["memory"].values())
    assert traffic[-1] >= 0.9 * weights, "weights are read once in every frame"


def test_what_is_kept_fits(graphs: dict[str, list[Layer]]) -> None:
    layers = as_deployed(chip(), graphs["base"])
    plan = Plan(layers, 120_000)
    assert plan.kept
    for index in range(len(layers)):
        alive = (life for name, life in plan.lives.items() if name in plan.kept and life.first <= index <= life.last)
        assert sum(life.tensor.num_bytes for life in alive) <= 0.75 * 120_000


def test_memory_split_adds_up(graphs: dict[str, list[Layer]]) -> None:
    for layers in graphs.values():
        split = memory_split(as_deployed(chip(), layers))
        parts = ("inputs_bytes", "outputs_bytes", "weights_bytes", "intermediate_bytes")
        assert split["total_bytes"] == sum(split[part] for part in parts)
        curve = split["curve"]
        assert [index for index, _ in curve] == list(range(len(layers)))
        assert split["peak_bytes"] == max(live for _, live in curve)
        assert split["peak_layer"] == layers[[live for _, live in curve].index(split["peak_bytes"])].name
        assert split["peak_bytes"] >= split["intermediate_bytes"] > 0
    ends = {t.name: t.num_bytes for layer in as_deployed(chip(), graphs["qim"]) for t in layer.outputs if t.end}
    assert memory_split(as_deployed(chip(), graphs["qim"]))["outputs_bytes"] == sum(ends.values()) > 0


def test_all_layers_of_both_graphs_stand_there_once(graphs: dict[str, list[Layer]]) -> None:
    told = [(cost.layer.graph, cost.layer.name) for cost in predict(chip(), graphs).layers]
    assert told == [(name, layer.name) for name, layers in graphs.items() for layer in layers]
    assert len(set(told)) == len(told)


def test_json_of_the_contract(graphs: dict[str, list[Layer]]) -> None:
    found = predict(chip(host_work=figure(2e-3)), graphs, None)
    values = json.loads(json.dumps(found.json()))
    assert values["kind"] == "predicted"
    assert {"latency_ms", "fps"} <= values["frame"].keys()
    assert values["graphs"].keys() == {"base", "qim"}
    assert all(row.keys() >= CONTRACT for row in values["layers"])
    assert {"memory", "timeline", "roofline", "traffic", "advice", "assumptions", "machine"} <= values.keys()
    assert values["frame"]["host_ms"] == pytest.approx(2.0)
    apart = predict(chip(), graphs, {"before": 0.5, "between": 0.25}).frame
    assert (apart["preprocess_ms"], apart["host_ms"]) == (0.5, 0.25)  # as where they were measured
    assert values["frame"]["fps"] == pytest.approx(1e3 / values["frame"]["latency_ms"])
    told = {
        "clock: 1 GHz",
        "on_chip.size: 0.26214 MB",
        "off_chip.size: 4295 MB",
        "off_chip.latency: 100 ns",
        "operations.table.int16: 16 a cycle",
    }
    assert {f"{line}, assumed" for line in told | {"host_work: 2 ms"}} <= set(values["assumptions"])


def test_timeline_is_one_frame(graphs: dict[str, list[Layer]]) -> None:
    found = predict(chip(), graphs, {"before": 0.5, "between": 0.25})
    timeline = found.sections["timeline"]
    assert tuple(timeline["lanes"]) == LANES
    assert {lane for lane, *_ in timeline["spans"]} <= set(LANES)
    for lane, start, end, index in timeline["spans"]:
        assert 0 <= start <= end <= found.frame["latency_ms"] + 1e-9, (lane, index)
        assert -1 <= index < len(found.layers)
    hosts = [(start, end) for lane, start, end, index in timeline["spans"] if index == -1]
    assert hosts[0] == (0.0, 0.5)
    assert hosts[1][1] - hosts[1][0] == pytest.approx(0.25)


def test_a_type_that_no_unit_has_goes_to_the_host(graphs: dict[str, list[Layer]]) -> None:
    only = {unit: {"int8": figure(32)} for unit in ("matrix", "depthwise", "vector", "table", "move")}
    found = predict(chip(operations=only), graphs)
    fallen = [cost for cost in found.layers if cost.bound == "host"]
    assert fallen
    for cost in found.layers:
        if cost.bound != "view":
            wide = any(t.dtype == "int16" and not t.inner for t in cost.layer.inputs)
            assert (cost.bound == "host") == (cost.more["unit"] == "host") == wide, cost.layer.name
    (first, *_) = [entry for entry in found.sections["advice"] if entry["severity"] == "error"]
    assert first["file"].startswith("motrlab/model/")
    assert first["line"] > 0
    assert re.match(r"no unit of toy runs \w+ in int16: it goes to the host and takes [\d.]+% of both", first["text"])
    never = chip(
        operators={"Softmax": Operator("host", (), "assumed"), "Add": Operator("vector", ("int8",), "assumed")}
    )
    texts = "\n".join(entry["text"] for entry in predict(never, graphs).sections["advice"])
    assert "no unit of toy runs Softmax, in any type: it goes" in texts
    assert "no unit of toy runs Add in int16, only in int8: it goes" in texts
    assert not any(cost.bound == "host" for cost in predict(chip(), graphs).layers)


def test_layers_that_are_too_small_are_one_line(graphs: dict[str, list[Layer]]) -> None:
    """However little each of them takes."""
    found = predict(chip(layer_overhead=figure(1e-4), graph_overhead=figure(3e-3)), graphs)
    small = [cost for cost in found.layers if cost.bound == "overhead"]
    (told,) = [entry for entry in found.sections["advice"] if "to call" in entry["text"]]
    working = sum(cost.latency_ms > 0 for cost in found.layers)
    assert told["text"].startswith(f"{len(small)} of {working} layers take longer to call (100 µs, assumed) than to")
    both = sum(graph["latency_ms"] for graph in found.graphs.values())
    assert f"{sum(c.latency_ms for c in small) / both:.0%} of both" in told["text"]
    parts = Counter((cost.layer.graph, cost.layer.module.partition(".")[0]) for cost in small)
    (part, number), *_ = parts.most_common(1)
    assert (told["graph"], told["module"].partition(".")[0]) == part
    assert f", {number} of them in {part[1]};" in told["text"]
    assert not [e for e in predict(chip(), graphs).sections["advice"] if "to call" in e["text"]]


def test_memory_is_waited_for_with_the_bytes_of_that_memory(graphs: dict[str, list[Layer]]) -> None:
    slow = {
        "on_chip": chip(on_chip=Memory(figure(1 << 18), figure(1e8), figure(0))),
        "off_chip": chip(off_chip=Memory(figure(1 << 32), figure(1e8), figure(0))),
    }
    for level, target in slow.items():
        found = predict(target, graphs)
        told = next(entry for entry in found.sections["advice"] if f"waits for memory ({level}; " in entry["text"])
        (more,) = [c.more for c in found.layers if (c.layer.graph, c.layer.name) == (told["graph"], told["layer"])]
        moved = more["on_chip_bytes"] if level == "on_chip" else more["load_bytes"] + more["store_bytes"]
        assert f"({level}; {moved / 1e6:.2g} MB)" in told["text"]


def conv(channels: int, rows: int = 10, columns: int = 20) -> Layer:
    given, made = (TensorInfo(name, (1, channels, rows, columns), "int8") for name in "xy")
    weight = TensorInfo("w", (channels, channels, 1, 1), "int8")
    return Layer(
        graph="base", name="a/Conv_0", module="a", operator="Conv", inputs=(given,), weights=(weight,),
        outputs=(made,), macs=channels**2 * rows * columns, attributes={"kernel_shape": [1, 1]},
    )  # fmt: skip


def of_values(operator: str, *shapes: tuple[int, ...], out: tuple[int, ...], macs: int = 0) -> Layer:
    inputs = tuple(TensorInfo(f"x{index}", shape, "int8") for index, shape in enumerate(shapes))
    return Layer(
        graph="base", name=f"a/{operator}_0", module="a", operator=operator, inputs=inputs, weights=(),
        outputs=(TensorInfo("y", out, "int8"),), macs=macs,
    )  # fmt: skip


def test_a_block_alone_overlaps_with_nothing() -> None:
    """Of many blocks only the first and the last are waited for; each pass waits for the memory."""
    memory = Memory(figure(1 << 20), figure(8e9), figure(1e-8))  # 8 bytes and 1e-8 s: 10 cycles
    far = Memory(figure(1 << 32), figure(1e18), figure(0))

    def cycles(layer: Layer, **changes: Any) -> float:
        cost = cost_of_graph(chip(on_chip=memory, off_chip=far, **changes), [layer])
        return cost.latency_ms * 1e6

    layer = conv(32)
    unit, near, channels = 32 * 32 * 200 / 256, (2 * 32 * 200 + 32 * 32) / 8, 32 * 4.0
    assert cycles(layer) == pytest.approx(max(unit, near))
    whole = {"block": figure(1 << 20), "channel_load": figure(4e-9)}
    assert cycles(layer, **whole) == pytest.approx(unit + near + channels + 20)
    blocks = cycles(layer, **whole | {"block": figure(640)})  # of ten
    assert blocks == pytest.approx(max(unit, near) + (min(unit, near) + channels) / 10 + 20)


def test_an_operator_is_taken_apart() -> None:
    vector: dict[str, Any] = {"unit": "vector", "types": ("int8",), "source": "assumed"}
    operators = {
        "Softmax": Operator(**vector, parts=("ReduceMax", "Exp", "Mul")),
        "MatMul": Operator(**vector, parts=("Mul", "Add")),
        "ReduceMax": Operator(**vector, rate=figure(0.5)),
    }
    softmax = work_of(chip(operators=operators), of_values("Softmax", (4, 8, 8), out=(4, 8, 8)))
    assert (softmax.cycles, softmax.passes) == (pytest.approx(256 / 0.5 + 256 / 32 + 256 / 32), 3)
    product = of_values("MatMul", (4, 8, 6), (4, 6, 5), out=(4, 8, 5), macs=4 * 8 * 5 * 6)
    apart = work_of(chip(operators=operators), product)
    assert (apart.unit, apart.cycles) == ("vector", pytest.approx(2 * 960 / 32))
    assert apart.passes == 2 * 4 * 5, "each column of each batch, twice"
    assert (work_of(chip(), product).unit, work_of(chip(), product).passes) == ("matrix", 4)


def test_lanes_that_are_not_filled_are_lost() -> None:
    lanes = {"matrix": {"output_channels": figure(16), "input_channels": figure(32), "columns": figure(4)}}
    full, part = (work_of(chip(lanes=lanes), conv(channels)) for channels in (32, 40))
    assert full.lanes == 1
    assert part.lanes == pytest.approx(40 / 48 * 40 / 64)
    assert part.cycles == pytest.approx(48 * 64 * 200 / 256)


def test_an_operator_of_the_target_says_its_unit(graphs: dict[str, list[Layer]]) -> None:
    norm = next(x for x in as_deployed(chip(), graphs["base"]) if x.operator == "LayerNormalization")
    known = {"LayerNormalization": Operator("table", ("int8", "int16"), "assumed")}
    assert (work_of(chip(), norm).unit, work_of(chip(operators=known), norm).unit) == ("vector", "table")
    narrow = chip(operators={"LayerNormalization": Operator("vector", ("int8",), "assumed")})
    assert norm.inputs[0].inner
    assert (work_of(chip(), norm).dtype, work_of(narrow, norm).dtype) == ("int16", "int8")  # what has no grid gets one
    fixed = replace(norm, inputs=(replace(norm.inputs[0], inner=False),))
    assert (work_of(chip(), fixed).unit, work_of(narrow, fixed).unit) == ("vector", "host")


def test_float_graphs_are_predicted_in_the_types_of_the_matrix_unit(fixed_point: FixedPoint) -> None:
    layers = layers_of_model(read_onnx(fixed_point.floats / "qim.onnx"), "qim")
    assert {t.dtype for x in as_deployed(chip(), layers) for t in x.inputs} == {"int8"}
    halves = chip(operations={"matrix": {"float16": figure(64)}})
    assert {t.dtype for x in as_deployed(halves, layers) for t in x.inputs} == {"float16"}


def test_fused_layers_read_what_is_made_before_their_product(graphs: dict[str, list[Layer]]) -> None:
    found = predict(chip(), graphs)
    names = {cost.layer.name: index for index, cost in enumerate(found.layers)}
    fused = [cost for cost in found.layers if cost.more.get("fused_into")]
    assert fused
    for cost in fused:
        assert names[cost.more["fused_into"]] < names[cost.layer.name]
        assert cost.layer.operator not in ("Conv", "MatMul", "Softmax", "LayerNormalization")


def test_layout_is_free(graphs: dict[str, list[Layer]]) -> None:
    found: Performance = predict(chip(), graphs)
    for cost in found.layers:
        assert (cost.bound == "view") == is_layout(cost.layer)
        assert cost.bound != "view" or cost.latency_ms == 0


def test_every_figure_of_a_target_is_told() -> None:
    told = dict(figures_of(load_target("horizon-j6m")))
    assert {"clock", "operations.matrix.int8", "off_chip.bandwidth", "layer_overhead"} <= told.keys()
    told = dict(figures_of(load_target("ethos-u85")))
    assert {"block", "channel_load", "operators.ReduceMax.rate"} <= told.keys()


def test_where_modules_are_in_our_source() -> None:
    assert source_of("base", "encoder.11.attention.value")[0] == "motrlab/model/attention.py"
    assert source_of("base", "backbone.stages.2.4.layers.0")[0] == "motrlab/model/efficientnet.py"
    assert source_of("base", "refine")[0] == "motrlab/model/operations.py"
    assert source_of("base", "nothing.of.ours") == ("", 0)
