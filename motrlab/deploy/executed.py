"""What a runtime's own optimised graph holds in memory, of a graph that was measured.

Computed, not asked for: shapes and types of the tensors between the steps that the runtime executes, each held from the
step that makes it to the last that reads it. A runtime's arena may hold more; what the process takes is
`pacing.peak_memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.deploy.kernels import openvino_model
from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.predict.memory import memory_split

ASSUMPTION = (
    "memory is computed, not measured: shapes and types of the tensors between the steps that the runtime executes, "
    "each kept from the layer that makes it to the last that reads it; the process's own peak is measured separately"
)


def executed_memory(file: Path, graph: str, costs: Sequence[LayerCost], backend: str) -> dict[str, Any]:
    """`memory_split` of `GRAPH.ort.onnx` as `costs` (of `profile_graph`) were measured; the curve counts their rows."""
    layers = [c.layer for c in costs] if backend == "onnxruntime" else openvino_layers(file, graph)
    found: dict[str, Any] = memory_split(layers)
    rows = {cost.layer.name: row for row, cost in enumerate(costs)}
    curve = [(rows.get(layers[index].name), live) for index, live in found["curve"]]
    return found | {"curve": sorted([row, live] for row, live in curve if row is not None)}


def openvino_layers(file: Path, graph: str) -> list[Layer]:
    """The steps that OpenVINO executes of `GRAPH.ort.onnx`, in their order; `operator` is OpenVINO's kind of step."""
    steps = openvino_model(file, 1).get_runtime_model().get_ordered_ops()
    kinds = {op.get_friendly_name(): _told(op, "layerType") for op in steps}
    ends = {op.input_value(0).get_node().get_friendly_name() for op in steps if _told(op, "layerType") == "Output"}

    def tensor(output: Any) -> TensorInfo:
        name = output.get_node().get_friendly_name()
        dtype = str(np.dtype(output.get_element_type().to_dtype()))
        return TensorInfo(f"{name}:{output.get_index()}", tuple(output.get_shape()), dtype, end=name in ends)

    found = []
    for op in sorted(steps, key=lambda op: int(_told(op, "execOrder"))):
        if kinds[name := op.get_friendly_name()] in ("Const", "Input", "Output"):
            continue
        given = [v for i in range(op.get_input_size()) if _typed(v := op.input_value(i))]
        made = [v for i in range(op.get_output_size()) if _typed(v := op.output(i))]
        constant = [kinds[value.get_node().get_friendly_name()] == "Const" for value in given]
        inputs, weights = (
            tuple(tensor(v) for v, c in zip(given, constant, strict=True) if c == wanted) for wanted in (False, True)
        )
        outputs = tuple(map(tensor, made))
        found.append(
            Layer(
                graph=graph, name=name, module="", operator=kinds[name], inputs=inputs, weights=weights, outputs=outputs
            )
        )
    return found


def _typed(output: Any) -> bool:
    """Some steps have a side that holds nothing."""
    return not output.get_element_type().is_dynamic()


def _told(op: Any, what: str) -> str:
    return str(op.get_rt_info()[what].astype(str))
