"""Small tools to edit an ONNX graph in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class GraphEditor:
    """An ONNX graph with its initialisers as arrays, and who makes and who uses each value.

    Edits go to `nodes` and `constants`; `finish` writes them back, without what nobody uses, in a valid order.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
        for node in model.graph.node:
            value = attribute(node, "value") if node.op_type == "Constant" else None
            if isinstance(value, onnx.TensorProto):
                self.constants[node.output[0]] = numpy_helper.to_array(value)
            else:
                self.nodes.append(node)
        self.outputs = {o.name for o in model.graph.output}
        self._taken = set(self.constants) | {name for node in self.nodes for name in node.output}

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Value → the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Value → the nodes that use it."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Register an initialiser under a free name like `name`."""
        fresh = self.free_name(name)
        self.constants[fresh] = value
        return fresh

    def free_name(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, …"""
        fresh, number = name, 0
        while fresh in self._taken:
            number += 1
            fresh = f"{name}_{number}"
        self._taken.add(fresh)
        return fresh

    def finish(self) -> onnx.ModelProto:
        """Write the edits into the model. Types of inner values are left to shape inference."""
        graph = self.model.graph
        ordered = _topological(self._used())
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(ordered)
        used = {name for node in ordered for name in node.input}
        graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in self.constants.items() if n in used)
        return onnx.shape_inference.infer_shapes(self.model, strict_mode=True, data_prop=True)

    def _used(self) -> list[onnx.NodeProto]:
        """Nodes that an output depends on."""
        producers = self.producers()
        keep: set[int] = set()
        open_values = list(self.outputs)
        while open_values:
            node = producers.get(open_values.pop())
            if node is not None and id(node) not in keep:
                keep.add(id(node))
                open_values.extend(node.input)
        return [node for node in self.nodes if id(node) in keep]


def _topological(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Producers before consumers; otherwise in the given order."""
    waiting = list(nodes)
    made_later = {name for node in waiting for name in node.output}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        rest = []
        for node in waiting:
            if any(name in made_later for name in node.input):
                rest.append(node)
            else:
                ordered.append(node)
                made_later -= set(node.output)
        assert len(rest) < len(waiting), "the graph has a cycle"
        waiting = rest
    return ordered


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def replace_input(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    """Let `nodes` use another value."""
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def is_per_tensor(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has one scale."""
    scale = editor.constants.get(node.input[1])
    return scale is not None and np.ndim(scale) == 0
