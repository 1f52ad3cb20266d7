"""CVAT's "MOT 1.1" archives: `gt/gt.txt`, `gt/labels.txt` (a label a line, class 1 is the first), perhaps `img1/`.

Rows are those of MOTChallenge, class numbers count the lines of `labels.txt`. Nothing is unpacked by its name in the
archive: entries are read and written under names of ours, and an archive with names that lead outside is refused.
"""

from __future__ import annotations

import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from motrlab.data.importing import Image, LabelledVideo, jpeg_files, natural_key, safe_name, with_classes, write_video
from motrlab.data.motchallenge import Annotations, SequenceInfo, parse_annotations
from motrlab.errors import UserError

_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)  # RuntimeError: encrypted
JPEG_QUALITY = 95
_FRAME_RATE = 30.0  # the archive does not say


@dataclass(frozen=True)
class _Entry:
    """A file in an archive."""

    archive: zipfile.ZipFile
    name: str

    def __str__(self) -> str:
        return f"{self.archive.filename}:{self.name}"

    def read_bytes(self) -> bytes:
        try:
            return self.archive.read(self.name)
        except _BAD_ARCHIVE as error:
            raise UserError(f"{self}: cannot be unpacked ({error}); export it anew, without a password") from error


@dataclass(frozen=True)
class _PngEntry(_Entry):
    """A frame of a video task, which CVAT exports as PNG: encoded as JPEG."""

    def read_bytes(self) -> bytes:
        image = cv2.imdecode(np.frombuffer(super().read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"{self}: not a PNG image; export it anew")
        return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1])


def import_cvat(source: Path, destination: Path, images: Path | None = None) -> list[SequenceInfo]:
    """Write the archive's video as `destination/NAME`, NAME the archive's, and return its info.

    Frames are the JPEG files of folder `images`, else those of the archive's `img1/`, in the order of their numbers;
    PNG files there become JPEG of quality 95, with a warning. The frame rate is 30. Raises UserError.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return [write_video(_read(source, archive, images), destination)]
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{source}: not a zip archive ({error}); export it anew") from error


def _read(source: Path, archive: zipfile.ZipFile, images: Path | None) -> LabelledVideo:
    names = _safe_names(source, archive)
    root = _root(source, names)
    frames: Sequence[Image] = jpeg_files(images) if images is not None else _frames(source, archive, names, root)
    labels = _text(_Entry(archive, f"{root}gt/labels.txt"), names).splitlines()
    gt = _Entry(archive, f"{root}gt/gt.txt")
    found = _annotations(_text(gt, names), str(gt), [label.strip() for label in labels], len(frames))
    return LabelledVideo(name=safe_name(source.stem), frame_rate=_FRAME_RATE, images=frames, annotations=found)


def _safe_names(source: Path, archive: zipfile.ZipFile) -> list[str]:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or ":" in (parts or ("",))[0]:
            raise UserError(f"{source}: {name!r} leads outside the archive; not an export of CVAT, refused")
    return names


def _root(source: Path, names: list[str]) -> str:
    """ "" or the folder that somebody who packed it anew has put around everything, with a slash."""
    found = [name for name in names if name == "gt/gt.txt" or name.endswith("/gt/gt.txt")]
    if len(found) != 1:
        raise UserError(f"{source}: {len(found)} files gt/gt.txt, not one; export the task as MOT 1.1")
    return found[0].removesuffix("gt/gt.txt")


def _frames(source: Path, archive: zipfile.ZipFile, names: list[str], root: str) -> list[_Entry]:
    found = sorted((n for n in names if n.startswith(f"{root}img1/")), key=natural_key)
    if not found:
        raise UserError(f"{source}: no frames in img1/; export with images, or name their folder by --images")
    for name in found:
        if not name.lower().endswith((".jpg", ".jpeg", ".png")):
            raise UserError(f"{source}: {name} is no JPEG or PNG file; name a folder of JPEG frames by --images")
    pngs = sum(name.lower().endswith(".png") for name in found)
    if pngs:
        warnings.warn(f"{source}: {pngs} PNG frames are written as JPEG of quality {JPEG_QUALITY}", stacklevel=2)
    return [(_PngEntry if name.lower().endswith(".png") else _Entry)(archive, name) for name in found]


def _text(entry: _Entry, names: list[str]) -> str:
    if entry.name not in names:
        raise UserError(f"{entry}: missing; export the task as MOT 1.1")
    try:
        return entry.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{entry}: not UTF-8 text") from error


def _annotations(text: str, where: str, labels: list[str], num_frames: int) -> Annotations:
    # Some exports carry a tenth column, which in MOT15 files would mean "no classes".
    nine = "\n".join(",".join(line.split(",")[:9]) for line in text.splitlines())
    frames = SequenceInfo(name="", num_frames=num_frames, width=1, height=1, frame_rate=1.0)
    found = parse_annotations(nine, where, frames, "frames there")
    for i in range(len(found)):
        at = f"{where}: frame {found.frame[i]}, id {found.track_id[i]}"
        if found.track_id[i] < 0:
            raise UserError(f"{at}: no track id; label with tracks, not with shapes")
        if not 1 <= found.class_id[i] <= len(labels):
            raise UserError(f"{at}: class {found.class_id[i]}, but labels.txt has {len(labels)} lines")
    return with_classes(replace(found, has_class=True), dict(enumerate(labels, 1)), where)
