"""The deployed tracker: an artefact run with NumPy, OpenCV and ONNX Runtime. torch is not imported.

ONNX Runtime executes the exact integers (`*.ort.onnx`). OpenVINO, the independent check, executes the same files in
plain operators (`plain.py`), on kernels of its own: the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.classes import PEOPLE, Classes
from motrlab.config import TrackerConfig
from motrlab.config.checks import build
from motrlab.data.preprocess import preprocess, preprocess_bytes
from motrlab.deploy.artifact import read_tracker_description, verify_artifact
from motrlab.deploy.kernels import BACKENDS, Array, Network, load_network
from motrlab.errors import UserError
from motrlab.quantization.functions import DELTA, LARGEST_LOGIT, box_table
from motrlab.tracking.rules import Rules
from motrlab.tracking.sequence import FrameTracks, Seconds, track_frames
from motrlab.tracking.step import FrameStep, Shapes, frame_loop

Float32 = NDArray[np.float32]
BaseOutputs = tuple[tuple[Float32], tuple[Float32], Float32]  # logits and boxes of one layer, embeddings

INPUTS = {"base": ("image", "track_query", "track_mask", "track_reference"), "qim": ("embedding", "query", "mask")}
OUTPUTS = {"base": ("class_logits", "boxes", "embedding"), "qim": ("updated_query",)}


def named(graph: str, inputs: Iterable[Array]) -> dict[str, Array]:
    """The inputs of `base` or `qim` by name."""
    return dict(zip(INPUTS[graph], inputs, strict=True))


@dataclass(frozen=True)
class OnnxGraphs:
    """Both graphs as ONNX, as the frame step needs them (`tracking.step.Graphs`).

    `boxes`: what the base graph gives, `relative` (boxes) or `logits`; `exact`: on the grids of the fixed-point model.
    """

    base_network: Network
    qim_network: Network
    detect_query: Float32
    _: KW_ONLY
    boxes: str
    exact: bool = True

    def base(self, frame: Array, query: Float32, mask: Float32, reference: Float32) -> BaseOutputs:
        logits, boxes, embedding = self.base_network(named("base", (frame, query, mask, reference)))
        return (logits,), (boxes,), embedding

    def qim(self, embedding: Float32, query: Float32, mask: Float32) -> Float32:
        return self.qim_network(named("qim", (embedding, query, mask)))[0]

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
    """Loaded graphs; `track` may be called for one sequence after another. `classes`: what its tracks are of."""

    graphs: OnnxGraphs
    shapes: Shapes
    tracker: TrackerConfig
    classes: Classes = PEOPLE

    @property
    def networks(self) -> tuple[Network, Network]:
        """Base graph and QIM, inputs by name."""
        return self.graphs.base_network, self.graphs.qim_network

    def preprocess(self, image: NDArray[np.uint8]) -> Array:
        """BGR `uint8 [H, W, 3]` of any size, or NV12 `uint8 [3 H / 2, W]` → `uint8 [1, height, width, 3]`; for float
        graphs, what they were trained on: `float32 [1, 3, height, width]`.
        """
        function = preprocess_bytes if self.graphs.exact else preprocess
        result: Array = function(image, self.shapes.height, self.shapes.width)
        return result[None]

    def track(self, images: Iterable[NDArray[np.uint8]], seconds: Seconds | None = None) -> Iterator[FrameTracks]:
        """Track one sequence from its beginning: nothing is kept from the one before.

        `images` are BGR `uint8 [H, W, 3]`, or NV12 `uint8 [3 H / 2, W]`, in order. Each yields its tracks. `seconds`
        collects the time of each part of the frame step (`tracking.sequence.track_frames`).
        """
        return track_frames(self.graphs, images, self.preprocess, self.shapes, self.tracker, seconds)

    def steps(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[FrameStep]:
        """The same sequence as `track`, with what both graphs are given and give in each frame."""
        inputs = map(self.preprocess, images)
        return frame_loop(self.graphs, inputs, Rules(self.tracker, self.shapes), self.shapes)

    def on_files(self, folder: Path, *, num_threads: int = 1, backend: str = "onnxruntime") -> Runtime:
        """This tracker on the float or the portable files of a folder: `base.onnx`, `qim.onnx`."""
        base, qim = load_networks(folder, "onnx", num_threads, backend)
        return replace(self, graphs=replace(self.graphs, base_network=base, qim_network=qim, exact=False))


def load_artifact(
    folder: Path, *, num_threads: int = 1, backend: str = "onnxruntime", options: Mapping[str, Any] | None = None
) -> Runtime:
    """Check and load an artefact. Raises UserError: a file is missing or was changed, unknown backend.

    `options`: more for ONNX Runtime (`kernels.onnxruntime_session`).
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: use one of {', '.join(BACKENDS)}")
    folder = Path(folder)
    verify_artifact(folder)
    description = read_tracker_description(folder)
    try:
        with np.load(folder / "queries.npz") as queries:
            detect_query = queries["query"]
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"{folder / 'queries.npz'}: holds no queries ({error}); convert the run again") from error
    bits = int(description["weight_bits"])
    base, qim = load_networks(folder, "ort.onnx", num_threads, backend, weight_bits=bits, options=options)
    sizes = description["preprocess"] | description["shapes"]
    try:
        tracker = build(TrackerConfig, description["tracker"], "tracker")
    except (UserError, TypeError) as error:
        file = folder / "tracker.json"
        raise UserError(f"{file}: rules of another motrlab ({error}); convert the run again") from error
    graphs = OnnxGraphs(base, qim, detect_query, boxes=description["boxes"])
    classes = Classes.parse(description.get("classes", ""), str(folder / "tracker.json"))
    sizes |= {"num_classes": len(classes)}
    return Runtime(graphs, Shapes(**{field.name: sizes[field.name] for field in fields(Shapes)}), tracker, classes)


def load_networks(
    folder: Path, ending: str, num_threads: int, backend: str = "onnxruntime", **more: Any
) -> list[Network]:
    """`base.ENDING` and `qim.ENDING` of a folder, as `load_network` loads them (`more`); the QIM on one thread."""
    files = zip(OUTPUTS.items(), (num_threads, 1), strict=True)
    return [
        load_network(folder / f"{graph}.{ending}", outputs, threads, backend, **more)
        for (graph, outputs), threads in files
    ]
