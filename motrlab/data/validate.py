"""Is a sequence what its `seqinfo.ini` says? Every frame there, a JPEG or PNG file of the right size, whole to its end.

Every JPEG is decoded at an eighth of its size (3 ms for 1920×1080): a file that lost its middle, or whose end was lost
and closed with an end marker, has a faultless header and would train on grey. A PNG has checksums, which are compared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import PIL.Image
from PIL import ExifTags
from tqdm import tqdm

from motrlab.data.formats import Format, how_to_import
from motrlab.data.frames import FrameFiles, list_frames
from motrlab.data.motchallenge import (
    Annotations,
    Detections,
    SequenceInfo,
    read_detections,
    read_recognised,
    read_sequence_info,
)
from motrlab.data.pictures import SIXTEEN_BITS
from motrlab.data.rows import counts, is_promised, reading
from motrlab.data.workers import Map
from motrlab.errors import UserError

PACKED_SUFFIXES = (".jpg", ".jpeg", ".png")
_CHOOSE = "`python -m motrlab import --map NAME=pedestrian` counts the class NAME as people"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PNG_DEPTH = 24  # where the bits a value stand: behind signature, length, name, width and height
_PADDING_BYTES = 64  # a cache line; a hole of zeros in the data leaves more


class Image(Protocol):
    """A frame's file, on the disk or in an archive; `str` of it stands in messages."""

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class CheckedSequence:
    """A sequence that is what it says; `files[i]` is frame `i + 1`.

    `annotations` is None without gt.txt, `detections` without det.txt; `notes`: lines on what a user may not expect.
    """

    info: SequenceInfo
    files: tuple[Path, ...]
    annotations: Annotations | None
    detections: Detections | None
    notes: tuple[str, ...]


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG or PNG file.

    Raises ValueError: neither, cut short (no end marker), or a PNG chunk is not what its checksum says. Of a JPEG the
    header is read only, see `check_decodes`.
    """
    png = data.startswith(_PNG[:4]) and _PNG.startswith(data[: len(_PNG)])  # also one that is cut inside its signature
    kind = "PNG" if png else "JPEG"
    if kind == "JPEG" and not data.startswith(b"\xff\xd8"):
        raise ValueError("not a JPEG or PNG file")
    stream, whole = io.BytesIO(data), _PNG_END in data
    try:
        with PIL.Image.open(stream, formats=[kind]) as image:
            size = image.size
            if kind == "JPEG":  # read to its first scan, behind which entropy-coded data contain no other marker
                whole = data.find(b"\xff\xd9", stream.tell()) >= 0
            elif whole:
                image.verify()
    except SyntaxError as error:  # of a checksum
        raise ValueError(f"{kind} file is damaged inside ({error})") from error
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise ValueError(f"{kind} file is cut short") from error
    if not whole:
        raise ValueError(f"{kind} file is cut short")
    return size


def remarks(data: bytes) -> list[str]:
    """How a picture file is read, where a user may not expect it; a line each."""
    with contextlib.suppress(OSError, ValueError, SyntaxError), PIL.Image.open(io.BytesIO(data)) as image:
        turned = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        found = [f"EXIF orientation {turned} is ignored; boxes are of the stored pixels"] * (turned != 1)
        return found + ["grey pictures are read as three equal channels"] * (image.mode in ("1", "L", "LA"))
    return []


def check_decodes(data: bytes) -> None:
    """Decode a JPEG at an eighth of the size. Raises ValueError where libjpeg finds the picture's data damaged.

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


def read_size(file: Image, *, decode: bool = False, advice: str = "copy it again") -> tuple[int, int]:
    """Width and height of a JPEG or PNG file, with `decode` as `check_decodes` says.

    Raises UserError for one that is damaged, neither, or has 16 bits; with `advice` for one that cannot be read.
    """
    with reading(file, advice):
        data = file.read_bytes()
        size = checked_size(data, decode)
    if data.startswith(_PNG) and data[_PNG_DEPTH] == 16:
        raise UserError(f"{file}: {SIXTEEN_BITS}")
    return size


def checked_size(data: bytes, decode: bool = True) -> tuple[int, int]:
    """`picture_size`, and with `decode` as `check_decodes` says. Raises ValueError."""
    size = picture_size(data)
    if decode and not data.startswith(_PNG):
        check_decodes(data)
    return size


