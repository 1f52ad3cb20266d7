"""Float, fake-quant and fixed-point side by side on videos, with the tracker's own rules.

`compare_taps`: all three get the inputs of the float run, so that errors are comparable tensor by tensor.
`compare_outputs`: each tracks on its own state, so that errors come back as they do at run time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.quantization.analysis.layers import Arrays, Float, FrameRow, LayerRow, Sums, layer_row, measure, sqnr_db
from motrlab.quantization.analysis.taps import live_rows, recorded, slot_tensors, tap_point
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key
from motrlab.tracking.step import Array, FrameOutput, FrameStep, to_numpy
from motrlab.tracking.tracker import EMPTY, Int

Tracking = Callable[[Sequence[Tensor]], Iterable[FrameStep]]  # a video's network inputs → its frame steps


class TappedNetworks(Protocol):
    """Both deployed graphs with taps (`deploy.taps.TappedRuntime`)."""

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays: ...


@torch.no_grad()
def compare_taps(
    quantised: QuantizedMotr, fixed: TappedNetworks, videos: Iterable[Iterable[Tensor]], config: Config
) -> list[LayerRow]:
    """A row for every tap of `fixed`, in graph order, over all frames of `videos`; ends in mode `evaluate`.

    Empty track slots do not count, as they do not for observers; a tensor that nobody passes has no row. `videos`: for
    each one its network inputs `[1, 3, H, W]` in order.
    """
    sums: dict[Key, Sums] = {}
    point = functools.cache(functools.partial(tap_point, quantised))
    slots, track = slot_tensors(quantised), in_mode(quantised, "float", config)
    for images in videos:
        for step in track(list(images)):
            for graph, inputs in (("base", step.base_inputs), ("qim", step.qim_inputs)):
                floating, fake = (recorded(quantised, graph, inputs, mode) for mode in ("float", "evaluate"))
                deployed = fixed.run(graph, [to_numpy(x) for x in inputs])
                live = np.append(np.ones(config.model.num_detect), to_numpy(inputs[2])) > 0  # detect slots first
                for key in ((graph, name) for name in floating if name in deployed):
                    before, values = sums.setdefault(key, {}), [side[key[1]] for side in (floating, fake, deployed)]
                    if (graph, point(*key).path) in slots:
                        values = [live_rows(x, live) for x in values]
                    if values[0].size:
                        sums[key] = measure(point(*key), *values, before=before)
    return [layer_row(point(*key), found) for key, found in sums.items() if found]


def in_mode(quantised: QuantizedMotr, mode: str, config: Config) -> Tracking:
    """The closed loop over a whole video with the model in `mode`."""

    def run(images: Sequence[Tensor]) -> list[FrameStep]:
        quantised.mode(mode)
        return list(closed_loop(quantised.graphs, images, config))

    return run


def compare_outputs(
    floating: Tracking, others: Mapping[str, Tracking], videos: Mapping[str, Iterable[Tensor]], config: Config
) -> list[FrameRow]:
    """Track every video with all, one after the other, each on its own state.

    `floating`: the reference. `others`: stage → how it tracks. `videos`: name → network inputs `[1, 3, H, W]` in order.
    """
    rows = []
    for video, images in videos.items():
        frames = list(images)
        reference = list(_with_tracks(floating(frames), config))
        runs = {stage: list(_with_tracks(track(frames), config)) for stage, track in others.items()}
        for index, expected in enumerate(reference):
            rows += [_frame_row(video, index + 1, stage, expected, run[index]) for stage, run in runs.items()]
    return rows


def _with_tracks(steps: Iterable[FrameStep], config: Config) -> Iterator[tuple[FrameOutput, Int]]:
    """Outputs of every frame, and whom each track slot held in it: `[T]`, a number for frame and slot of birth."""
    num_detect = config.model.num_detect
    holds: Int = np.full(config.model.num_track, EMPTY, np.int64)
    for frame, step in enumerate(steps):
        yield step.output, holds
        source = step.decision.source[0]
        carried = holds[np.maximum(source - num_detect, 0)]
        holds = np.where(source >= num_detect, carried, frame * num_detect + source)
        holds[source == EMPTY] = EMPTY


def _frame_row(
    video: str, frame: int, stage: str, expected: tuple[FrameOutput, Int], found: tuple[FrameOutput, Int]
) -> FrameRow:
    (a, a_holds), (b, b_holds) = expected, found
    shared, *slots = np.intersect1d(a_holds, b_holds, return_indices=True)
    live = shared != EMPTY
    num_either = len(np.setdiff1d(np.union1d(a_holds, b_holds), EMPTY))
    pairs = ((a.logits[-1], b.logits[-1]), (a.boxes[-1], b.boxes[-1]), (a.embedding, b.embedding))
    logits, boxes, embedding = (_output_db(pair, [chosen[live] for chosen in slots], len(a_holds)) for pair in pairs)
    share = int(live.sum()) / num_either if num_either else 1.0
    return FrameRow(video, frame, stage, logits, boxes, embedding, share)


def _output_db(outputs: tuple[Array, Array], tracks: Sequence[Int], num_track: int) -> float:
    """Of the expected and the found output `[1, C, R, W]`: all detect slots, and of each side these track slots."""
    sides = []
    for output, slots in zip(outputs, tracks, strict=True):
        flat = to_numpy(output).astype(np.float64)[0].reshape(output.shape[1], -1)
        detect, track = np.split(flat, [-num_track], 1)
        sides.append(np.concatenate((detect, track[:, slots]), 1))
    x, y = sides
    return sqnr_db(float((x * x).sum()), float(((y - x) ** 2).sum()))
