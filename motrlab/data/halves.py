"""The half split of MOT17 papers: the first half of every video trains, the second half tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from motrlab.data.motchallenge import Annotations, Detections

Boxes = TypeVar("Boxes", Annotations, Detections)


def half_ranges(num_frames: int) -> tuple[range, range]:
    """Frames (from 1) of the train half, `1..floor(n / 2)`, and of the test half, the rest."""
    middle = num_frames // 2
    return range(1, middle + 1), range(middle + 1, num_frames + 1)


def cut(boxes: Boxes, frames: range) -> Boxes:
    """The rows of `frames`, renumbered so that the first of them is frame 1."""
    part = boxes.select((boxes.frame >= frames.start) & (boxes.frame < frames.stop))
    return replace(part, frame=part.frame - (frames.start - 1))
