"""A whole sequence through the frame step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol

import numpy as np

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.config import TrackerConfig
from motrlab.tracking.step import FrameOutput, Graphs, empty_state, frame_step, state_like
from motrlab.tracking.tracker import Decision, TrackedBoxes, Tracker

Seconds = MutableMapping[str, list[float]]  # stage of the frame step → seconds per frame


class SlotShapes(Protocol):
    """What is needed of `config.ModelConfig`; a deployed artefact has no more than this."""

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
    preprocess: Callable[[Any], Any],
    model: SlotShapes,
    tracker_config: TrackerConfig,
    seconds: Seconds | None = None,
) -> Iterator[TrackedBoxes]:
    """Track one sequence from its beginning; boxes come back as ltwh in pixels of each original image.

    Args:
        graphs: any stage's graphs.
        images: `uint8 [H, W, 3]`, BGR, in order.
        preprocess: image → `[1, 3, height, width]` of the kind that `graphs` takes.
        model: shapes.
        tracker_config: the rules.
        seconds: if given, `preprocess`, `base`, `tracker`, `qim` and `total` get one entry a frame.
    """
    tracker = Tracker(tracker_config, model.num_detect, model.num_track)
    watch = _Stopwatch(graphs, seconds) if seconds is not None else None
    state = None
    for image in images:
        started = time.perf_counter()
        frame = preprocess(image)
        if watch:
            watch.add("preprocess", started)
        if state is None:
            state = state_like(empty_state(1, model.d_model, model.num_track, model.slot_columns), frame)
        boxes: list[TrackedBoxes] = []
        height, width = image.shape[:2]

        def decide(output: FrameOutput, area: float = height * width, boxes: list[TrackedBoxes] = boxes) -> Decision:
            began = time.perf_counter()
            scores, cxcywh = output.scores_and_boxes()
            decision = tracker.update(scores, cxcywh)
            boxes.extend(tracker.written(decision, scores, cxcywh, area))
            if watch:
                watch.add("tracker", began)
            return decision

        _, state = frame_step(watch or graphs, frame, state, decide)
        if watch:
            watch.add("total", started)
        scale = np.array([width, height, width, height], np.float64)
        found = boxes[0]
        yield TrackedBoxes(found.track_id, box_cxcywh_to_ltwh(found.cxcywh * scale), found.score)


class _Stopwatch:
    """Graphs that note how long each call takes."""

    def __init__(self, graphs: Graphs, seconds: Seconds) -> None:
        self._graphs = graphs
        self._seconds = seconds
        self.decode = graphs.decode
        self.detect_query = graphs.detect_query

    def add(self, name: str, started: float) -> None:
        self._seconds.setdefault(name, []).append(time.perf_counter() - started)

    def base(self, *inputs: Any) -> Any:
        started = time.perf_counter()
        outputs = self._graphs.base(*inputs)
        self.add("base", started)
        return outputs

    def qim(self, *inputs: Any) -> Any:
        started = time.perf_counter()
        output = self._graphs.qim(*inputs)
        self.add("qim", started)
        return output
