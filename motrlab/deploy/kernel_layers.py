"""The layers of a kernel graph (`base.ort.onnx`, `qim.ort.onnx`) as ONNX Runtime runs them on this host.

The same table as `layers.py` has of a portable graph, of the graph that ONNX Runtime has optimised: every node is a
layer, none is fused. Their names are those of ONNX Runtime's own profile.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from motrlab.deploy.integer import node_macs, optimised_model, values_by_running
from motrlab.deploy.kernels import exact_form
from motrlab.deploy.layers import Layer, TensorInfo


def layers_of_kernels(path: Path, graph: str, *, weight_bits: int = 8) -> list[Layer]:
    """The layers of an artefact's `GRAPH.ort.onnx` in order of execution; `weight_bits` are those of the artefact."""
    return layers_of_optimised(optimised_model(exact_form(path, weight_bits)), graph)


def layers_of_optimised(model: onnx.ModelProto, graph: str) -> list[Layer]:
    """The layers of a graph that ONNX Runtime has optimised."""
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    values = values_by_running(model) | constants
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    ends = {item.name for item in (*model.graph.input, *model.graph.output)}
    return [_layer(node, graph, values, constants.keys(), ends, _module(node, readers)) for node in model.graph.node]


def _module(node: onnx.NodeProto, readers: dict[str, onnx.NodeProto]) -> str:
    """From the node's name; one that the optimiser has added is counted to whom reads it."""
    while "/" not in node.name:
        if node.output[0] not in readers:
            return "result"
        node = readers[node.output[0]]
    return node.name.partition("/")[0]


def _layer(
    node: onnx.NodeProto, graph: str, values: dict[str, np.ndarray], constants: Set[str], ends: Set[str], module: str
) -> Layer:
    def tensors(names: list[str]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(name, values[name].shape, str(values[name].dtype), end=name in ends) for name in names)

    given = [name for name in node.input if name]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return Layer(
        graph=graph,
        name=node.name,
        module=module,
        operator=node.op_type,
        inputs=tensors([name for name in given if name not in constants]),
        weights=tensors([name for name in given if name in constants]),
        outputs=tensors([name for name in node.output if name]),
        macs=node_macs(node, {name: value.shape for name, value in values.items()}),
        attributes={k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()},
    )
