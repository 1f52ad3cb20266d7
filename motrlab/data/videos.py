"""Videos in and out: frames of a video, a folder, a camera or a stream, one by one; VP9 files that grow frame by frame.

OpenCV reads them, PyAV writes them: OpenCV gives its VP9 encoder no options, which makes it twenty times as slow.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from motrlab.data.frames import FrameFiles, list_frames
from motrlab.data.motchallenge import read_sequence_info
from motrlab.data.pictures import Image, decode_image
from motrlab.data.rows import is_promised, reading
from motrlab.errors import UserError, tell
from motrlab.files import hidden_name, writing

_DEFAULT_FPS = 30.0  # of a folder that does not say
_CONTAINERS_THAT_COUNT = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # first boxes of MP4 and MOV
_RAW = (".nv12", ".yuv", ".raw")
_URL, _LOGIN = re.compile(r"[a-z][a-z0-9+.-]*://", re.I), re.compile(r"(?<=://)[^/@]*@")
# VP9 by libvpx, both free of fees, at the speed of a video call; constant quality. PyAV's wheels come with encoders
# under the GPL as well (x264, x265): they are not used (docs/howto.md).
_CODEC = "libvpx-vp9"
_CODEC_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0", "lag-in-frames": "0"}
_ROUNDED = 2  # frames that a duration may say too many, of a video that is whole
_FINEST = 100_000  # the largest denominator of a frame rate
# A bad video is to be told in one line, which is ours. FFmpeg reads its level at its first use.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class FrameSource:
    """Frames of one sequence, named `name`, read from `origin`: a video, a folder of pictures, a camera or a stream.

    `frames` reads number (from 1) and image (BGR, or NV12) of each; it ends with a UserError where some were missing.
    `num_frames`: how many to expect, None where nobody knows. `note` is a line on what a user may not expect, or "".
    """

    name: str
    fps: float
    origin: Path | str
    frames: Iterator[tuple[int, Image]]
    num_frames: int | None = None
    note: str = ""


def open_source(given: Path | str, nv12: tuple[int, int] | None = None) -> FrameSource:
    """What to read frames from: a path, the number of a camera, or a URL (`rtsp://…`).

    `nv12`: height and width of the raw NV12 frames that the file, or the files of the folder, hold. Raises UserError:
    no such path, no pictures in the folder, not a readable video, a camera or a stream that does not open.
    """
    path = Path(given)
    if nv12 is None and (_URL.match(str(given)) or (str(given).isdecimal() and not path.exists())):
        source = _open_stream(str(given))
    elif not os.path.exists(path):  # also where Path.exists raises an error, for a name that is too long
        raise UserError(f"{path}: no such file or folder; give a video, a folder of images or a sequence folder")
    elif nv12 is not None:
        source = _open_nv12(path, *nv12)
    else:
        source = _open_folder(path) if path.is_dir() else _open_video(path)
    first = next(source.frames)  # a UserError where there is none
    return replace(source, frames=itertools.chain((first,), source.frames))


def _open_folder(path: Path) -> FrameSource:
    folder = path.resolve()
    is_inside = folder.name == "img1"  # the frames of a sequence: seqinfo.ini is above them
    sequence = folder.parent if is_inside else path
    info = read_sequence_info(sequence) if is_promised(sequence / "seqinfo.ini") else None
    images = path if is_inside else path / (info.image_dir if info else "img1")
    images = images if info or images.is_dir() else path
    listed, name = list_frames(images, info), sequence.resolve().name
    notes, first = [listed.note] * bool(listed.note), next(iter(listed.files.values()), path)
    if (check := _checker()) is None:
        notes.append(f"{images}: pictures are not checked for damage inside; this needs pip install 'motrlab[kit]'")
    elif first.is_file():
        notes += [f"{first}: {told}" for told in check.remarks(first.read_bytes())]
    fps = info.frame_rate if info else _DEFAULT_FPS
    return FrameSource(name, fps, images.resolve(), _read_pictures(listed), len(listed.files), "; ".join(notes))


def _read_pictures(listed: FrameFiles) -> Iterator[tuple[int, Image]]:
    """The pictures that are there and can be read; at the end a UserError on the others."""
    faults, unreadable = [listed.fault] * bool(listed.fault), []
    for number, file in listed.files.items():
        try:
            yield number, _read_picture(file)
        except UserError as error:
            unreadable.append(str(error))
    if unreadable:
        more = f" ({len(unreadable)} such pictures)" if len(unreadable) > 1 else ""
        faults.append(unreadable[0] + more)
    if faults:
        raise UserError("; ".join(faults))


def _read_picture(file: Path) -> Image:
    """Raises UserError also for damage that a decoder would go over, filling in grey."""
    with reading(file):
        data = file.read_bytes()
        if (check := _checker()) is not None and data.startswith((b"\xff\xd8", b"\x89PNG")):
            check.checked_size(data)
    return decode_image(data, file)


def _checker() -> ModuleType | None:
    """`data.validate`; None on a robot, whose install has no Pillow and no tqdm."""
    try:
        from motrlab.data import validate
    except ModuleNotFoundError:
        return None
    return validate


def _open_video(path: Path) -> FrameSource:
    video = cv2.VideoCapture(_utf8(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps <= 1000 else _DEFAULT_FPS
    promised = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))) or None
    return FrameSource(path.stem, fps, path.resolve(), _read_video(path, video, fps), promised)


def _open_stream(given: str) -> FrameSource:
    camera = given.isdecimal()
    told = f"camera {given}" if camera else _LOGIN.sub("", given)  # what is printed has no password
    video = cv2.VideoCapture(int(given)) if camera else cv2.VideoCapture(given)
    fps = video.get(cv2.CAP_PROP_FPS)
    name = re.sub(r"\W+", "_", told.partition("://")[2] or told).strip("_")
    return FrameSource(name, fps if 0 < fps <= 1000 else _DEFAULT_FPS, told, _read_stream(told, video))


def _read_stream(told: str, video: cv2.VideoCapture) -> Iterator[tuple[int, Image]]:
    """Frames as they come. A stream has no end: where it stops there is a UserError."""
    number = 0
    while (image := video.read()[1]) is not None:
        number += 1
        yield number, np.asarray(image, np.uint8)
    video.release()
    if number == 0:
        raise UserError(f"{told}: OpenCV cannot open it or gets no frame; check the address and that it is running")
    raise UserError(f"{told}: the stream ended after frame {number}; start again for new frames")


def _open_nv12(path: Path, height: int, width: int) -> FrameSource:
    """Raw frames one behind the other, in a file or in the files of a folder in the order of their names."""
    if height % 2 or width % 2 or min(height, width) < 2:
        raise UserError(f"{path}: NV12 of {width}×{height} pixels; both sides must be even")
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in _RAW) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no raw frames ({', '.join(_RAW)}) in this folder")
    number = sum(file.stat().st_size for file in files) // (height * width * 3 // 2)
    return FrameSource(path.stem, _DEFAULT_FPS, path.resolve(), _read_nv12(files, height, width), number)


def _read_nv12(files: list[Path], height: int, width: int) -> Iterator[tuple[int, Image]]:
    number, size, faults = 0, height * width * 3 // 2, []
    for file in files:
        with reading(file), file.open("rb") as stream:
            while len(data := stream.read(size)) == size:
                number += 1
                yield number, np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width)
        if data:
            faults.append(f"{file}: the last {len(data)} bytes are no whole frame of {width}×{height} ({size} bytes)")
    if faults:
        raise UserError(f"{faults[0]}; check the size and the file")
    if not number:
        raise UserError(f"{files[0]}: empty; give raw NV12 frames of {width}×{height}")


def _utf8(path: Path) -> str:
    """A path for OpenCV's videos. Raises UserError for a name that is not UTF-8, on which OpenCV would crash."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: OpenCV needs a name in UTF-8; rename it") from error


