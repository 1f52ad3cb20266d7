"""Predicted tracks, and the MOTChallenge text that holds them: `frame,id,x,y,w,h,score,-1,-1,-1`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from motrlab.data.rows import Rows, read_text
from motrlab.files import write_text


@dataclass(frozen=True)
class Tracks:
    """Predicted boxes of one sequence, one row per box.

    `frame` int64 [n] from 1, `track_id` int64 [n] from 0, `ltwh` float64 [n, 4] in pixels of the original image,
    `score` float64 [n]. A track id stands at most once in a frame.
    """

    frame: np.ndarray
    track_id: np.ndarray
    ltwh: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.frame)
        assert self.track_id.shape == (n,), self.track_id.shape
        assert self.ltwh.shape == (n, 4), self.ltwh.shape
        assert self.score.shape == (n,), self.score.shape

    def __len__(self) -> int:
        return len(self.frame)

    @staticmethod
    def empty() -> "Tracks":
        """No boxes at all."""
        return Tracks.from_rows([])

    @staticmethod
    def from_rows(rows: ArrayLike) -> "Tracks":
        """From rows of frame, id, x, y, w, h, score: an array `[n, 7]` or a list of tuples."""
        table = np.asarray(rows, dtype=np.float64).reshape(-1, 7)
        frame, track_id = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        return Tracks(frame, track_id, table[:, 2:6].copy(), table[:, 6].copy())


def read_tracks(path: Path) -> Tracks:
    """Read a MOTChallenge result file; rows keep their order, a missing score is 1, an empty file has no tracks.

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
    return Tracks.from_rows(table if has_score else np.insert(table, 6, 1.0, axis=1))


def write_tracks(path: Path, tracks: Tracks) -> None:
    """Write `format_tracks` in one move."""
    write_text(Path(path), format_tracks(tracks))


def format_tracks(tracks: Tracks) -> str:
    """Lines `frame,id,x,y,w,h,score,-1,-1,-1`, sorted by frame and id, boxes to 0.001 px, scores to five digits."""
    order = np.lexsort((tracks.track_id, tracks.frame))
    columns = (tracks.frame[order], tracks.track_id[order], *tracks.ltwh[order].T, tracks.score[order])
    return "".join(
        f"{frame},{track_id},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{score:.5f},-1,-1,-1\n"
        for frame, track_id, x, y, w, h, score in zip(*(column.tolist() for column in columns), strict=True)
    )
