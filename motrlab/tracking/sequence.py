"""Whole videos through the frame step, one alone or several in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Protocol

import numpy as np

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.config import TrackerConfig
from motrlab.tracking.step import Array, FrameOutput, Graphs, empty_state, frame_step, state_like
from motrlab.tracking.tracker import Decision, TrackedBoxes, Tracker

Seconds = MutableMapping[str, list[float]]  # part of the frame step → seconds per frame
Preprocess = Callable[[Any], Array]  # image `uint8 [H, W, 3]`, BGR → `[1, 3, height, width]`


class Shapes(Protocol):
    """What is needed of `config.ModelConfig`; a deployed artefact has no more than this."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def num_detect(self) -> int: ...
    @property
    def num_track(self) -> int: ...
    @property
    def slot_columns(self) -> int: ...


def track_frames(
    graphs: Graphs,
    images: Iterable[Any],
    preprocess: Preprocess,
    model: Shapes,
    tracker_config: TrackerConfig,
    seconds: Seconds | None = None,
) -> Iterator[TrackedBoxes]:
    """Track one video from its beginning; boxes come back as ltwh in pixels of each original image.

    Args:
        graphs: any stage's graphs.
        images: `uint8 [H, W, 3]`, BGR, in order.
        preprocess: image → what `graphs` takes, NumPy or torch.
        model: shapes.
        tracker_config: the rules.
        seconds: if given, `preprocess`, `base`, `tracker`, `qim` and `total` get one entry a frame.
    """
    for boxes in track_streams(graphs, [images], preprocess, model, tracker_config, seconds):
        assert boxes[0] is not None
        yield boxes[0]


def track_streams(
    graphs: Graphs,
    videos: Sequence[Iterable[Any]],
    preprocess: Preprocess,
    model: Shapes,
    tracker_config: TrackerConfig,
    seconds: Seconds | None = None,
) -> Iterator[list[TrackedBoxes | None]]:
    """Track several videos in lock-step, as a batch: for every frame a list with one entry per video.

    A video that has ended gives None while the others go on. Arguments as for `track_frames`.
    """
    tracker = Tracker(tracker_config, model.num_detect, model.num_track, batch=len(videos))
    watch = _Stopwatch(graphs, seconds)
    streams = [iter(video) for video in videos]
    images: list[Any] = [next(stream, None) for stream in streams]
    alive = [image is not None for image in images]
    sizes = np.array([image.shape[:2] if image is not None else (1, 1) for image in images])  # height, width
    blank = np.zeros((model.height, model.width, 3), np.uint8)  # stands in for a video without frames
    images = [image if image is not None else blank for image in images]
    state = None
    while any(alive):
        started = time.perf_counter()
        frame = watch.timed("preprocess", _batch, [preprocess(image) for image in images], started=started)
        if state is None:
            state = state_like(empty_state(len(videos), model.d_model, model.num_track, model.slot_columns), frame)
        written: list[TrackedBoxes] = []

        def decide(output: FrameOutput, written: list[TrackedBoxes] = written) -> Decision:
            began = time.perf_counter()
            scores, cxcywh = output.scores_and_boxes()
            decision = tracker.update(scores, cxcywh)
            written.extend(tracker.written(decision, scores, cxcywh, sizes.prod(1)))
            watch.add("tracker", began)
            return decision

        _, state = frame_step(watch, frame, state, decide)
        watch.add("total", started)
        yield [_to_pixels(boxes, size) if on else None for boxes, size, on in zip(written, sizes, alive, strict=True)]
        for index, stream in enumerate(streams):
            following = next(stream, None) if alive[index] else None
            alive[index] = following is not None
            if following is not None:
                images[index], sizes[index] = following, following.shape[:2]


def _batch(frames: list[Array]) -> Array:
    if len(frames) == 1:
        return frames[0]
    if isinstance(frames[0], np.ndarray):
        return np.concatenate(frames)
    import torch

    return torch.cat(frames)


def _to_pixels(boxes: TrackedBoxes, size: Any) -> TrackedBoxes:
    height, width = size
    scale = np.array([width, height, width, height], np.float64)
    return TrackedBoxes(boxes.track_id, box_cxcywh_to_ltwh(boxes.cxcywh * scale), boxes.score)


class _Stopwatch:
    """Graphs that note how long each call takes, if there is a place to note it."""

    def __init__(self, graphs: Graphs, seconds: Seconds | None) -> None:
        self._graphs = graphs
        self._seconds = seconds
        self.decode = graphs.decode

    @property
    def detect_query(self) -> Array:
        return self._graphs.detect_query

    def add(self, name: str, started: float) -> None:
        if self._seconds is not None:
            self._seconds.setdefault(name, []).append(time.perf_counter() - started)

    def timed(self, name: str, call: Callable[..., Any], *arguments: Any, started: float | None = None) -> Any:
        began = time.perf_counter() if started is None else started
        result = call(*arguments)
        self.add(name, began)
        return result

    def base(self, frame: Array, query: Array, mask: Array, reference: Array) -> Any:
        return self.timed("base", self._graphs.base, frame, query, mask, reference)

    def qim(self, embedding: Array, query: Array, mask: Array) -> Array:
        return self.timed("qim", self._graphs.qim, embedding, query, mask)
