"""Taps of the deployed graphs: the tensors that `kernel_graph.py` names, as additional outputs, in real values.

In the files they are uint8, channels last. The learned queries are a constant of the file and have no tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from motrlab.data.preprocess import input_bytes
from motrlab.deploy.kernels import Network, load_network
from motrlab.deploy.runtime import OUTPUTS, named
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import Arrays, Float
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec

_HINT = "convert the run again"


class TappedRuntime:
    """Both graphs of an artefact as a backend executes them, with their taps.

    `folder`: where `base.ort.onnx` and `qim.ort.onnx` are. `quantised`: what they were made of; raises UserError if a
    name or a scale is not of it. `num_threads`, `backend`: as for `runtime.load_artifact`.
    """

    def __init__(
        self, folder: Path, quantised: QuantizedMotr, *, num_threads: int = 1, backend: str = "onnxruntime"
    ) -> None:
        self._quantised = quantised
        self._names: dict[str, list[str]] = {}
        self.networks: dict[str, Network] = {}  # outputs: the graph's own, then the taps
        bits = quantised.scheme.weight_bits
        for graph, outputs in OUTPUTS.items():
            path = folder / f"{graph}.ort.onnx"
            if not path.is_file():
                raise UserError(f"no ONNX file {path}: {_HINT}")
            model = onnx.load(path)
            names = self._names[graph] = [n for x in model.graph.node for n in x.output if n.startswith(f"{graph}/")]
            self._check(model, names, path)
            model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.UINT8, None) for n in names)
            model.graph.name = str(path)
            self.networks[graph] = load_network(model, (*outputs, *names), num_threads, backend, weight_bits=bits)

    def _check(self, model: onnx.ModelProto, names: Sequence[str], path: Path) -> None:
        """The names are the model's; so are the scales, which products hold as they are."""
        producers = {name: node for node in model.graph.node for name in node.output}
        constants, scale = {item.name: item for item in model.graph.initializer}, self._quantised.net.scale
        for name in names:
            spec = self._spec(name)
            if spec is None:
                raise UserError(f"{path}: {name!r} is not a tensor of the model: the file is of another one; {_HINT}")
            node = producers[name]
            node = producers[node.input[0]] if node.op_type == "Clip" else node
            if node.op_type == "QLinearConv":
                found, expected = numpy_helper.to_array(constants[node.input[6]]), np.float32(scale(spec))
                if found != expected:
                    told = f"the scale of {name} is {float(found):.9g}, in the model {expected:.9g}"
                    raise UserError(f"{path}: {told}: one of them was changed; {_HINT}")

    def _spec(self, name: str) -> TensorSpec | None:
        graph, _, tensor = name.partition("@")[0].partition("/")
        return self._quantised.specs.get((graph, tensor))

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays:
        """What stands at each tap by tensor name, as real values, channels last. `inputs`: those of the model."""
        fed: list[Any] = [input_bytes(inputs[0]), *inputs[1:]] if graph == "base" else list(inputs)
        found = self.networks[graph](named(graph, fed))
        taps: list[tuple[str, Any]] = [("base/image", fed[0])] if graph == "base" else []
        values: Arrays = {}
        for name, x in [*taps, *zip(self._names[graph], found[len(OUTPUTS[graph]) :], strict=True)]:
            spec = self._spec(name)
            assert spec is not None
            # Bytes of signed integers; OpenVINO's form has the integers themselves, in float32.
            zero_point = 128 if spec.low < 0 and x.dtype == np.uint8 else 0
            real = (x.astype(np.float32) - zero_point) * np.float32(self._quantised.net.scale(spec))
            values[name.partition("/")[2]] = real
        return values
