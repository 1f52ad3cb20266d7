"""What the graphs are given and give while a tracker runs: to compare, to calibrate, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee

import numpy as np
from numpy.typing import NDArray

from motrlab.data.preprocess import preprocess
from motrlab.deploy.kernels import Array
from motrlab.deploy.runtime import OUTPUTS, Runtime, named
from motrlab.quantization.functions import REFERENCE

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One frame of the closed loop. `inputs`, `outputs`: graph → name → array; the image as bytes, `float_image` as
    the portable and float graphs take it. `num_tracks`: how many tracks came into the frame.
    """

    inputs: dict[str, dict[str, Array]]
    outputs: dict[str, dict[str, Array]]
    float_image: NDArray[np.float32]
    num_tracks: int

    def float_inputs(self, graph: str) -> dict[str, Array]:
        """Of the portable or the float graph."""
        return self.inputs[graph] | ({"image": self.float_image} if graph == "base" else {})


def closed_loop(runtime: Runtime, images: Iterable[Image]) -> Iterator[Sample]:
    """Samples of one sequence, BGR `uint8 [H, W, 3]`, through the exact integers of an artefact."""
    pictures, again = tee(images)
    for picture, step in zip(pictures, runtime.steps(again), strict=True):
        inputs = {"base": named("base", step.base_inputs), "qim": named("qim", step.qim_inputs)}
        outputs = {graph: outputs_of(runtime, graph, fed) for graph, fed in inputs.items()}
        image = preprocess(picture, runtime.shapes.height, runtime.shapes.width)[None]
        yield Sample(inputs, outputs, image, int(step.before.mask.sum()))


def outputs_of(runtime: Runtime, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """By name."""
    network = runtime.graphs.base_network if graph == "base" else runtime.graphs.qim_network
    return dict(zip(OUTPUTS[graph], network(inputs), strict=True))


def random_sample(runtime: Runtime, seed: int) -> Sample:
    """Noise of the right kind: every second track slot in use, references on their grid."""
    random, shapes = np.random.default_rng(seed), runtime.shapes
    slots, columns = shapes.num_track, shapes.slot_columns
    image = random.integers(0, 256, (shapes.height, shapes.width, 3), np.uint8)
    query = random.standard_normal((1, shapes.d_model, slots // columns, columns), np.float32)
    mask = (np.arange(slots) % 2).astype(np.float32).reshape(1, 1, 1, slots)
    steps = random.integers(0, REFERENCE + 1, (1, 4, slots // columns, columns))
    frame = runtime.preprocess(image)
    state = (query, mask, (steps / REFERENCE).astype(np.float32))
    embedding = random.standard_normal((1, shapes.d_model, 1, slots), np.float32) * mask
    flat = query.reshape(embedding.shape) * mask
    inputs = {"base": named("base", (frame, *state)), "qim": named("qim", (embedding, flat, mask))}
    outputs = {name: outputs_of(runtime, name, fed) for name, fed in inputs.items()}
    return Sample(inputs, outputs, preprocess(image, shapes.height, shapes.width)[None], slots // 2)
