"""Calibration: observers watch the closed loop over whole sequences.

The frame step runs with the tracker's own rules, so the track slots and the QIM see the activations that they will
see at run time; single frames would show them empty slots only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import FrameOutput, empty_state, frame_step, state_like
from motrlab.tracking.tracker import EMPTY, Decision, Tracker


@dataclass(frozen=True)
class CalibrationResult:
    """What the observers saw. `tracks_per_frame`: mean number of live track slots."""

    frames: int
    sequences: int
    tracks_per_frame: float


def calibrate(quantised: QuantizedMotr, sequences: Iterable[Iterable[Tensor]], config: Config) -> CalibrationResult:
    """Choose all scales from at most `config.calibration.num_frames` frames of `sequences`; ends in mode `evaluate`.

    `sequences`: for each one its network inputs `[1, 3, H, W]` in order; the frames are shared out evenly over
    `config.calibration.num_sequences`. Raises UserError if there is no frame.
    """
    settings = config.calibration
    quantised.mode("calibrate")
    per_sequence = -(-settings.num_frames // settings.num_sequences)
    frames, live, used = 0, 0, 0
    bar = tqdm(total=settings.num_frames, desc="calibration", disable=not sys.stderr.isatty(), unit="frame")
    for images in sequences:
        limit = min(per_sequence, settings.num_frames - frames)
        if limit <= 0:
            break
        counts = _watch(quantised, images, limit, config)
        bar.update(len(counts))
        frames, live, used = frames + len(counts), live + sum(counts), used + bool(counts)
    bar.close()
    if frames == 0:
        raise UserError("calibration: the sequences hold no frame; check data_root and sequences")
    for module in quantised.fake_quantizers():
        module.finish()
    quantised.mode("evaluate")
    return CalibrationResult(frames, used, live / frames)


def _watch(quantised: QuantizedMotr, images: Iterable[Tensor], limit: int, config: Config) -> list[int]:
    """Up to `limit` frames of one sequence through the frame step; live tracks after each."""
    model = config.model
    tracker = Tracker(config.tracker, model.num_detect, model.num_track)
    counts: list[int] = []

    def decide(output: FrameOutput) -> Decision:
        decision = tracker.update(*output.scores_and_boxes())
        counts.append(int((decision.source != EMPTY).sum()))
        return decision

    state = None
    with torch.no_grad():
        for _, image in zip(range(limit), images, strict=False):
            if state is None:
                state = state_like(empty_state(1, model.d_model, model.num_track, model.slot_columns), image)
            _, state = frame_step(quantised.graphs, image, state, decide)
    return counts
