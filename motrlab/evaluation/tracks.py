"""Predicted tracks, and the MOTChallenge text that holds them: `frame,id,x,y,w,h,score,-1,-1,-1`.

With several classes the eighth column is the class, a number as in gt files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from motrlab.classes import PEOPLE, Classes
from motrlab.data.rows import Rows, read_text
from motrlab.files import write_text

if TYPE_CHECKING:  # it brings in OpenCV, for which `eval-files` does not wait
    from motrlab.tracking.sequence import FrameTracks


@dataclass(frozen=True)
class Tracks:
    """Predicted boxes of one sequence, one row per box.

    `frame` int64 [n] from 1, `track_id` int64 [n] from 0, `ltwh` float64 [n, 4] in pixels of the original image,
    `score` float64 [n]; `class_id` int64 [n], a number as in gt files, -1 where it is not said, as with one class. A
    track id stands at most once in a frame.
    """

    frame: np.ndarray
    track_id: np.ndarray
    ltwh: np.ndarray
    score: np.ndarray
    class_id: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = len(self.frame)
        if self.class_id is None:
            object.__setattr__(self, "class_id", np.full(n, -1, np.int64))
        assert self.class_id.shape == (n,), self.class_id.shape
        assert self.track_id.shape == (n,), self.track_id.shape
        assert self.ltwh.shape == (n, 4), self.ltwh.shape
        assert self.score.shape == (n,), self.score.shape

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, rows: np.ndarray) -> Tracks:
        """The rows that a mask or an index array names."""
        return Tracks(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(parts: Sequence[Tracks]) -> Tracks:
        """One behind the other."""
        return Tracks(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Tracks)))

    @staticmethod
    def of_frames(frames: Iterable[FrameTracks | None], classes: Classes = PEOPLE) -> Tracks:
        """Of one video's frames in order; None counts as a frame and has no rows."""
        found = (frame.rows(number, classes) for number, frame in enumerate(frames, 1) if frame is not None)
        return Tracks.from_rows(np.concatenate(list(found)))

    @staticmethod
    def empty() -> Tracks:
        """No boxes at all."""
        return Tracks.from_rows([])

    @staticmethod
    def from_rows(rows: ArrayLike) -> Tracks:
        """From rows of frame, id, x, y, w, h, score and, perhaps, class: `[n, 7]` or `[n, 8]`, or a list of tuples."""
        table = np.asarray(rows, dtype=np.float64)
        table = table.reshape(-1, 8 if table.ndim == 2 and table.shape[1] == 8 else 7)
        frame, track_id = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        kind = table[:, 7] if table.shape[1] == 8 else np.full(len(table), -1)
        return Tracks(frame, track_id, table[:, 2:6].copy(), table[:, 6].copy(), kind.astype(np.int64))


def read_tracks(path: Path, classes: Classes = PEOPLE) -> Tracks:
    """Read a MOTChallenge result file; rows keep their order, a missing score is 1, an empty file has no tracks.

    Of several `classes` every row must say one, in the eighth column; with one class nothing of it is read.

    Raises UserError, naming file and line, for a missing file, fewer than six columns, anything but finite numbers up
    to 2⁵³, a frame below 1, a negative or fractional id, and an id that stands twice in a frame.
    """
    rows = Rows.of(read_text(Path(path)), path)
    has_score = len(rows) and len(rows.cells()) > 6
    table = rows.first(7 if has_score else 6)
    frame, track_id = table[:, :2].T
    rows.refuse(frame < 1, "frame {:.0f}; frames count from 1", frame)
    rows.refuse(track_id < 0, "id {:.0f}; track ids count from 0 (a detection file?)", track_id)
    rows.refuse_repeats(frame, track_id)
    found = Tracks.from_rows(table if has_score else np.insert(table, 6, 1.0, axis=1))
    return found if len(classes) == 1 else replace(found, class_id=_classes(rows, classes))


def _classes(rows: Rows, classes: Classes) -> np.ndarray:
    """The eighth column of a result file."""
    if not len(rows):
        return np.zeros(0, np.int64)
    column = rows.first(8)[:, 7]
    known = ", ".join(f"{number} {name}" for number, name in classes)
    rows.refuse(~np.isin(column, classes.numbers), f"class (column 8) {{:g}}; one of {known} expected", column)
    return column.astype(np.int64)


def write_tracks(path: Path, tracks: Tracks) -> None:
    """Write `format_tracks` in one move."""
    write_text(Path(path), format_tracks(tracks))


def format_tracks(tracks: Tracks) -> str:
    """Lines `frame,id,x,y,w,h,score,CLASS,-1,-1`, sorted by frame and id, boxes to 0.001 px, scores to five digits."""
    order = np.lexsort((tracks.track_id, tracks.frame))
    columns = (
        tracks.frame[order],
        tracks.track_id[order],
        *tracks.ltwh[order].T,
        tracks.score[order],
        tracks.class_id[order],
    )
    return "".join(
        f"{frame},{track_id},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{score:.5f},{kind},-1,-1\n"
        for frame, track_id, x, y, w, h, score, kind in zip(*(column.tolist() for column in columns), strict=True)
    )
