"""Predicted tracks, and the MOTChallenge text that holds them: `frame,id,x,y,w,h,score,-1,-1,-1`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from motrlab.data.motchallenge import read_text
from motrlab.errors import UserError
from motrlab.files import write_text

_EXPECTED = "expected frame,id,x,y,w,h[,score,...]"


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
    def empty() -> Tracks:
        """No boxes at all."""
        return Tracks.from_rows([])

    @staticmethod
    def from_rows(rows: ArrayLike) -> Tracks:
        """From rows of frame, id, x, y, w, h, score: an array `[n, 7]` or a list of tuples."""
        table = np.asarray(rows, dtype=np.float64).reshape(-1, 7)
        frame, track_id = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        return Tracks(frame, track_id, table[:, 2:6].copy(), table[:, 6].copy())


def read_tracks(path: Path) -> Tracks:
    """Read a MOTChallenge result file; rows keep their order, a missing score is 1, an empty file has no tracks.

    Raises UserError, naming file and line, for a missing file, fewer than six columns, anything but finite numbers,
    a frame below 1, a negative or fractional id, and an id that stands twice in a frame.
    """
    rows: list[tuple[float, ...]] = []
    first_line: dict[tuple[float, float], int] = {}  # of each frame and id
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}:{number}")
        frame, track_id = row[:2]
        earlier = first_line.setdefault((frame, track_id), number)
        if earlier != number:
            raise UserError(f"{path}:{number}: id {track_id:g} twice in frame {frame:g} (first in line {earlier})")
        rows.append(row)
    return Tracks.from_rows(rows)


def _parse(line: str, where: str) -> tuple[float, ...]:
    """Frame, id, box and score of a line, separated by commas or white space."""
    fields = line.split(",") if "," in line else line.split()
    if len(fields) < 6:
        raise UserError(f"{where}: {len(fields)} columns; {_EXPECTED}")
    values = [_number(field, where) for field in fields[:7]]
    frame, track_id = values[:2]
    if frame < 1 or frame != int(frame):
        raise UserError(f"{where}: frame {fields[0].strip()}; frames are whole numbers from 1")
    if track_id < 0 or track_id != int(track_id):
        raise UserError(f"{where}: id {fields[1].strip()}; track ids are whole numbers from 0 (a detection file?)")
    return (*values, 1.0)[:7]


def _number(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError as error:
        raise UserError(f"{where}: {field.strip()!r} is not a number; {_EXPECTED}") from error
    if not math.isfinite(value):
        raise UserError(f"{where}: {field.strip()!r} is not finite; remove the line")
    return value


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
