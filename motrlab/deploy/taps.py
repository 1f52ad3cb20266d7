"""Taps of a deployed graph: its quantised activations as additional outputs, each matched with its `FakeQuantize`.

Export numbers the quantisers in graph order and the rewrite keeps the names of their outputs, so the n-th quantiser of
the portable file is the n-th of the model. That the scales are the same, bit for bit, proves it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from motrlab.deploy.onnx_edit import GraphEditor
from motrlab.deploy.runtime import BASE_OUTPUTS, QIM_OUTPUTS, Network, graph_file, load_network
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import Arrays, Float, TapPoint

OUTPUTS = {"base": BASE_OUTPUTS, "qim": QIM_OUTPUTS}
_NUMBER = re.compile(r"quantize_per_tensor(?:_(\d+))?$")
_HINT = "convert the run anew"


@dataclass(frozen=True)
class DeployedTap:
    """`output` names the integers in the file; they stand for `(integer − zero_point) · scale`."""

    point: TapPoint
    output: str
    scale: np.float32
    zero_point: int
    dtype: np.dtype[Any]

    def dequantise(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """Real values, with the float32 product that fake quantisation forms too."""
        levels = integers.astype(np.int32) - self.zero_point
        values: NDArray[np.float32] = levels.astype(np.float32) * self.scale
        return values


def map_taps(
    points: Sequence[TapPoint], portable: Path, rewritten: Path, *, check_scales: bool = True
) -> list[DeployedTap]:
    """Match the quantisers of one graph with those of its files.

    Args:
        points: all quantisers of the graph, in graph order.
        portable, rewritten: `GRAPH.onnx` and `GRAPH.ort.onnx`; twice the first for taps of the first.
        check_scales: False takes the order alone for proof.

    Raises UserError if their number, a grid or a scale differs.
    """
    files = {path: GraphEditor(_load(path)) for path in (portable, rewritten)}
    outputs = _numbered_outputs(files[portable], portable)
    if len(outputs) != len(points):
        raise UserError(
            f"{portable}: {len(outputs)} quantised activations, but the model has {len(points)}: the file is of "
            f"another model; {_HINT}"
        )
    taps = []
    for point, output in zip(points, outputs, strict=True):
        for path, editor in files.items():
            tap = _tap(editor, point, output, path)
            if check_scales and tap.scale != np.float32(point.scale):
                raise UserError(
                    f"{path}: the scale of {point.graph} {point.tensor} is {tap.scale:.9g}, in the model "
                    f"{point.scale:.9g}: one of them was changed; {_HINT}"
                )
        taps.append(tap)
    return taps


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise UserError(f"no ONNX file {path}: {_HINT}")
    return onnx.load(path)


def _numbered_outputs(editor: GraphEditor, path: Path) -> list[str]:
    """Outputs of the quantisers of activations, in the order of the model's graph."""
    numbers: dict[str, int] = {}
    for node in editor.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] not in editor.constants:
            match = _NUMBER.search(node.output[0])
            if match is None:
                raise UserError(f"{path}: quantiser {node.output[0]!r} has no number: not exported by motrlab; {_HINT}")
            numbers[node.output[0]] = int(match[1] or 0)
    return sorted(numbers, key=numbers.__getitem__)


def _tap(editor: GraphEditor, point: TapPoint, output: str, path: Path) -> DeployedTap:
    """The quantiser that gives `output`, looking through the integer Clip that the rewrite puts behind some."""
    node = editor.producers().get(output)
    if node is not None and node.op_type == "Clip":
        node = editor.producers().get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear":
        raise UserError(f"{path}: no quantiser gives {output!r}: not the rewritten form of the portable file; {_HINT}")
    scale, zero_point = (editor.constants[name] for name in node.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    grid = (int(limits.min) - int(zero_point), int(limits.max) - int(zero_point))
    if grid != (point.quant_min, point.quant_max):
        raise UserError(
            f"{path}: the grid of {point.graph} {point.tensor} goes from {grid[0]} to {grid[1]}, in the model from "
            f"{point.quant_min} to {point.quant_max}; {_HINT}"
        )
    return DeployedTap(point, output, np.float32(scale), int(zero_point), zero_point.dtype)


class TappedRuntime:
    """Both graphs of a folder, as a backend executes them, with their taps as additional outputs.

    Args:
        folder: an artefact, or wherever the four ONNX files are.
        points: the quantisers of both graphs, in graph order (`quantization.analysis.taps.tap_points`).
        num_threads, backend: as for `runtime.load_artifact`.
        check_scales: as for `map_taps`.
    """

    def __init__(
        self,
        folder: Path,
        points: Sequence[TapPoint],
        *,
        num_threads: int = 1,
        backend: str = "onnxruntime",
        check_scales: bool = True,
    ) -> None:
        self.points = points
        self.taps: dict[str, list[DeployedTap]] = {}
        self._networks: dict[str, tuple[list[str], Network]] = {}
        for graph in OUTPUTS:
            own = [point for point in points if point.graph == graph]
            path = graph_file(folder, graph, backend)
            self.taps[graph] = map_taps(own, folder / f"{graph}.onnx", path, check_scales=check_scales)
            self._networks[graph] = load_tapped(path, OUTPUTS[graph], self.taps[graph], num_threads, backend)

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays:
        """What stands at each tap, by tensor name, as real values; `inputs` in the order of the graph's own."""
        return self.run_with_outputs(graph, inputs)[1]

    def run_with_outputs(self, graph: str, inputs: Sequence[Float]) -> tuple[list[NDArray[np.float32]], Arrays]:
        """The graph's own outputs as well."""
        names, network = self._networks[graph]
        found = network(dict(zip(names, inputs, strict=True)))
        own, taps = found[: len(OUTPUTS[graph])], found[len(OUTPUTS[graph]) :]
        return own, {t.point.tensor: t.dequantise(v) for t, v in zip(self.taps[graph], taps, strict=True)}


def load_tapped(
    path: Path, outputs: Sequence[str], taps: Sequence[DeployedTap], num_threads: int, backend: str
) -> tuple[list[str], Network]:
    """Names of a file's inputs, and the file loaded so that it gives `outputs` and then the integers of `taps`."""
    model = _load(path)
    for tap in taps:
        kind = helper.np_dtype_to_tensor_dtype(tap.dtype)
        model.graph.output.append(helper.make_tensor_value_info(tap.output, kind, None))
    with tempfile.TemporaryDirectory() as folder:
        exposed = Path(folder) / path.name
        onnx.save(model, exposed)
        network = load_network(exposed, (*outputs, *(tap.output for tap in taps)), num_threads, backend)
    return [item.name for item in model.graph.input], network
