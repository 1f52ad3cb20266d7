"""The layers of a portable graph (`base.onnx`, `qim.onnx`) as a chip's compiler sees them.

Every node is a layer, apart from quantiser pairs, which say what type a tensor has, biases and activations, which
belong to the product before them, and what is computed of constants alone. One table for float presets, QAT graphs
and artefacts: checking, prediction, hand-over and reports all read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from motrlab.errors import UserError

ACTIVATIONS = {"Relu", "Clip"}
# No arithmetic: values are moved or repeated, and keep their type.
MOVES = {"Concat", "Expand", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_PRODUCTS = {"Conv", "MatMul"}
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze"}  # not even that
_BYTES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "float16": 2, "int32": 4, "float32": 4, "int64": 8}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a layer. `dtype`: of its grid; `uint8` has no negative values. `inner`: it stands between two
    quantisers, inside a function of the integer form; its `dtype` is then what that function needs at most, int16.
    `end`: an input or output of the graph. `path`: as rules of the scheme call it; empty where none decides its grid.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    inner: bool = False
    end: bool = False
    path: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.numel * _BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: `module` is the path of the module in our source, or the operation (`refine`, `sine`, …) where no
    module has it. `macs`: multiply-accumulates of convolutions, matrix products and bilinear samples (four a value).
    `view`: moves no data.
    """

    graph: str
    name: str
    module: str
    operator: str
    inputs: tuple[TensorInfo, ...]
    weights: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    macs: int = 0
    activation: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def view(self) -> bool:
        return self.operator in _VIEWS

    @property
    def depthwise(self) -> bool:
        return self.operator == "Conv" and int(self.attributes.get("group", 1)) > 1


def read_onnx(path: Path) -> onnx.ModelProto:
    """Raises UserError where it is no ONNX file."""
    try:
        return onnx.load(path)
    except Exception as error:  # of protobuf, or OSError
        raise UserError(f"{path}: not an ONNX file ({(str(error).splitlines() or [''])[0]})") from error


def layers_of_model(model: onnx.ModelProto, graph: str) -> list[Layer]:
    """The layers of `portable_graphs(...)[graph]`, in order of execution; `graph` is `base` or `qim`."""
    return _Reader(model, graph).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto, graph: str) -> None:
        self.graph, self.model = graph, shape_inference.infer_shapes(model, strict_mode=True)
        body = self.model.graph
        self.constants = {item.name: item for item in body.initializer}
        self.producers = {name: node for node in body.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in body.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if node.input and all(name in self.constants for name in filter(None, node.input)):
                self.constants |= dict.fromkeys(node.output, self.constants[node.input[0]])  # folded by compilers
        known = (*body.input, *body.output, *body.value_info)
        self.shapes = {item.name: tuple(d.dim_value for d in item.type.tensor_type.shape.dim) for item in known}
        self.shapes |= {item.name: tuple(item.dims) for item in body.initializer}
        self.ends = {item.name for item in (*body.input, *body.output)}
        self.quantised = any(node.op_type == "QuantizeLinear" for node in body.node)

    def read(self) -> list[Layer]:
        kept = (n for n in self.model.graph.node if n.op_type not in _QUANTISERS and n.output[0] not in self.constants)
        fused = {id(behind) for node in self.model.graph.node for behind in self._behind(node)}
        return [self._layer(node) for node in kept if id(node) not in fused]

    def _behind(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What belongs to a layer and follows it: the bias of a product, an activation; nothing else reads between."""
        found: list[onnx.NodeProto] = []
        if node.op_type not in _PRODUCTS:
            return found
        while len(readers := self.readers.get(node.output[0], [])) == 1:
            node = readers[0]
            bias = not found and node.op_type == "Add" and node.input[1] in self.constants
            if not (bias or node.op_type in ACTIVATIONS):
                break
            found.append(node)
        return found

    def _layer(self, node: onnx.NodeProto) -> Layer:
        behind = self._behind(node)
        last = behind[-1] if behind else node
        made = {name for n in (node, *behind) for name in n.output}
        given = [name for n in (node, *behind) for name in n.input if name and name not in made]
        inputs = [self._tensor(name) for name in given if name not in self.constants]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return Layer(
            graph=self.graph,
            name=node.name,
            module=node.name.rpartition("/")[0],
            operator=node.op_type,
            inputs=tuple(inputs),
            weights=tuple(self._tensor(name) for name in given if name in self.constants),
            outputs=tuple(self._tensor(name) for name in last.output),
            macs=self._macs(node),
            activation=last.op_type if last.op_type in ACTIVATIONS else "",
            attributes={k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()},
        )

    def _tensor(self, name: str) -> TensorInfo:
        dtype = self._type_before(name) if name in self.constants else self._quantised_type(name)
        path = self._path(name)
        while (node := self.producers.get(name)) is not None and node.op_type in _QUANTISERS:
            name = node.input[0]  # a tensor is called as its layer calls it
        shape = self.shapes[name]
        if dtype is None and name in self.constants:
            return TensorInfo(name, shape, _type_name(self.constants[name].data_type))
        inner = dtype is None and self.quantised and name not in self.ends
        return TensorInfo(name, shape, dtype or ("int16" if inner else "float32"), inner, self._is_end(name), path)

    def _path(self, name: str) -> str:
        """Values of the scheme's tensors are called `GRAPH/TENSOR`, with `@1` where a module is called again."""
        while not name.startswith(f"{self.graph}/"):
            node = self.producers.get(name)
            if node is None or node.op_type not in MOVES:
                return ""
            name = node.input[0]
        return name.partition("/")[2].partition("@")[0]

    def _is_end(self, name: str) -> bool:
        quantisers = (node for node in self.readers.get(name, []) if node.op_type in _QUANTISERS)
        return name in self.ends or any(self._is_end(node.output[0]) for node in quantisers)

    def _quantised_type(self, name: str) -> str | None:
        """Of the quantisers before or behind a tensor, whatever only moves its values in between; None without."""
        return self._type_before(name) or self._type_behind(name)

    def _type_before(self, name: str) -> str | None:
        node = self.producers.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return self._grid_type(node)
        if node is None or node.op_type not in MOVES or name in self.constants:
            return None
        found = [self._quantised_type(n) for n in node.input if n and n not in self.constants]
        return max(found, key=lambda t: _BYTES[t or "int64"]) if found else None

    def _type_behind(self, name: str) -> str | None:
        for node in self.readers.get(name, []):
            if node.op_type == "QuantizeLinear":
                return self._grid_type(node)
            if node.op_type in MOVES and (found := self._type_behind(node.output[0])):
                return found
        return None

    def _grid_type(self, quantiser: onnx.NodeProto) -> str:
        """uint8 around 128 is how files write signed integers for ONNX Runtime: those are `int8`."""
        zero = self.constants[quantiser.input[2]]
        found = _type_name(zero.data_type)
        return "int8" if found == "uint8" and numpy_helper.to_array(zero).flat[0] == 128 else found

    def _macs(self, node: onnx.NodeProto) -> int:
        numel = math.prod(self.shapes[node.output[0]])
        if node.op_type == "Conv":
            return numel * math.prod(self.shapes[node.input[1]][1:])
        if node.op_type == "MatMul":
            return numel * self.shapes[node.input[0]][-1]
        return 4 * numel if node.op_type == "GridSample" else 0


def _type_name(kind: int) -> str:
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(kind)))
