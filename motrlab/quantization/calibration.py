"""Calibration: observers watch the closed loop over whole sequences.

The frame step runs with the tracker's own rules, so the track slots and the QIM see the activations that they will
see at run time; single frames would show them empty slots only.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from motrlab.config import CalibrationConfig, Config
from motrlab.errors import UserError
from motrlab.quantization.equalisation import equalise
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.rounding import adapt_rounding
from motrlab.tracking.rules import Rules
from motrlab.tracking.step import Array, FrameStep, Graphs, frame_loop

Videos = Sequence[Iterable[Tensor]]  # for each its network inputs `[1, 3, H, W]` in order
_ROUNDING_FRAMES = 16  # of those watched, evenly spread


@dataclass(frozen=True)
class CalibrationResult:
    """What the observers saw. `tracks_per_frame`: mean number of live track slots."""

    frames: int
    sequences: int
    tracks_per_frame: float


def calibrate(quantised: QuantizedMotr, sequences: Videos, config: Config) -> CalibrationResult:
    """Choose all scales from at most `config.calibration.num_frames` frames of `sequences`; ends in mode `evaluate`.

    The frames are shared out evenly over `sequences`; what a short one lacks, those behind it give. Raises UserError if
    there is no frame.
    """
    if config.calibration.equalise:
        equalise(quantised.model)
    quantised.ranges.forget()
    quantised.mode("calibrate")
    kept: list[FrameStep] = []
    live: list[int] = []
    used = set()
    for number, step, is_kept in _watched(quantised, sequences, config):
        quantised.advance()
        live.append(int(step.qim_inputs[-1].sum()))
        used.add(number)
        kept += [step] * is_kept
    if not live:
        raise UserError("calibration: the sequences hold no frame; check data_root and sequences")
    quantised.ranges.finish()
    adapt_rounding(quantised, kept)
    return CalibrationResult(len(live), len(used), sum(live) / len(live))


def round_again(quantised: QuantizedMotr, sequences: Videos, config: Config) -> None:
    """If calibration rounds adaptively, do so again after a training, on its frames; ends in mode `evaluate`."""
    quantised.mode("evaluate")
    if config.calibration.adaptive_rounding:
        adapt_rounding(quantised, [step for _, step, is_kept in _watched(quantised, sequences, config) if is_kept])


def _watched(quantised: QuantizedMotr, sequences: Videos, config: Config) -> Iterator[tuple[int, FrameStep, bool]]:
    """The closed loop in the current mode: number of the sequence, frame, and whether weights are rounded by it."""
    settings, frames = config.calibration, itertools.count()
    every = max(1, settings.num_frames // _ROUNDING_FRAMES)
    with tqdm(total=settings.num_frames, desc="calibration", disable=not sys.stderr.isatty(), unit="frame") as bar:
        for number, images in enumerate(shared_out(sequences, settings)):
            frames_there = (image.to(quantised.ranges.scale.device) for image in images)
            for step in closed_loop(quantised.graphs, frames_there, config, keep_state=settings.closed_loop):
                yield number, step, settings.adaptive_rounding and next(frames) % every == 0
                bar.update()


def shared_out(sequences: Videos, settings: CalibrationConfig) -> Iterator[Iterator[Tensor]]:
    """The frames of each sequence that calibration looks at; each must be used up before the next."""
    left = settings.num_frames

    def share(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
        nonlocal left
        for image in itertools.islice(images, 0, size * settings.stride, settings.stride):
            left -= 1
            yield image

    for number, images in enumerate(sequences):
        yield share(images, -(-left // (len(sequences) - number)))


@torch.no_grad()
def closed_loop(
    graphs: Graphs, images: Iterable[Array], config: Config, *, keep_state: bool = True
) -> Iterator[FrameStep]:
    """One sequence by the tracker's rules; without `keep_state` every frame starts from an empty state."""
    for sequence in [images] if keep_state else ([image] for image in images):
        yield from frame_loop(graphs, sequence, Rules(config.tracker, config.model), config.model)
