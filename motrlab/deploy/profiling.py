"""What each node of a graph takes, as the runtime that executes it tells; of a deployed graph mapped to our modules.

ONNX Runtime notes every call of every kernel, OpenVINO those of the last inference. Nodes are called
`MODULE/OPERATOR_NUMBER`; a node that a runtime adds (a transposition, mostly) belongs to who reads its output.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from motrlab.deploy.kernel_layers import INTEGER_OPERATORS, node_macs
from motrlab.deploy.kernels import Array, exact_form, onnxruntime_session, openvino_model
from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.onnx_graph import GraphBuilder
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.plain import plain_form

Inputs = Mapping[str, Array]
_WARM_UP = 3
_CHAIN = 100  # links of the chain that tells what a call costs
_ROUNDED = 0.5e-6  # the profile cuts to whole microseconds: half of one is lost on average
_NAMES = {"float": "float32", "double": "float64"}


def profile_graph(
    file: Path,
    graph: str,
    inputs: Sequence[Inputs],
    repeats: int,
    *,
    num_threads: int = 1,
    backend: str = "onnxruntime",
    weight_bits: int = 8,
    whole_ms: float | None = None,
) -> list[LayerCost]:
    """Every node that a runtime executes of `GRAPH.ort.onnx`, in order of execution.

    `profiled_ms` is the mean of the middle half of `repeats` calls on `inputs` in turn. A profile makes every node
    slower by about the same time: where the graph takes `whole_ms` without one, as much is taken off every node, and of
    no node more than it has, that the sum is that. The rest is `latency_ms`. `more` further: `kernel` (what runs),
    `share` (of the graph's time), `calls`, `integer` (a product on an integer kernel, or no float32 passes through).
    """
    measure = _with_onnxruntime if backend == "onnxruntime" else _with_openvino
    nodes, timed = measure(file, inputs, repeats, num_threads, weight_bits)
    profiled = {name: _middle_ms(calls) for name, (_, calls) in timed.items()}
    off = _overhead(np.array(list(profiled.values())), whole_ms)
    middle = {name: max(value - off, 0.0) for name, value in profiled.items()}
    total, costs = sum(middle.values()) or 1.0, []
    for name, (kernel, calls) in timed.items():
        layer = nodes.layer(graph, name, timed.keys())
        more = {
            "kernel": kernel, "share": middle[name] / total, "calls": len(calls), "integer": _is_integer(layer),
            "profiled_ms": profiled[name],
        }  # fmt: skip
        given = sum(t.num_bytes for t in (*layer.inputs, *layer.weights))
        costs.append(LayerCost(layer, middle[name], given, sum(t.num_bytes for t in layer.outputs), "measured", more))
    return costs


def integer_time_share(costs: Sequence[LayerCost]) -> float:
    """Fraction of a graph's time in kernels of integers."""
    return sum(c.latency_ms for c in costs if c.more["integer"]) / (sum(c.latency_ms for c in costs) or 1.0)


def _is_integer(layer: Layer) -> bool:
    floats = any(t.dtype == "float32" for t in (*layer.inputs, *layer.outputs))
    return layer.operator in INTEGER_OPERATORS or not floats


def _middle_ms(microseconds: Sequence[float]) -> float:
    row = np.sort(np.array(microseconds))
    quarter = len(row) // 4
    return float(row[quarter : len(row) - quarter].mean()) / 1e3


def _overhead(profiled: NDArray[np.float64], whole: float | None) -> float:
    """What to take off each of `profiled`, down to 0, so that they sum to `whole`; 0 where they are less already."""
    if whole is None or profiled.sum() <= whole:
        return 0.0
    row = np.sort(profiled)[::-1]
    off = (np.cumsum(row) - whole) / np.arange(1, len(row) + 1)  # if the first k stay above 0
    above = np.flatnonzero(row > off)
    return float(off[above[-1]] if len(above) else row[0])


_Timed = dict[str, tuple[str, list[float]]]  # node → its kernel, and the microseconds of every call


class _Nodes:
    """The nodes of a graph as a runtime has them, and the shapes of what passes between them."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        body = model.graph
        self.nodes = {node.name: node for node in body.node}
        self.constants = {item.name for item in body.initializer}
        self.makers = {name: node for node in body.node for name in node.output}
        self.readers = {name: node for node in reversed(body.node) for name in node.input}
        self.ends = {item.name for item in (*body.input, *body.output)}
        self.shapes = {**shapes, **{i.name: (_type_name(i.data_type), tuple(i.dims)) for i in body.initializer}}
        for item in (*body.input, *body.output):
            tensor = item.type.tensor_type
            self.shapes[item.name] = _type_name(tensor.elem_type), tuple(d.dim_value for d in tensor.shape.dim)
        self.sizes = {name: shape for name, (_, shape) in self.shapes.items()}

    def layer(self, graph: str, name: str, executed: Any) -> Layer:
        """A node that was executed, with those before it that were not: they are fused into it."""
        if name not in self.nodes:  # added by a runtime that does not show its graph
            return Layer(graph=graph, name=name, module="fused", operator=name.rpartition("_")[0] or name,
                         inputs=(), weights=(), outputs=())  # fmt: skip
        last = self.nodes[name]
        fused, waiting = [last], [last]
        while waiting:
            for given in waiting.pop().input:
                maker = self.makers.get(given)
                if maker is not None and maker.name not in executed and maker not in fused:
                    fused.append(maker)
                    waiting.append(maker)
        made = {output for node in fused for output in node.output}
        given = dict.fromkeys(n for node in fused for n in node.input if n and n not in made and n in self.shapes)
        return Layer(
            graph=graph,
            name=name,
            module=self._module(last),
            operator=last.op_type,
            inputs=tuple(self._tensor(n) for n in given if n not in self.constants),
            weights=tuple(self._tensor(n) for n in given if n in self.constants),
            outputs=tuple(self._tensor(n) for n in last.output if n in self.shapes),
            macs=sum(node_macs(node, self.sizes) for node in fused),
        )

    def _module(self, node: onnx.NodeProto) -> str:
        for near in (node, self.readers.get(node.output[0]), self.makers.get(node.input[0]) if node.input else None):
            if near is not None and "/" in near.name:
                return near.name.partition("/")[0]  # a runtime may add a part of its own at the end
        return "added by the runtime"

    def _tensor(self, name: str) -> TensorInfo:
        kind, shape = self.shapes[name]
        return TensorInfo(name, shape, kind, end=name in self.ends)


def _type_name(kind: int) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)))


def _with_onnxruntime(
    file: Path, inputs: Sequence[Inputs], repeats: int, num_threads: int, weight_bits: int
) -> tuple[_Nodes, _Timed]:
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        profiled = _Profiled(exact_form(file, weight_bits), num_threads, optimized_model_filepath=str(optimised))
        for index in range(repeats + _WARM_UP):
            profiled.session.run(None, dict(inputs[index % len(inputs)]))
        calls, model = profiled.calls(), onnx.load(optimised)
    timed: _Timed = {}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    outputs = {node.name: node.output for node in model.graph.node}
    for name, microseconds, told in calls:
        timed.setdefault(name, (told["op_name"], []))[1].append(microseconds)
        for output, typed in zip(filter(None, outputs.get(name, ())), told["output_type_shape"], strict=False):
            ((kind, shape),) = typed.items()
            shapes[output] = _NAMES.get(kind, kind), tuple(shape)
    return _Nodes(model, shapes), {name: (kernel, calls[_WARM_UP:]) for name, (kernel, calls) in timed.items()}


class _Profiled:
    """A session that notes every call of every kernel."""

    def __init__(self, content: str | bytes, num_threads: int, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        prefix = f"{self._folder.name}/profile"
        self.session = onnxruntime_session(
            content, num_threads, enable_profiling=True, profile_file_prefix=prefix, **options
        )

    def calls(self) -> list[tuple[str, float, dict[str, Any]]]:
        """Node, microseconds and what else is told of each call, the first `_WARM_UP` included. Ends the profile."""
        with self._folder:
            events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        ending = "_kernel_time"
        return [(e["name"].removesuffix(ending), e["dur"], e["args"]) for e in events if e["name"].endswith(ending)]

    def seconds(self) -> dict[str, float]:
        """Node → typical seconds of a call. Ends the profile."""
        found = defaultdict[str, list[float]](list)
        for name, microseconds, _ in self.calls():
            found[name].append(microseconds * 1e-6 + _ROUNDED)
        return {name: typical(seconds[_WARM_UP:]) for name, seconds in found.items()}


def _with_openvino(
    file: Path, inputs: Sequence[Inputs], repeats: int, num_threads: int, _: int
) -> tuple[_Nodes, _Timed]:
    model = onnx.shape_inference.infer_shapes(plain_form(onnx.load(file)))
    request = openvino_model(model, num_threads, PERF_COUNT=True).create_infer_request()
    timed: _Timed = {}
    for index in range(repeats + _WARM_UP):
        request.infer(dict(inputs[index % len(inputs)]))
        for step in request.profiling_info if index >= _WARM_UP else ():
            if step.status.name == "EXECUTED":  # some are in some inferences only, some names stand for several steps
                kernel = f"{step.node_type} {step.exec_type}"
                calls = timed.setdefault(step.node_name, (kernel, [0.0] * repeats))[1]
                calls[index - _WARM_UP] += step.real_time.total_seconds() * 1e6
    shapes = {}
    for item in model.graph.value_info:
        tensor = item.type.tensor_type
        shapes[item.name] = _type_name(tensor.elem_type), tuple(d.dim_value for d in tensor.shape.dim)
    return _Nodes(model, shapes), timed


@contextmanager
def pinned(num_threads: int) -> Iterator[str]:
    """Keep this thread, and those it starts, on the last `num_threads` processors it may use; which, or "" (macOS)."""
    if not hasattr(os, "sched_setaffinity"):
        yield ""
        return
    before = os.sched_getaffinity(0)
    chosen = sorted(before)[-num_threads:]  # the first has the most interrupts
    os.sched_setaffinity(0, chosen)
    try:
        yield ",".join(map(str, chosen))
    finally:
        os.sched_setaffinity(0, before)


Called = tuple[str | bytes, Inputs]  # a graph, and what it is called with


def node_seconds(graphs: Sequence[Called], *, repeats: int = 30, num_threads: int = 1) -> list[dict[str, float]]:
    """Of ONNX graphs on ONNX Runtime: node → typical seconds of its kernel, without what the profile adds.

    The graphs are called one after the other, as in a frame: what has just run, and lies in the caches, is faster. In
    turn with that they are called without a profile: what they take then is what their nodes sum to.
    """
    least = _bound(*_chain(1), num_threads)  # a call with next to no work
    plain = [least, *(_bound(content, inputs, num_threads) for content, inputs in graphs)]
    profiled = [_Profiled(content, num_threads) for content, _ in graphs]
    timed = []
    for _ in range(_WARM_UP + repeats):
        for graph, (_, inputs) in zip(profiled, graphs, strict=True):
            graph.session.run(None, dict(inputs))
        timed.append([_timed(call, num_threads) for call in plain])
    call, *whole = (typical(list(seconds)) for seconds in zip(*timed[_WARM_UP:], strict=True))
    found = []
    for graph, seconds in zip(profiled, whole, strict=True):
        nodes = graph.seconds()
        off = _overhead(np.array(list(nodes.values())), max(seconds - call, 0.0))
        found.append({name: max(0.0, value - off) for name, value in nodes.items()})
    return found


def _bound(content: str | bytes, inputs: Inputs, num_threads: int) -> Callable[[], Any]:
    """A call of a graph that copies neither inputs nor outputs."""
    session = onnxruntime_session(content, num_threads)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def call_seconds(graphs: Sequence[Called], *, repeats: int = 30, num_threads: int = 1) -> list[list[float]]:
    """Of whole calls of each graph, one after the other, as in a frame; without a profile."""
    calls = [partial(onnxruntime_session(content, num_threads).run, None, dict(inputs)) for content, inputs in graphs]
    timed = [[_timed(call, num_threads) for call in calls] for _ in range(_WARM_UP + repeats)]
    return [list(seconds) for seconds in zip(*timed[_WARM_UP:], strict=True)]


def _timed(call: Callable[[], Any], num_threads: int) -> float:
    """Seconds. One thread does all of its work in the thread that calls, and its processor time is what counts: what
    other processes take meanwhile does not.
    """
    clock = time.thread_time if num_threads == 1 else time.perf_counter
    started = clock()
    call()
    return clock() - started


def call_overhead(num_threads: int, repeats: int) -> float:
    """Seconds that a call of a graph takes beside its nodes: of a long and a short chain of nodes, called in turn."""
    seconds = call_seconds([_chain(_CHAIN), _chain(1)], repeats=repeats, num_threads=num_threads)
    long, short = map(typical, seconds)
    return max(0.0, short - (long - short) / (_CHAIN - 1))


def _chain(number: int) -> Called:
    """Twice as many tiny nodes, one after the other."""
    graph = GraphBuilder()
    x = graph.input("x", (1, 4))
    for _ in range(number):
        x = graph.op("Abs", graph.op("Neg", x))
    return graph.model({"y": (x, (1, 4))}, {}).SerializeToString(), {"x": np.ones((1, 4), np.float32)}


def typical(seconds: list[float]) -> float:
    """The mean of what took no more than half as long again as the fastest quarter: nothing disturbed it."""
    values = np.array(seconds)
    return float(values[values <= 1.5 * np.percentile(values, 25)].mean())
