"""CVAT's "MOT 1.1" archives: `gt/gt.txt`, `gt/labels.txt` (a label a line, class 1 is the first), perhaps `img1/`.

Rows are those of MOTChallenge, class numbers count the lines of `labels.txt`. Frames have the numbers that are the
files' names, as CVAT does it, or count in the order of files with other names. Nothing is unpacked by its name in the
archive: entries are read and written under names of ours, and an archive with names that lead outside is refused.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.data.formats import NINE_COLUMNS, read_labels
from motrlab.data.frames import list_frames, natural_key
from motrlab.data.importing import ClassMap, LabelledVideo, safe_name, write_videos
from motrlab.data.motchallenge import Annotations, SequenceInfo, check_labels
from motrlab.data.rows import Rows
from motrlab.data.validate import PACKED_SUFFIXES, Image
from motrlab.errors import UserError

_DAMAGED = (zlib.error, NotImplementedError, RuntimeError, EOFError)  # RuntimeError: encrypted
_FRAME_RATE = 30.0  # the archive does not say


def import_cvat(
    source: Path,
    destination: Path,
    images: Path | None = None,
    class_map: ClassMap | None = None,
    tracked: Classes = PEOPLE,
) -> list[SequenceInfo]:
    """Write the archive's video as `destination/NAME`, NAME the archive's, and return its info.

    Frames are the JPEG or PNG files of folder `images`, else those of the archive's `img1/`, in the order of their
    numbers. The frame rate is 30. Raises UserError.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            return write_videos([_read(source, archive, images)], destination, class_map, tracked)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{source}: not a readable zip archive ({error}); export it again") from error
    except _DAMAGED as error:
        raise UserError(f"{source}: cannot be unpacked ({error}); export it again, without a password") from error


def _read(source: Path, archive: zipfile.ZipFile, images: Path | None) -> LabelledVideo:
    names = _safe_names(source, archive)
    roots = [name.removesuffix("gt/gt.txt") for name in names if f"/{name}".endswith("/gt/gt.txt")]
    if len(roots) != 1:
        raise UserError(f"{source}: {len(roots)} files gt/gt.txt, not one; export the task as MOT 1.1")
    if images is not None:
        frames: Sequence[Image] = list(list_frames(images, numbered=False).files.values())
    else:
        frames = _frames(source, archive, [name for name in names if name.startswith(f"{roots[0]}img1/")])
    lines = _text(zipfile.Path(archive, f"{roots[0]}gt/labels.txt")).splitlines()
    labels = {number: label.strip() for number, label in enumerate(lines, 1)}
    gt = zipfile.Path(archive, f"{roots[0]}gt/gt.txt")
    found = _annotations(_text(gt), str(gt), len(labels), [PurePath(str(frame)).stem for frame in frames])
    name = safe_name(source.stem)
    return LabelledVideo(name=name, frame_rate=_FRAME_RATE, images=frames, annotations=found, names=labels)


def _safe_names(source: Path, archive: zipfile.ZipFile) -> list[str]:
    """The archive's files without hidden ones, which macOS adds when it packs a folder again. Raises UserError."""
    names = [n for n in archive.namelist() if not n.endswith("/") and not PurePosixPath(n).name.startswith(".")]
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or name.startswith(("/", "\\")) or ":" in (parts or ("",))[0]:
            raise UserError(f"{source}: {name!r} leads outside the archive; not an export of CVAT, refused")
    return names


def _frames(source: Path, archive: zipfile.ZipFile, names: list[str]) -> list[zipfile.Path]:
    if not names:
        raise UserError(f"{source}: no frames in img1/; export with images, or name their folder by --images")
    for name in (name for name in names if not name.lower().endswith(PACKED_SUFFIXES)):
        raise UserError(f"{source}: {name} is no JPEG or PNG file; name a folder of such frames by --images")
    return [zipfile.Path(archive, name) for name in sorted(names, key=natural_key)]


def _text(file: zipfile.Path) -> str:
    if not file.exists():
        raise UserError(f"{file}: missing; export the task as MOT 1.1")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text") from error


def _annotations(text: str, where: str, num_labels: int, stems: list[str]) -> Annotations:
    """Rows of the file, `stems` being the names of the frames' files without extension."""
    # Some exports carry a tenth column, which in MOT15 files would mean "no classes".
    nine = "\n".join(",".join(line.split(",")[:9]) for line in text.splitlines())
    labels = read_labels(Rows.of(nine, where), NINE_COLUMNS, Path())
    rows, (frame, track, *_, kind, _) = labels.rows, labels.table.T
    if all(stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if np.isin(frame, numbers).all():
            frame[:] = np.searchsorted(numbers, frame) + 1
    rows.refuse(track < 0, "no track id; label with tracks, not with shapes")
    bad = (kind < 1) | (kind > num_labels) | (not labels.has_class)
    rows.refuse(bad, f"class {{:g}}, but labels.txt has {num_labels} lines", kind if labels.has_class else -kind)
    return check_labels(labels, len(stems), "frames there")
