"""The deployed tracker: an artefact run with NumPy, OpenCV and ONNX Runtime. torch is not imported.

ONNX Runtime executes the exact integers (`*.ort.onnx`). OpenVINO, the independent check, executes the same files in
plain operators (`plain.py`), on kernels of its own: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.config import TrackerConfig
from motrlab.data.preprocess import preprocess, preprocess_bytes
from motrlab.deploy.artifact import read_tracker_description, verify_artifact
from motrlab.deploy.kernels import onnxruntime_options, openvino_options
from motrlab.errors import UserError
from motrlab.quantization.functions import DELTA, LARGEST_LOGIT, box_table
from motrlab.tracking.sequence import Seconds, track_frames
from motrlab.tracking.tracker import TrackedBoxes

Array = NDArray[Any]
Float32 = NDArray[np.float32]
Network = Callable[[dict[str, Array]], list[Float32]]  # inputs by name → outputs in the order asked for

BACKENDS = ("onnxruntime", "openvino")
BASE_OUTPUTS = ("class_logits", "boxes", "embedding")
QIM_OUTPUTS = ("updated_query",)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Sizes that the frame step and pre-processing need; network input is `height` × `width`."""

    height: int
    width: int
    d_model: int
    num_detect: int
    num_track: int
    slot_columns: int


class OnnxGraphs:
    """Both graphs as ONNX, as the frame step wants them (`tracking.step.Graphs`).

    `boxes`: what the base graph gives, `relative` (boxes) or `logits`; `exact`: on the grids of the fixed-point model.
    """

    def __init__(self, base: Network, qim: Network, detect_query: Float32, *, boxes: str, exact: bool = True) -> None:
        self.base_network = base
        self.qim_network = qim
        self.boxes, self.exact = boxes, exact
        self._detect_query = detect_query

    @property
    def detect_query(self) -> Float32:
        return self._detect_query

    def base(
        self, frame: Array, query: Float32, mask: Float32, reference: Float32
    ) -> tuple[tuple[Float32], tuple[Float32], Float32]:
        inputs = {"image": frame, "track_query": query, "track_mask": mask, "track_reference": reference}
        logits, boxes, embedding = self.base_network(inputs)
        return (logits,), (boxes,), embedding

    def qim(self, embedding: Float32, query: Float32, mask: Float32) -> Float32:
        return self.qim_network({"embedding": embedding, "query": query, "mask": mask})[0]

    def decode(self, boxes: Float32) -> Float32:
        if self.boxes == "relative":
            return boxes
        if self.exact:
            found: Float32 = box_table()[(boxes * DELTA + LARGEST_LOGIT).astype(np.int64)]
            return found
        cxcywh: Float32 = np.reciprocal(1 + np.exp(-np.clip(boxes, -50, 50)))
        return cxcywh


@dataclass(frozen=True)
class Runtime:
    """Loaded graphs; `track` may be called for one sequence after another."""

    graphs: OnnxGraphs
    shapes: Shapes
    tracker: TrackerConfig

    def preprocess(self, image: NDArray[np.uint8]) -> Array:
        """BGR `uint8 [H, W, 3]` of any size → `uint8 [1, height, width, 3]`; for float graphs, what they were
        trained on: `float32 [1, 3, height, width]`.
        """
        function = preprocess_bytes if self.graphs.exact else preprocess
        result: Array = function(image, self.shapes.height, self.shapes.width)
        return result[None]

    def track(self, images: Iterable[NDArray[np.uint8]], seconds: Seconds | None = None) -> Iterator[TrackedBoxes]:
        """Track one sequence from its beginning: nothing is kept from the one before.

        `images` are BGR `uint8 [H, W, 3]` in order. Each yields its boxes, ltwh in pixels of that image. `seconds`
        collects the time of each part of the frame step (`tracking.sequence.track_frames`).
        """
        return track_frames(self.graphs, images, self.preprocess, self.shapes, self.tracker, seconds)


def load_artifact(folder: Path, *, num_threads: int = 1, backend: str = "onnxruntime") -> Runtime:
    """Check and load an artefact. Raises UserError: a file is missing or was changed, unknown backend."""
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
    folder = Path(folder)
    verify_artifact(folder)
    description = read_tracker_description(folder)
    frame, sizes = description["preprocess"], description["shapes"]
    slots = {name: sizes[name] for name in ("d_model", "num_detect", "num_track", "slot_columns")}
    with np.load(folder / "queries.npz") as queries:
        detect_query = queries["query"]
    bits = int(description["weight_bits"])
    base, qim = (
        load_network(folder / f"{graph}.ort.onnx", outputs, num_threads, backend, weight_bits=bits)
        for graph, outputs in (("base", BASE_OUTPUTS), ("qim", QIM_OUTPUTS))
    )
    graphs = OnnxGraphs(base, qim, detect_query, boxes=description["boxes"])
    shapes = Shapes(height=frame["height"], width=frame["width"], **slots)
    return Runtime(graphs, shapes, _tracker_rules(description["tracker"], folder))


def _tracker_rules(values: dict[str, Any], folder: Path) -> TrackerConfig:
    try:
        return TrackerConfig(**values)
    except TypeError as error:
        raise UserError(
            f"{folder / 'tracker.json'}: rules of another motrlab ({error}); convert the run again"
        ) from error


def load_network(
    path: Path, outputs: tuple[str, ...], num_threads: int, backend: str = "onnxruntime", *, weight_bits: int = 8
) -> Network:
    """An ONNX file on one of `BACKENDS`; for OpenVINO a `*.ort.onnx` file in plain operators."""
    if backend == "openvino":
        return load_openvino(path, outputs, num_threads)
    return load_onnxruntime(path, outputs, num_threads, weight_bits=weight_bits)


def load_onnxruntime(path: Path, outputs: tuple[str, ...], num_threads: int, *, weight_bits: int = 8) -> Network:
    """An ONNX file on ONNX Runtime's CPU kernels (`kernels.onnxruntime_options`). Raises UserError if it fails."""
    import onnxruntime

    options = onnxruntime_options(num_threads, weight_bits=weight_bits)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: ONNX Runtime cannot load it ({reason}); convert the run again") from error

    def run(inputs: dict[str, Array]) -> list[Float32]:
        found: list[Any] = session.run(list(outputs), inputs)
        return found

    return run


def load_openvino(path: Path, outputs: tuple[str, ...], num_threads: int) -> Network:
    """An ONNX file on OpenVINO's CPU plugin, in plain operators. Raises UserError if it fails."""
    import onnx
    import openvino

    from motrlab.deploy.plain import plain_form

    try:
        model = onnx.load(path)
        if any(node.domain for node in model.graph.node):
            model = plain_form(model)
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", openvino_options(num_threads))
        request = compiled.create_infer_request()
    except Exception as error:  # onnx and OpenVINO have classes of their own
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: OpenVINO cannot load it ({reason}); convert the run again") from error

    def run(inputs: dict[str, Array]) -> list[Float32]:
        found = request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return [np.array(found[name]) for name in outputs]  # the request's own buffers are written anew next time

    return run
