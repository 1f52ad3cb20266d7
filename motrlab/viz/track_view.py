"""One stage's tracks of one sequence, ready to be drawn frame by frame, with or without their mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations
from motrlab.data.pictures import Image
from motrlab.evaluation.mistakes import find_mistakes
from motrlab.evaluation.tracks import Tracks
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.curves import COLOURS
from motrlab.viz.overlay import TRAIL_FRAMES, Trails, draw_boxes, draw_frame, tracks_of_frame, trails_until
from motrlab.viz.raster import bgr

MISTAKES = {  # kind → colour, in words
    "miss": (COLOURS[3], "miss"),
    "false": (COLOURS[1], "false positive"),
    "switch": (COLOURS[4], "switch, old > new id"),
}


@dataclass(frozen=True)
class Shown:
    """What is drawn: `gt` boxes, `trails`, mistakes and nothing else, tracks of these `ids` (none: of all)."""

    gt: bool = True
    trails: bool = True
    errors_only: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrackView:
    """Tracks of `stage` on a sequence with ground truth `gt` (all of it, also what does not count)."""

    stage: str
    tracks: Tracks
    gt: Annotations
    protocol: str
    classes: Classes = PEOPLE

    @cached_property
    def mistakes(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64], list[str]]]:
        """Frame `[n]`, box `ltwh [n, 4]` and label of every mistake, by the kinds of `MISTAKES`."""
        found = find_mistakes(self.gt, self.tracks, self.protocol, self.classes)
        ids = self.tracks.track_id
        labels = [f"{old} > {new}" for new, old in ids[found.switched[:, 1:]].tolist()]
        switched = found.switched[:, 1]
        false = ids[found.false].tolist()
        return {
            "miss": (self.gt.frame[found.missed], self.gt.ltwh[found.missed], ["miss"] * len(found.missed)),
            "false": (self.tracks.frame[found.false], self.tracks.ltwh[found.false], [f"false {i}" for i in false]),
            "switch": (self.tracks.frame[switched], self.tracks.ltwh[switched], labels),
        }

    @cached_property
    def wrong_frames(self) -> NDArray[np.int64]:
        """Frames with a mistake, in order."""
        return np.unique(np.concatenate([frame for frame, *_ in self.mistakes.values()]))

    def counts(self, frame: int) -> dict[str, int]:
        """How many mistakes of each kind a frame has."""
        return {kind: int((frames == frame).sum()) for kind, (frames, *_) in self.mistakes.items()}

    def draw(self, image: Image, frame: int, shown: Shown, scale: float = 1.0) -> Image:
        """`image` of frame number `frame`, `scale` times the original size, with what is `shown`."""
        if shown.errors_only:
            return self._with_mistakes(image, frame, scale)
        found = tracks_of_frame(self.tracks, frame, self.classes)
        on = np.isin(found.track_id, shown.ids) if shown.ids else np.ones(len(found.track_id), bool)
        tracks = FrameTracks(found.track_id[on], found.ltwh[on] * scale, found.score[on], found.kind[on])
        gt = self.gt.select(self.gt.frame == frame).counted(self.classes).ltwh * scale if shown.gt else None
        return draw_frame(image, tracks, self._trails(frame, shown, scale), gt=gt, min_width_px=0, classes=self.classes)

    def _trails(self, frame: int, shown: Shown, scale: float) -> Trails:
        if not shown.trails:
            return {}
        rows = (self.tracks.frame > frame - TRAIL_FRAMES) & (self.tracks.frame <= frame)
        trails = trails_until(self.tracks.select(rows), frame)
        return {k: points * scale for k, points in trails.items() if not shown.ids or k in shown.ids}

    def _with_mistakes(self, image: Image, frame: int, scale: float) -> Image:
        drawn = image
        for kind, (frames, boxes, labels) in self.mistakes.items():
            rows = np.flatnonzero(frames == frame)
            drawn = draw_boxes(drawn, boxes[rows] * scale, bgr(MISTAKES[kind][0]), [labels[row] for row in rows])
        return drawn
