"""Thresholds of the tracker tried on recordings: MOTA, IDF1 and switches over a grid, without the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.classes import PEOPLE, Classes
from motrlab.config import TrackerConfig
from motrlab.data.motchallenge import ANNOTATION_FIELDS, Annotations
from motrlab.errors import UserError
from motrlab.evaluation import clear, identity
from motrlab.evaluation.pairs import pair_sequence
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tracks import Tracks
from motrlab.tracking.replay import Recording, join, replay

SCORES = ("mota", "idf1", "idsw", "fp", "fn")
WHOLE = ("max_misses", "coast_written")  # thresholds that are whole numbers


@dataclass(frozen=True)
class Half:
    """Recorded videos and their ground truth, all as one: frames and ids of the videos go on counting."""

    recording: Recording
    gt: Annotations
    classes: Classes = PEOPLE

    @staticmethod
    def of(recordings: Mapping[str, Recording], gt: Mapping[str, Annotations], classes: Classes = PEOPLE) -> Half:
        """Raises UserError without videos, or where one has no ground truth."""
        lacking = [name for name in recordings if name not in gt]
        if lacking or not recordings:
            raise UserError(f"recordings: {'no ground truth of ' + lacking[0] if lacking else 'no video'}")
        shifted, frames, ids = [], 0, 0
        for name, recording in recordings.items():
            own = gt[name]
            shifted.append(replace(own, frame=own.frame + frames, track_id=own.track_id + ids))
            frames, ids = frames + recording.num_frames, int(shifted[-1].track_id.max(initial=ids)) + 1
        columns = {field: np.concatenate([getattr(a, field) for a in shifted]) for field in ANNOTATION_FIELDS}
        has_class = all(a.has_class for a in shifted)
        return Half(join(list(recordings.values())), Annotations(**columns, has_class=has_class), classes)

    def tracks(self, rules: TrackerConfig) -> Tracks:
        """What `rules` would have written; boxes in pixels. Raises UserError as `replay` does."""
        frame, boxes = replay(self.recording, rules)
        # Rows of the recording that were written have the size of their image; one frame has one size.
        first = np.searchsorted(self.recording.frame, frame)
        scale = self.recording.size[first][:, [0, 1, 0, 1]].astype(np.float64)
        ltwh, class_id = box_cxcywh_to_ltwh(boxes.cxcywh * scale), self.classes.in_file(boxes.kind)
        return Tracks(frame, boxes.track_id, ltwh, boxes.score.astype(np.float64), class_id)

    def scores(self, rules: TrackerConfig, protocol: str = PROTOCOLS[0]) -> dict[str, float]:
        """`SCORES` of all videos together; `mota` and `idf1` are fractions, the others counts."""
        return score(self.gt, self.tracks(rules), protocol, self.classes)


def score(gt: Annotations, tracks: Tracks, protocol: str = PROTOCOLS[0], classes: Classes = PEOPLE) -> dict[str, float]:
    """`SCORES` of one sequence; of several classes those of all boxes, not averaged over the classes."""
    sequence = pair_sequence(gt, tracks, check_protocol(protocol), classes)
    found = clear.metrics(clear.count(sequence), overall=True)
    found |= identity.metrics(identity.count(sequence), overall=True)
    return {name: found[name] for name in SCORES}


@dataclass(frozen=True)
class Axis:
    """A threshold of the tracker and its values."""

    name: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        known = [field.name for field in fields(TrackerConfig)]
        if self.name not in known or not self.values:
            raise UserError(f"tuning: {self.name!r} with {len(self.values)} values; one of {', '.join(known)}")


def with_values(rules: TrackerConfig, values: Mapping[str, float]) -> TrackerConfig:
    """`rules` with other thresholds. Raises UserError where they do not go together."""
    return replace(rules, **{name: int(v) if name in WHOLE else v for name, v in values.items()})  # type: ignore[arg-type]


def best(values: np.ndarray, name: str) -> tuple[int, int] | None:
    """Row and column of the best value of one of `SCORES`; the first of equals, None where all are NaN."""
    if np.isnan(values).all():
        return None
    worth = values if name in ("mota", "idf1") else -values
    row, column = np.unravel_index(int(np.nanargmax(worth)), values.shape)
    return int(row), int(column)
