"""The half split of MOT17 papers: the first half of every video trains, the second half tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motrlab.data.motchallenge import Annotations, Detections, SequenceInfo


def half_ranges(num_frames: int) -> tuple[range, range]:
    """Frames (from 1) of the train half, `1..floor(n / 2)`, and of the test half, the rest."""
    middle = num_frames // 2
    return range(1, middle + 1), range(middle + 1, num_frames + 1)


def cut_info(info: SequenceInfo, frames: range) -> SequenceInfo:
    return replace(info, num_frames=len(frames))


def cut_annotations(annotations: Annotations, frames: range) -> Annotations:
    """The rows of `frames`, renumbered so that the first of them is frame 1."""
    part = annotations.select((annotations.frame >= frames.start) & (annotations.frame < frames.stop))
    return replace(part, frame=part.frame - (frames.start - 1))


def cut_detections(detections: Detections, frames: range) -> Detections:
    """The rows of `frames`, renumbered so that the first of them is frame 1."""
    rows = np.flatnonzero((detections.frame >= frames.start) & (detections.frame < frames.stop))
    return Detections(detections.frame[rows] - (frames.start - 1), detections.ltwh[rows], detections.score[rows])
