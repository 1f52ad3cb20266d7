"""Whole videos through the frame step, one alone or several in parallel."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.classes import PEOPLE, Classes
from motrlab.config import ModelConfig, TrackerConfig
from motrlab.data.pictures import image_size
from motrlab.tracking.rules import Rules
from motrlab.tracking.step import Array, Clock, FrameOutput, Graphs, Seconds, Shapes, concatenate, frame_loop
from motrlab.tracking.tracker import Decision, Float, Int, TrackedBoxes

Preprocess = Callable[[Any], Array]  # an image, BGR or NV12 → `[1, 3, height, width]`


@dataclass(frozen=True)
class FrameTracks:
    """Tracks of one frame of one video: `track_id` `[n]`, `ltwh` `[n, 4]` in pixels of the image, `score` `[n]`.

    `kind` `[n]`: classes, counted from 0; where it is not said, all are of the first.
    """

    track_id: Int
    ltwh: Float
    score: Float
    kind: Int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", np.zeros(len(self.track_id), np.int64))

    def rows(self, frame: int, classes: Classes = PEOPLE) -> NDArray[np.float64]:
        """`[n, 8]`, a row per box, as `evaluation.tracks.Tracks.from_rows` takes them: frame, id, x, y, w, h, score,
        and the number that the class has in files, -1 with one class."""
        number, kind = np.full(len(self.track_id), frame), classes.in_file(self.kind)
        return np.column_stack((number, self.track_id, self.ltwh, self.score, kind)).astype(np.float64)


def track_frames(
    graphs: Graphs,
    images: Iterable[Any],
    preprocess: Preprocess,
    model: Shapes | ModelConfig,
    tracker_config: TrackerConfig,
    seconds: Seconds | None = None,
) -> Iterator[FrameTracks]:
    """Track one video from its beginning: the tracks of each frame. `graphs` are any stage's.

    `images`: `uint8 [H, W, 3]`, BGR, or NV12 `uint8 [3 H / 2, W]`, in order; `preprocess` makes of one what `graphs`
    takes, NumPy or torch. `seconds`: if given, `preprocess`, the parts of `step.frame_step`, and `total` get one entry
    a frame.
    """
    for tracks in track_streams(graphs, [images], preprocess, model, tracker_config, seconds):
        assert tracks[0] is not None
        yield tracks[0]


def track_streams(
    graphs: Graphs,
    videos: Sequence[Iterable[Any]],
    preprocess: Preprocess,
    model: Shapes | ModelConfig,
    tracker_config: TrackerConfig,
    seconds: Seconds | None = None,
) -> Iterator[list[FrameTracks | None]]:
    """Track several videos in lock-step, as a batch: for every frame a list with one entry per video.

    A video that has ended gives None while the others go on. Arguments as for `track_frames`.
    """
    rules = Rules(tracker_config, model, batch=len(videos))
    clock = Clock(seconds)
    images: list[Any] = [np.zeros((model.height, model.width, 3), np.uint8)] * len(videos)  # of an ended video its last
    alive: list[bool] = []
    written: list[TrackedBoxes] = []

    def frames() -> Iterator[Array]:
        for row in itertools.zip_longest(*videos):
            clock.start()
            alive[:] = [image is not None for image in row]
            images[:] = [before if image is None else image for before, image in zip(images, row, strict=True)]
            inputs = [preprocess(image) for image in images]
            frame = concatenate(inputs) if len(inputs) > 1 else inputs[0]
            clock.lap("preprocess")
            yield frame

    def decide(output: FrameOutput) -> Decision:
        decision, live = rules.decide(output)
        areas = [math.prod(image_size(image)) for image in images]
        written[:] = [tracks.written(tracker_config, area) for tracks, area in zip(live, areas, strict=True)]
        return decision

    for _ in frame_loop(graphs, frames(), decide, model, clock=clock):
        clock.lap("total")
        rows = zip(written, images, alive, strict=True)
        yield [_to_pixels(boxes, *image_size(image)) if on else None for boxes, image, on in rows]


def _to_pixels(boxes: TrackedBoxes, height: int, width: int) -> FrameTracks:
    scale = np.array([width, height, width, height], np.float64)
    return FrameTracks(boxes.track_id, box_cxcywh_to_ltwh(boxes.cxcywh * scale), boxes.score, boxes.kind)
