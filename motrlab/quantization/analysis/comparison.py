"""Float, fake-quant and fixed-point side by side on videos, with the tracker's own rules.

Two forms. `compare_taps`: the float model tracks, and all three get the float run's inputs of each frame, so that
errors are comparable tensor by tensor. `compare_outputs`: each tracks on its own state, so that errors come back as
they do at run time, and one sees whether they grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.quantization.analysis.layers import (
    Arrays,
    Float,
    FrameRow,
    LayerRow,
    TapPoint,
    TensorSums,
    layer_row,
    measure,
    sqnr_db,
)
from motrlab.quantization.analysis.taps import GRAPHS, TappedGraphs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import Array, FrameOutput, Graphs, empty_state, frame_step, state_like, to_numpy
from motrlab.tracking.tracker import EMPTY, Decision, Int, Tracker


class TappedNetworks(Protocol):
    """Both deployed graphs with taps (`deploy.taps.TappedRuntime`)."""

    @property
    def points(self) -> Sequence[TapPoint]: ...

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays: ...


def compare_taps(
    quantised: QuantizedMotr, fixed: TappedNetworks, videos: Iterable[Iterable[Tensor]], config: Config
) -> list[LayerRow]:
    """A row for every tap of `fixed`, in graph order, over all frames of `videos`; ends in mode `evaluate`.

    `videos`: for each one its network inputs `[1, 3, H, W]` in order.
    """
    floating, fake = TappedGraphs(quantised, "float"), TappedGraphs(quantised, "evaluate")
    sums: dict[TapPoint, TensorSums] = {}
    with torch.no_grad():
        for images in videos:
            for _ in track(floating, images, config):
                for graph in GRAPHS:
                    _add_frame(sums, graph, floating, fake, fixed)
    quantised.mode("evaluate")
    return [layer_row(point, found) for point, found in sums.items()]


def _add_frame(
    sums: dict[TapPoint, TensorSums], graph: str, floating: TappedGraphs, fake: TappedGraphs, fixed: TappedNetworks
) -> None:
    inputs = floating.inputs[graph]
    fake.run(graph, inputs)
    deployed = fixed.run(graph, [to_numpy(x) for x in inputs])
    for point in fixed.points:
        if point.graph == graph:
            name = point.tensor
            found = measure(point, floating.values[graph][name], fake.values[graph][name], deployed[name])
            sums[point] = sums[point] + found if point in sums else found


def track(graphs: Graphs, images: Iterable[Array], config: Config) -> Iterator[tuple[FrameOutput, Decision]]:
    """One video through the frame step from its beginning: outputs and decision of every frame.

    `images`: network inputs `[1, 3, H, W]`, torch or NumPy, as `graphs` takes them.
    """
    model = config.model
    tracker = Tracker(config.tracker, model.num_detect, model.num_track)
    decisions: list[Decision] = []

    def decide(output: FrameOutput) -> Decision:
        decisions.append(tracker.update(*output.scores_and_boxes()))
        return decisions[-1]

    state = None
    for image in images:
        if state is None:
            state = state_like(empty_state(1, model.d_model, model.num_track, model.slot_columns), image)
        output, state = frame_step(graphs, image, state, decide)
        yield output, decisions.pop()


def compare_outputs(
    floating: Graphs,
    others: Mapping[str, tuple[Graphs, Callable[[Tensor], Array]]],
    videos: Mapping[str, Iterable[Tensor]],
    config: Config,
) -> list[FrameRow]:
    """Track every video with all graphs, each on its own state.

    Args:
        floating: the reference.
        others: stage → its graphs, and what turns a network input into what they take.
        videos: name → network inputs `[1, 3, H, W]` in order.
        config: model and tracker.
    """
    rows = []
    with torch.no_grad():
        for video, images in videos.items():
            frames = list(images)
            reference = _with_tracks(track(floating, frames, config), config)
            runs = {
                stage: _with_tracks(track(graphs, map(adapt, frames), config), config)
                for stage, (graphs, adapt) in others.items()
            }
            for number, expected in enumerate(reference, 1):
                rows += [_frame_row(video, number, stage, expected, next(run)) for stage, run in runs.items()]
    return rows


def _with_tracks(run: Iterator[tuple[FrameOutput, Decision]], config: Config) -> Iterator[tuple[FrameOutput, Int]]:
    """Outputs of every frame, and whom each track slot held in it: `[T]`, a number for frame and slot of birth."""
    num_detect = config.model.num_detect
    holds: Int = np.full(config.model.num_track, EMPTY, np.int64)
    for frame, (output, decision) in enumerate(run):
        yield output, holds
        source = decision.source[0]
        carried = holds[np.maximum(source - num_detect, 0)]
        holds = np.where(source >= num_detect, carried, frame * num_detect + source)
        holds[source == EMPTY] = EMPTY


def _frame_row(
    video: str, frame: int, stage: str, expected: tuple[FrameOutput, Int], found: tuple[FrameOutput, Int]
) -> FrameRow:
    (a, a_holds), (b, b_holds) = expected, found
    shared, a_slots, b_slots = np.intersect1d(a_holds, b_holds, return_indices=True)
    live = shared != EMPTY
    tracks = (a_slots[live], b_slots[live])
    num_either = len(np.union1d(a_holds[a_holds != EMPTY], b_holds[b_holds != EMPTY]))
    return FrameRow(
        video=video,
        frame=frame,
        stage=stage,
        class_logits_db=_output_db(a.logits[-1], b.logits[-1], tracks, len(a_holds)),
        boxes_db=_output_db(a.boxes[-1], b.boxes[-1], tracks, len(a_holds)),
        embedding_db=_output_db(a.embedding, b.embedding, tracks, len(a_holds)),
        shared_tracks_share=int(live.sum()) / num_either if num_either else 1.0,
    )


def _output_db(expected: Array, found: Array, tracks: tuple[Int, Int], num_track: int) -> float:
    """Of outputs `[1, C, R, W]`; `tracks`: the track slots to compare, for each side."""
    x, y = (_slots(v, slots, num_track) for v, slots in zip((expected, found), tracks, strict=True))
    return sqnr_db(float((x * x).sum()), float(((y - x) ** 2).sum()))


def _slots(output: Array, tracks: Int, num_track: int) -> Float:
    """`[C, D + len(tracks)]`: all detect slots, and these track slots in this order."""
    flat = np.asarray(to_numpy(output), np.float64)[0].reshape(output.shape[1], -1)
    num_detect = flat.shape[1] - num_track
    chosen: Float = np.concatenate((flat[:, :num_detect], flat[:, num_detect + tracks]), 1)
    return chosen


class InMode:
    """A model's graphs that switch to `mode` before every call, so that one model can be float and fake in turn."""

    def __init__(self, quantised: QuantizedMotr, mode: str) -> None:
        self._quantised = quantised
        self._mode = mode

    def _graphs(self) -> Graphs:
        if self._quantised.current_mode != self._mode:
            self._quantised.mode(self._mode)
        return self._quantised.graphs

    @property
    def detect_query(self) -> Array:
        return self._quantised.graphs.detect_query

    def base(self, frame: Array, query: Array, mask: Array, reference: Array) -> tuple[Array, Array, Array]:
        return self._graphs().base(frame, query, mask, reference)

    def qim(self, embedding: Array, query: Array, mask: Array) -> Array:
        return self._graphs().qim(embedding, query, mask)

    def decode(self, boxes: Array) -> Array:
        return self._quantised.graphs.decode(boxes)
