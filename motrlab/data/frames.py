"""The frame files of a folder: which there are, and which frame each of them is.

In a MOTChallenge folder a file is the frame whose number its name ends in, whatever the number of digits: a missing
file does not move the others. Numbers from 0 are moved up by one, because frames count from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from motrlab.data.motchallenge import SequenceInfo
from motrlab.data.rows import why_unreadable
from motrlab.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class FrameFiles:
    """`files` go by frame, from 1, in order, none past `num_frames`: what seqinfo.ini says, or the last that is there.

    `first` is the number that frame 1 bears in its file's name. `fault` is a line on the frames that are missing, and
    `note` one on what a user may not expect: another first number than 1, files left out behind the end. Else "".
    """

    files: dict[int, Path]
    num_frames: int
    first: int
    fault: str
    note: str


def list_frames(folder: Path, info: SequenceInfo | None = None, *, numbered: bool | None = None) -> FrameFiles:
    """The pictures in `folder`, which is that of the files itself (`SEQ/img1`), and their frames.

    With `info` they are compared with what it promises. `numbered`: a file's number is its frame; by default of a
    sequence (`info` is given or the folder is called img1). The pictures of any other folder count in their order
    (2 before 10). Links that lead nowhere are among the files, for whoever reads them to say so. Raises UserError:
    no such folder, no picture in it, two files for one frame.
    """
    found = _pictures(folder)
    extension = info.image_ext.lower() if info is not None else ""
    files = [f for f in found if extension in ("", f.suffix.lower())]
    promised = info.num_frames if info is not None else None
    mismatch = f"; there is {{}}, but seqinfo.ini says imExt={extension}"
    if not files:
        there = mismatch.format(found[0].name) if found else ""
        raise UserError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in it{there}")
    if numbered is None:
        numbered = info is not None or "img1" in (folder.name, folder.resolve().name)
    frames, first = _by_number(files, promised) if numbered else (dict(enumerate(files, 1)), 1)
    end = promised or max(frames)
    missing = [frame for frame in range(1 if promised else min(frames), end + 1) if frame not in frames]
    fault, notes = "", [f"files are numbered from {first}, which is taken as frame 1"] * (first != 1)
    if missing:
        other = next((f.name for f in found if f not in files and _number(f) == missing[0] + first - 1), "")
        several = f"{len(missing)} of {end} frames are missing, the first of them {missing[0]}"
        fault = f"{folder}: " + (several if len(missing) > 1 else f"frame {missing[0]} of {end} is missing")
        fault += mismatch.format(other) if other else "; copy it again"
    if max(frames) > end:
        notes.append(f"{sum(f > end for f in frames)} files after frame {end}, the last in seqinfo.ini, are left out")
    inside = {frame: file for frame, file in frames.items() if frame <= end}
    note = f"{folder}: {'; '.join(notes)}" if notes else ""
    return FrameFiles(files=inside, num_frames=end, first=first, fault=fault, note=note)


def _pictures(folder: Path) -> list[Path]:
    """Without hidden files, such as the `._NAME` that macOS leaves beside every file on foreign disks."""
    try:
        found = [f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: {why_unreadable(folder, error)}; give the folder that holds the frames") from error
    return sorted((f for f in found if f.is_symlink() or f.is_file()), key=lambda f: natural_key(f.name))


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sorts `frame2` before `frame10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _number(file: Path) -> int | None:
    digits = re.search(r"\d+$", file.stem)
    return int(digits[0]) if digits else None


def _by_number(files: list[Path], promised: int | None) -> tuple[dict[int, Path], int]:
    """Files by frame, and the number that stands for frame 1.

    Names without numbers, or of several kinds, are told apart by their order only: taken where as many are there as
    promised.
    """
    folder, kinds = files[0].parent, {re.sub(r"\d+$", "", file.stem) for file in files}
    by_number: dict[int, Path] = {}
    for file in files:
        number = _number(file)
        if number is None or len(kinds) > 1:
            if promised not in (None, len(files)):
                found = f"{len(files)} files ({files[0].name} … {files[-1].name})"
                raise UserError(f"{folder}: {found} without a common numbering, {promised} expected")
            return dict(enumerate(files, 1)), 1
        if by_number.setdefault(number, file) != file:
            raise UserError(f"{folder}: {by_number[number].name} and {file.name} have the same number; remove one")
    first = min(1, *by_number)
    return {number - first + 1: by_number[number] for number in sorted(by_number)}, first
