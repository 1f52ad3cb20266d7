"""Predicted tracks, and the MOTChallenge text that holds them: `frame,id,x,y,w,h,score,-1,-1,-1`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from motrlab.data.motchallenge import read_text, write_rows
from motrlab.data.plain_rows import LARGEST, are_whole, have_frame_and_id_once, plain_rows
from motrlab.errors import UserError

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

    Raises UserError, naming file and line, for a missing file, fewer than six columns, anything but finite numbers up
    to 2^53, a frame below 1, a negative or fractional id, and an id that stands twice in a frame.
    """
    text = read_text(Path(path))
    table = plain_rows(text)
    if table is None or table.shape[1] < 7 or not _is_correct(table):
        return Tracks.from_rows(_line_by_line(text, path))
    return Tracks.from_rows(table[:, :7])


def _is_correct(table: np.ndarray) -> bool:
    return bool(
        (table[:, :2].min(0) >= (1, 0)).all() and are_whole(table[:, :2]) and have_frame_and_id_once(table[:, :2])
    )


def _line_by_line(text: str, path: Path) -> list[tuple[float, ...]]:
    """Rows of all spellings; finds the line to name in an error."""
    rows: list[tuple[float, ...]] = []
    first_line: dict[tuple[float, float], int] = {}  # of each frame and id
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}:{number}")
        frame, track_id = row[:2]
        earlier = first_line.setdefault((frame, track_id), number)
        if earlier != number:
            raise UserError(f"{path}:{number}: id {track_id:g} twice in frame {frame:g} (first in line {earlier})")
        rows.append(row)
    return rows


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
    if abs(value) > LARGEST:
        raise UserError(f"{where}: {field.strip()} is beyond 2^53, where numbers are no longer exact; number ids anew")
    return value


def write_tracks(path: Path, tracks: Tracks) -> None:
    """Write `frame,id,x,y,w,h,score,-1,-1,-1` in one move, sorted by frame and id, boxes to 0.001 px."""
    order = np.lexsort((tracks.track_id, tracks.frame))
    write_rows(
        Path(path), tracks.frame[order], tracks.track_id[order], tracks.ltwh[order], tracks.score[order], decimals=3
    )
