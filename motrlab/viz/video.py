"""Videos of overlays: MPEG-4 files, written as frames come."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from motrlab.errors import UserError
from motrlab.files import hidden_name
from motrlab.viz.overlay import Image

_MAX_SIDE_PX = 8190  # MPEG-4 (ISO/IEC 14496-2) has 13 bits for a side, and FFmpeg wants it even
_MAX_TICKS = 65535  # and 16 bits for the ticks of its clock, which OpenCV makes a power of ten of the frame rate


class VideoFile:
    """A video in the making: `write` frames of one size, then `close`, whatever happened in between.

    It grows under a hidden name beside `path`, the same each time, so that what a kill leaves is written over. A frame
    rate or a size that MPEG-4 does not take gives way to the nearest that it does, and `notes` has a line on it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.num_frames = path, 0
        self.notes: list[str] = []
        self._fps = _encodable_rate(fps)
        if abs(self._fps - fps) > 1e-3:
            self.notes.append(f"{path}: {self._fps:g} frames a second; MPEG-4 does not take {fps:g}")
        self._part = path.with_name(f"{hidden_name(path)}part{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: Image) -> None:
        """Append a frame. Raises UserError if it has not the size of the first."""
        if self._writer is None:
            self._writer = self._open(frame)
        if frame.shape != self._shape:
            frames = f"frame {self.num_frames + 1} is {frame.shape[1::-1]}, the first {self._shape[1::-1]}"
            raise UserError(f"{self.path}: {frames} (width, height); give frames of one size")
        same = self._size == frame.shape[1::-1]
        self._writer.write(frame if same else cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA))
        self.num_frames += 1

    def _open(self, frame: Image) -> cv2.VideoWriter:
        self._shape = frame.shape
        shrink = min(1.0, _MAX_SIDE_PX / max(frame.shape))
        width, height = (max(2, round(side * shrink)) for side in frame.shape[1::-1])
        self._size = (width, height)
        if shrink < 1:
            wanted = f"{frame.shape[1]}×{frame.shape[0]}"
            self.notes.append(f"{self.path}: {width}×{height} pixels; MPEG-4 does not take {wanted}")
        return cv2.VideoWriter(str(self._part), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, self._size)

    def close(self) -> None:
        """Move the video into place, if it has a frame. Raises UserError, and leaves none, if it cannot be read."""
        if self._writer is None:
            return
        try:
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: OpenCV cannot write this video; use .mp4, or pictures (--frames)")
            self._writer.release()
            if cv2.VideoCapture(str(self._part)).get(cv2.CAP_PROP_FRAME_COUNT) != self.num_frames:
                raise UserError(f"{self.path}: the video could not be written whole; is the disk full?")
            os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)


def _encodable_rate(fps: float) -> float:
    """The nearest rate that OpenCV counts exactly with at most 65,535 ticks a second."""
    fps = min(max(fps, 0.01), _MAX_TICKS)
    return next(rate for digits in (3, 2, 1, 0) if round((rate := round(fps, digits)) * 10**digits) <= _MAX_TICKS)
