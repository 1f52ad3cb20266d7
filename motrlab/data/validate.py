"""Is a sequence what its `seqinfo.ini` says? Every frame there, a JPEG of the right size that decodes to its end.

Every frame is decoded at an eighth of its size (3 ms for 1920×1080): a file that lost its middle, or whose end was lost
and closed with an end marker, has a faultless header and would train on grey.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from motrlab.data.frames import list_frames, why_unreadable
from motrlab.data.motchallenge import (
    Annotations,
    Detections,
    SequenceInfo,
    read_annotations,
    read_detections,
    read_sequence_info,
)
from motrlab.data.workers import Map, worker_map
from motrlab.errors import UserError

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_PADDING_BYTES = 64  # a cache line; a hole of zeros in the data leaves more
_MEGAPIXELS_PER_WORKER = 1000  # fewer are checked sooner (1.5 s) than a process starts

Progress = Callable[[str, int, int], None]  # what is being done, how many so far, how many in all


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height from a JPEG's frame header. Raises ValueError: not a JPEG, or cut short (no end marker).

    Nothing is decoded: the segments are walked to the first scan, behind which an end marker can only be real,
    because entropy-coded data never contain one.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG file")
    size, at = None, 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0-15; the three are DHT, JPG, DAC
            size = int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == 0xDA:  # start of scan
            break
        at += 2 + length
    if size is None or data.find(b"\xff\xd9", at) < 0:
        raise ValueError("JPEG file is cut short")
    return size


def check_decodes(data: bytes) -> None:
    """Decode at an eighth of the size. Raises ValueError where libjpeg finds the picture's data damaged.

    libjpeg goes on over damage, filling in grey, and tells of it on file descriptor 2 only, so that is read. A few
    bytes too many before the end marker are let pass: padding, behind a whole picture.
    """
    with _said_on_stderr() as said:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if image is None:
        raise ValueError("JPEG file does not decode")
    for line in said:
        extra = re.search(r": (\d+) extraneous bytes before marker 0xd9", line)
        padding = extra is not None and int(extra[1]) <= _PADDING_BYTES
        if line.startswith(("Corrupt JPEG data", "Premature end")) and not padding:
            raise ValueError(f"JPEG file is damaged inside ({line[0].lower()}{line[1:]})")


@contextlib.contextmanager
def _said_on_stderr() -> Iterator[list[str]]:
    """Lines that C code writes to file descriptor 2 inside the block; short ones, a pipe holds 64 KiB."""
    lines: list[str] = []
    sys.stderr.flush()
    kept, (reader, writer) = os.dup(2), os.pipe()
    try:
        os.dup2(writer, 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(writer)
        with os.fdopen(os.dup(reader), encoding="utf-8", errors="replace") as stream:
            lines += stream.read().splitlines()
    finally:
        os.close(kept)
        os.close(reader)


def check_frame(folder: Path, info: SequenceInfo, frame: int) -> None:
    """Raises UserError unless the frame is there and a whole JPEG of the sequence's size."""
    path = info.frame_path(folder, frame)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        others = [p.name for p in path.parent.glob(f"{path.stem}.*")]
        hint = f"there is {others[0]}, but seqinfo.ini says imExt={info.image_ext}" if others else "copy it anew"
        raise UserError(f"{path}: frame {frame} of {info.num_frames} is missing; {hint}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        width, height = jpeg_size(data)
        if (width, height) == (info.width, info.height):
            check_decodes(data)
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy it anew") from error
    if (width, height) != (info.width, info.height):
        raise UserError(
            f"{path}: {width}×{height} pixels, but seqinfo.ini says {info.width}×{info.height}; mend one of them"
        )


def frame_workers(num_workers: int, megapixels: float) -> AbstractContextManager[Map]:
    """A `map` over frames in up to `num_workers` processes; in this one for 1, and for few `megapixels` in all."""
    return worker_map(min(num_workers, 1 + int(megapixels / _MEGAPIXELS_PER_WORKER)), chunksize=16)


@dataclass(frozen=True, kw_only=True)
class CheckedSequence:
    """A sequence in which nothing is wrong, as it was read: `annotations` and `detections` where it has the files."""

    info: SequenceInfo
    annotations: Annotations | None
    detections: Detections | None


def validate_sequence(folder: Path, *, frame_map: Map = map, progress: Progress | None = None) -> CheckedSequence:
    """Check seqinfo, every frame, gt and detections. Raises UserError with the first fault found.

    `frame_map` is how the frames are gone through: `map`, or what `frame_workers` gives.
    """
    info = readable_info(folder)
    gt, det = folder / "gt" / "gt.txt", folder / "det" / "det.txt"
    annotations = read_annotations(gt, info) if gt.is_file() else None
    detections = read_detections(det, info) if det.is_file() else None
    checks = frame_map(partial(check_frame, folder, info), range(1, info.num_frames + 1))
    for done, _ in enumerate(checks, 1):
        if progress is not None:
            progress(f"validate {info.name}", done, info.num_frames)
    return CheckedSequence(info=info, annotations=annotations, detections=detections)


def readable_info(folder: Path) -> SequenceInfo:
    """The sequence's `seqinfo.ini`. Raises UserError, also for frames that are no JPEG files."""
    info = read_sequence_info(folder)
    if info.image_ext.lower() not in _JPEG_SUFFIXES:
        raise UserError(f"{folder / 'seqinfo.ini'}: imExt={info.image_ext}; frames must be JPEG files (.jpg)")
    return info if info.width and info.height else _sized(folder, info)


def _sized(folder: Path, info: SequenceInfo) -> SequenceInfo:
    """With the size of the first frame, where seqinfo.ini does not say it."""
    file = list_frames(folder / info.image_dir, info).files.get(1, info.frame_path(folder, 1))
    try:
        width, height = jpeg_size(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: {why_unreadable(file, error)}; copy it anew") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}; copy it anew") from error
    return replace(info, width=info.width or width, height=info.height or height)
