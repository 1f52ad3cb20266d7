"""Calibration: observers watch the closed loop over whole sequences.

The frame step runs with the tracker's own rules, so the track slots and the QIM see the activations that they will
see at run time; single frames would show them empty slots only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from tqdm import tqdm

from motrlab.config import CalibrationConfig, Config
from motrlab.errors import UserError
from motrlab.quantization.bias_correction import correct_biases
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import FrameOutput, Graphs, TrackState, empty_state, frame_step, state_like
from motrlab.tracking.tracker import Decision, Tracker

_CORRECTION_FRAMES = 16  # of those watched, evenly spread: a mean per channel needs no more


@dataclass(frozen=True)
class CalibrationResult:
    """What the observers saw. `tracks_per_frame`: mean number of live track slots."""

    frames: int
    sequences: int
    tracks_per_frame: float


@dataclass(frozen=True)
class Step:
    """The inputs of both graphs at one frame: `image` `[1, 3, H, W]`, the state before it, what the QIM was given."""

    image: Tensor
    state: TrackState
    qim: tuple[Tensor, ...]

    @property
    def base(self) -> tuple[Tensor, ...]:
        """What the base graph was given."""
        return self.image, self.state.query, self.state.mask, self.state.reference


def calibrate(quantised: QuantizedMotr, sequences: Sequence[Iterable[Tensor]], config: Config) -> CalibrationResult:
    """Choose all scales from at most `config.calibration.num_frames` frames of `sequences`; ends in mode `evaluate`.

    `sequences`: for each one its network inputs `[1, 3, H, W]` in order. The frames are shared out evenly over them;
    what a short one lacks, those behind it give. Raises UserError if there is no frame.
    """
    settings = config.calibration
    quantised.mode("calibrate")
    steps: list[Step] = []
    live, frames, used = 0, 0, 0
    wanted = max(1, settings.num_frames // _CORRECTION_FRAMES)
    bar = tqdm(total=settings.num_frames, desc="calibration", disable=not sys.stderr.isatty(), unit="frame")
    for images in shared_out(sequences, settings):
        before = frames
        for step in closed_loop(quantised.graphs, images, config, keep_state=settings.closed_loop):
            live += int(step.qim[-1].sum())
            if settings.correct_bias and frames % wanted == 0:
                steps.append(step)
            frames += 1
            bar.update()
        used += frames > before
    bar.close()
    if frames == 0:
        raise UserError("calibration: the sequences hold no frame; check data_root and sequences")
    for module in quantised.fake_quantizers():
        module.finish()
    quantised.mode("evaluate")
    if settings.correct_bias:
        correct_biases(quantised, [s.base for s in steps], [s.qim for s in steps])
    return CalibrationResult(frames, used, live / frames)


def shared_out(sequences: Sequence[Iterable[Tensor]], settings: CalibrationConfig) -> Iterator[Iterator[Tensor]]:
    """The frames of each sequence that calibration looks at; each must be used up before the next."""
    left = settings.num_frames
    for number, images in enumerate(sequences):
        if left <= 0:
            return
        share = -(-left // (len(sequences) - number))
        counted = _Counted(islice(images, 0, None, settings.stride), share)
        yield iter(counted)
        left -= counted.taken


class _Counted:
    """At most `limit` items, and how many were taken."""

    def __init__(self, items: Iterable[Tensor], limit: int) -> None:
        self._items, self._limit, self.taken = items, limit, 0

    def __iter__(self) -> Iterator[Tensor]:
        for item in islice(self._items, self._limit):
            self.taken += 1
            yield item


@torch.no_grad()
def closed_loop(graphs: Graphs, images: Iterable[Tensor], config: Config, *, keep_state: bool = True) -> Iterator[Step]:
    """One sequence through the frame step by the tracker's rules, from an empty state: the inputs of every frame.

    With `keep_state` false every frame starts from an empty state.
    """
    model = config.model
    fresh = empty_state(1, model.d_model, model.num_track, model.slot_columns)
    recorder = _Recorder(graphs)
    tracker, state = None, None
    for image in images:
        if tracker is None or state is None or not keep_state:
            tracker, state = Tracker(config.tracker, model.num_detect, model.num_track), state_like(fresh, image)
        before, rules = state, tracker

        def decide(output: FrameOutput, rules: Tracker = rules) -> Decision:
            return rules.update(*output.scores_and_boxes())

        _, state = frame_step(recorder, image, before, decide)
        yield Step(image, before, recorder.qim_inputs)


class _Recorder:
    """Graphs that remember what the QIM was given."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self.base, self.decode = graphs.base, graphs.decode
        self.qim_inputs: tuple[Tensor, ...] = ()

    @property
    def detect_query(self) -> Tensor:
        query: Tensor = self._graphs.detect_query
        return query

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        self.qim_inputs = (embedding, query, mask)
        out: Tensor = self._graphs.qim(embedding, query, mask)
        return out
