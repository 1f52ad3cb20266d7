"""Taps of the deployed graphs: the tensors that `kernel_graph.py` names, as additional outputs, in real values.

In the files they are uint8, channels last. Those of products side by side are one tensor there, and are taken apart
here: query and key of an attention, the values of all cross-attentions; an attention's value has a column of ones more
for every head, which is left out. The learned queries are a constant of the file and have no tap.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab.data.preprocess import input_bytes
from motrlab.deploy.runtime import BASE_OUTPUTS, QIM_OUTPUTS, Network, load_network
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import Arrays, Float
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec

OUTPUTS = {"base": BASE_OUTPUTS, "qim": QIM_OUTPUTS}
_HINT = "convert the run again"


class TappedRuntime:
    """Both graphs of an artefact as a backend executes them, with their taps.

    Args:
        folder: an artefact, or wherever `base.ort.onnx` and `qim.ort.onnx` are.
        quantised: the model that they were made of. Raises UserError if a name or a scale is not of it.
        num_threads, backend: as for `runtime.load_artifact`.
    """

    def __init__(
        self, folder: Path, quantised: QuantizedMotr, *, num_threads: int = 1, backend: str = "onnxruntime"
    ) -> None:
        self._quantised = quantised
        self._names: dict[str, list[str]] = {}
        self._inputs: dict[str, list[str]] = {}
        self._networks: dict[str, Network] = {}
        for graph, outputs in OUTPUTS.items():
            path = folder / f"{graph}.ort.onnx"
            if not path.is_file():
                raise UserError(f"no ONNX file {path}: {_HINT}")
            model = onnx.load(path)
            names = self._names[graph] = [n for x in model.graph.node for n in x.output if n.startswith(f"{graph}/")]
            self._check(model, graph, path)
            self._inputs[graph] = [item.name for item in model.graph.input]
            model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.UINT8, None) for n in names)
            with tempfile.TemporaryDirectory() as temporary:
                exposed = Path(temporary) / path.name
                onnx.save(model, exposed)
                bits = quantised.scheme.weight_bits
                network = load_network(exposed, (*outputs, *names), num_threads, backend, weight_bits=bits)
            self._networks[graph] = network

    def _check(self, model: onnx.ModelProto, graph: str, path: Path) -> None:
        """The names are the model's; so are the scales, which products hold as they are."""
        producers = {name: node for node in model.graph.node for name in node.output}
        constants = {item.name: item for item in model.graph.initializer}
        known = {"/".join(key) for key in self._quantised.specs}
        for name in self._names[graph]:
            if name.partition("@")[0] not in known:
                raise UserError(f"{path}: {name!r} is no tensor of the model: the file is of another one; {_HINT}")
            node = producers[name]
            if node.op_type == "Clip":
                node = producers[node.input[0]]
            if node.op_type == "QLinearConv":
                found, expected = numpy_helper.to_array(constants[node.input[6]]), self._scale(self._spec(graph, name))
                if found != expected:
                    raise UserError(
                        f"{path}: the scale of {name} is {float(found):.9g}, in the model {expected:.9g}: one of them "
                        f"was changed; {_HINT}"
                    )

    def _spec(self, graph: str, name: str) -> TensorSpec:
        return self._quantised.specs[graph, name.removeprefix(f"{graph}/").partition("@")[0]]

    def _scale(self, spec: TensorSpec) -> np.float32:
        return np.float32(self._quantised.net.scale(spec))

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays:
        """What stands at each tap by tensor name, as real values, channels last. `inputs`: those of the model."""
        return self.run_with_outputs(graph, inputs)[1]

    def run_with_outputs(self, graph: str, inputs: Sequence[Float]) -> tuple[list[NDArray[np.float32]], Arrays]:
        """The graph's own outputs as well."""
        fed: list[Any] = list(inputs)
        if graph == "base":
            fed[0] = input_bytes(fed[0])
        found = self._networks[graph](dict(zip(self._inputs[graph], fed, strict=True)))
        own, integers = found[: len(OUTPUTS[graph])], found[len(OUTPUTS[graph]) :]
        named: list[tuple[str, Any]] = list(zip(self._names[graph], integers, strict=True))
        if graph == "base":
            named.insert(0, ("base/image", fed[0]))
        values: Arrays = {}
        for name, x in named:
            spec = self._spec(graph, name)
            # Bytes of signed integers; OpenVINO's form has the integers themselves, in float32.
            zero_point = 128 if spec.low < 0 and x.dtype == np.uint8 else 0
            real = (x.astype(np.float32) - zero_point) * self._scale(spec)
            values |= self._apart(name.removeprefix(f"{graph}/"), real)
        return own, values

    def _apart(self, name: str, x: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The model's own tensors in one of the file, `[1, R, W, …]`."""
        config = self._quantised.config
        owner, _, part = name.rpartition(".")
        if part == "query" and owner.endswith("attention"):
            yield from zip((name, f"{owner}.key"), np.split(x, 2, 3), strict=True)
        elif owner.endswith("cross_attention") and part == "value":
            names = [f"decoder.{index}.cross_attention.value" for index in range(config.decoder_layers)]
            yield from zip(names, np.split(x, len(names), 3), strict=True)
        elif part == "value" and x.shape[3] > config.d_model:
            columns = x.reshape(*x.shape[:3], config.num_heads, -1)[..., :-1]
            yield name, columns.reshape(*x.shape[:3], config.d_model)
        else:
            yield name, x