def check_frame(info: SequenceInfo, file: Path) -> None:
    """Raises UserError unless the file is a whole JPEG or PNG of the sequence's size; a still may be smaller."""
    width, height = read_size(file, decode=True)
    fits = (
        width <= info.width and height <= info.height if info.stills else (width, height) == (info.width, info.height)
    )
    if not fits:
        said = f"seqinfo.ini says {'at most ' * info.stills}{info.width}×{info.height}; correct one of them"
        raise UserError(f"{file}: {width}×{height} pixels, but {said}")


def validate_sequence(folder: Path, *, frame_map: Map = map) -> CheckedSequence:
    """Check seqinfo, every frame, gt and detections. Raises UserError with the first fault found.

    `frame_map` is how the frames are visited: `map`, or what `frame_workers` gives.
    """
    info, frames = open_sequence(folder)
    files, notes = tuple(frames.files.values()), [frames.note] * bool(frames.note)
    gt, det = folder / "gt" / "gt.txt", folder / "det" / "det.txt"
    annotations = None
    if is_promised(gt):
        annotations, format = read_recognised(gt, info)
        if format.roles:
            raise UserError(f"{gt}: {format.name}, {format.says}; {how_to_import(format)}")
        # Rows that never say a visibility may be another data set's, whose columns look the same.
        alike = annotations.has_class and bool((annotations.visibility == 1).all())
        if alike or re.match(format.folder, folder.name):
            notes.append(f"recognised: {format.name} ({format.says})")
        notes += [f"{gt}: {note}" for note in _notes(annotations, format, info)]
    detections = read_detections(det, info) if is_promised(det) else None
    with tqdm(total=info.num_frames, desc=f"validate {info.name}", unit="frame", disable=None) as bar:
        for _ in frame_map(partial(check_frame, info), files):
            bar.update()
    notes += [f"{folder.name}: {told}" for told in remarks(files[0].read_bytes())]
    return CheckedSequence(info, files, annotations, detections, tuple(notes))


def open_sequence(folder: Path) -> tuple[SequenceInfo, FrameFiles]:
    """What `seqinfo.ini` says, and the files of all its frames, before any but the first of them is read.

    Size and extension that it does not say are those of the first frame. Raises UserError, also for frames that are
    missing or that are no JPEG or PNG files.
    """
    info = read_sequence_info(folder)
    frames = list_frames(folder / info.image_dir, info)
    if frames.fault:
        raise UserError(frames.fault)
    first = frames.files[1]
    if first.suffix.lower() not in PACKED_SUFFIXES:
        raise UserError(f"{first}: frames must be JPEG or PNG files ({', '.join(PACKED_SUFFIXES)})")
    width, height = (info.width, info.height) if info.width and info.height else read_size(first)
    return replace(info, width=width, height=height, image_ext=first.suffix), frames


def _notes(annotations: Annotations, format: Format, info: SequenceInfo) -> Iterator[str]:
    if not annotations.has_class:
        yield f"read as {format.name} without classes: every box is a person"
    if not np.isin(annotations.flag, (0, 1)).all():
        yield f"flags {counts(annotations.flag)}: all but 0 count"
    if len(annotations) and not len(annotations.counted(info.tracked)):
        what = "person" if len(info.tracked) == 1 else " or ".join(info.tracked.names)
        yield f"no box is a {what}: {_found(annotations)}"


def check_people(source: Path, sequences: Iterable[CheckedSequence]) -> None:
    """Raises UserError, with the classes and flags that there are, where no box of any gt counts as a person."""
    known = [(s.annotations, s.info.tracked) for s in sequences if s.annotations is not None]
    gts = [gt for gt, _ in known]
    if known and not any(len(gt.counted(tracked)) for gt, tracked in known):
        boxes = max(gts, key=len)
        advice = _CHOOSE if boxes.flag.any() else "flag 0 is ignore: write 1 for those that count"
        found = f"{_found(boxes)}; {advice}" if len(boxes) else "their gt is empty"
        raise UserError(f"{source}: no person in any sequence (class 1, flag not 0): {found}")


def _found(annotations: Annotations) -> str:
    return f"classes {counts(annotations.class_id)}, flags {counts(annotations.flag)}"
