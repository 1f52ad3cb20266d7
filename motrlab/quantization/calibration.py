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
from motrlab.quantization.equalisation import equalise
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.rounding import adapt_rounding
from motrlab.tracking.step import Array, FrameOutput, FrameStep, Graphs, frame_loop
from motrlab.tracking.tracker import Decision, Tracker

_ROUNDING_FRAMES = 16  # of those watched, evenly spread


@dataclass(frozen=True)
class CalibrationResult:
    """What the observers saw. `tracks_per_frame`: mean number of live track slots."""

    frames: int
    sequences: int
    tracks_per_frame: float


def calibrate(quantised: QuantizedMotr, sequences: Sequence[Iterable[Tensor]], config: Config) -> CalibrationResult:
    """Choose all scales from at most `config.calibration.num_frames` frames of `sequences`; ends in mode `evaluate`.

    `sequences`: for each one its network inputs `[1, 3, H, W]` in order. The frames are shared out evenly over them;
    what a short one lacks, those behind it give. Raises UserError if there is no frame.
    """
    settings = config.calibration
    if settings.equalise:
        equalise(quantised.model)
    quantised.mode("calibrate")
    kept: list[FrameStep] = []
    live, frames, used = 0, 0, set[int]()
    for frames, (number, step) in enumerate(_watched(quantised, sequences, settings, config), 1):
        quantised.advance()
        live += int(step.qim_inputs[-1].sum())
        used.add(number)
        if _counts_for_rounding(frames, settings):
            kept.append(step)
    if not frames:
        raise UserError("calibration: the sequences hold no frame; check data_root and sequences")
    quantised.ranges.finish()
    quantised.mode("evaluate")
    if kept:
        adapt_rounding(quantised, kept)
    return CalibrationResult(frames, len(used), live / frames)


def round_again(quantised: QuantizedMotr, sequences: Sequence[Iterable[Tensor]], config: Config) -> None:
    """Adaptive rounding after a training, which has moved the weights off their grid; ends in mode `evaluate`.

    On the frames of calibration, if its config has `adaptive_rounding`; the arguments are those of `calibrate`.
    """
    settings = config.calibration
    quantised.mode("evaluate")
    if not settings.adaptive_rounding:
        return
    steps = (step for _, step in _watched(quantised, sequences, settings, config))
    kept = [step for frame, step in enumerate(steps, 1) if _counts_for_rounding(frame, settings)]
    if kept:
        adapt_rounding(quantised, kept)


def _counts_for_rounding(frame: int, settings: CalibrationConfig) -> bool:
    return settings.adaptive_rounding and (frame - 1) % max(1, settings.num_frames // _ROUNDING_FRAMES) == 0


def _watched(
    quantised: QuantizedMotr, sequences: Sequence[Iterable[Tensor]], settings: CalibrationConfig, config: Config
) -> Iterator[tuple[int, FrameStep]]:
    """The closed loop over all frames that calibration looks at, in the current mode; and the sequence of each."""
    with tqdm(total=settings.num_frames, desc="calibration", disable=not sys.stderr.isatty(), unit="frame") as bar:
        for number, images in enumerate(shared_out(sequences, settings)):
            for step in closed_loop(quantised.graphs, images, config, keep_state=settings.closed_loop):
                yield number, step
                bar.update()


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
def closed_loop(
    graphs: Graphs, images: Iterable[Array], config: Config, *, keep_state: bool = True
) -> Iterator[FrameStep]:
    """One sequence through the frame step by the tracker's rules, from an empty state.

    With `keep_state` false every frame starts from an empty state.
    """
    model = config.model
    for part in [images] if keep_state else ([image] for image in images):
        tracker = Tracker(config.tracker, model.num_detect, model.num_track)

        def decide(output: FrameOutput, rules: Tracker = tracker) -> Decision:
            return rules.update(*output.scores_and_boxes())

        yield from frame_loop(graphs, part, decide, model)