def _read_video(path: Path, video: cv2.VideoCapture, fps: float) -> Iterator[tuple[int, Image]]:
    """Frames to the last that OpenCV can read; then a UserError if the file promises more."""
    number = 0
    while (image := video.read()[1]) is not None:
        number += 1
        yield number, np.asarray(image, np.uint8)
    promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if number == 0:
        why = "it is cut, damaged, or no video; copy it again, or give another video or a folder of images"
        raise UserError(f"{path}: OpenCV cannot read a frame of it: {why}")
    with path.open("rb") as stream:
        start = stream.read(8)
    # Of other containers OpenCV knows the duration only, which a sound that goes on for longer may have made.
    exact = start[:4] == b"RIFF" or start[4:] in _CONTAINERS_THAT_COUNT
    if number < promised - (0 if exact else min(fps, promised / 4)):
        what = f"{number} of the {promised} frames can be read"
        cause = "trimmed without a new encoding" if exact else "of a varying frame rate"
        raise UserError(f"{path}: {what}: the file is cut, damaged, or {cause}; copy it again if it should be complete")
    if number < promised - _ROUNDED:
        tell(f"motrlab: {path}: {number} frames were read, and its duration would hold about {promised}")


class VideoFile:
    """A video in the making: `write` frames of one size, then `close`, whatever happened in between.

    VP9, which browsers play; any frame rate, up to 65535 pixels a side. It grows under a hidden name beside `path`, the
    same each time, so that what a kill leaves is written over. Raises ModuleNotFoundError where PyAV is not installed.
    """

    def __init__(self, path: Path, fps: float) -> None:
        import av  # here: a robot has no PyAV and reads videos all the same

        self.path, self.num_frames = path, 0
        self._av = av
        self._container: Any = None
        self._stream: Any = None
        self._rate = Fraction(max(fps, 1 / _FINEST)).limit_denominator(_FINEST)
        self._tick = Fraction(1, self._rate.numerator)  # seconds; a frame has a whole number of them
        self._part = path.with_name(f"{hidden_name(path)}part{path.suffix}")
        self._part_name = _utf8(self._part)
        self._shape: tuple[int, ...] = ()
        self._fault: Exception | None = None

    def write(self, frame: Image) -> None:
        """Append a frame. Raises UserError if it has not the size of the first; any other fault is told by `close`."""
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            frames = f"frame {self.num_frames + 1} is {frame.shape[1::-1]}, the first {self._shape[1::-1]}"
            raise UserError(f"{self.path}: {frames} (width, height); give frames of one size")
        self._attempt(partial(self._encode, frame))
        self.num_frames += 1

    def _attempt(self, step: Callable[[], None]) -> None:
        """Keep the first fault for `close`, then do no more: a disk may have room for tracks but not for a video."""
        if self._fault is None:
            try:
                step()
            except (OSError, ValueError, self._av.FFmpegError) as error:
                self._fault = error

    def _encode(self, frame: Image) -> None:
        if self._container is None:
            self._container = self._av.open(self._part_name, "w")
            self._stream = self._container.add_stream(_CODEC, rate=self._rate, options=_CODEC_OPTIONS)
            self._stream.height, self._stream.width, self._stream.pix_fmt = *frame.shape[:2], "yuv420p"
            self._stream.codec_context.time_base = self._tick
        picture = self._av.VideoFrame.from_ndarray(frame, format="bgr24")
        picture.pts, picture.time_base = self.num_frames * self._rate.denominator, self._tick
        self._container.mux(self._stream.encode(picture))

    def _finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Move the video into place, if it has a frame. Raises UserError, and leaves none, if it is not whole."""
        try:
            if self.num_frames:
                self._attempt(self._finish)
                if self._fault and not isinstance(self._fault, OSError):
                    said = f"PyAV cannot write this video ({self._fault}); use .mp4, and no side above 65535 pixels"
                    raise UserError(f"{self.path}: {said}") from self._fault
                with writing(self.path):
                    if self._fault:
                        raise self._fault
                    self._part.replace(self.path)
        finally:
            self._container = self._stream = None
            with contextlib.suppress(OSError):
                self._part.unlink()
