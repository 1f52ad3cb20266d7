"""The frame files of a folder: which there are, and which frame each of them is.

In a MOTChallenge folder a file is the frame whose number its name ends in, whatever the number of digits: a missing
file does not move the others. Numbers from 0 are moved up by one, because frames count from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from motrlab.data.motchallenge import IMAGE_SUFFIXES, SequenceInfo
from motrlab.data.rows import why_unreadable
from motrlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FrameFiles:
    """Frames in `folder`.

    `files` go by frame, from 1, in order, none past `num_frames`: what seqinfo.ini promises, or the last that is there.
    `missing` are the frames without a file, `past_end` counts the files that were left out behind the end, and `first`
    is the number that frame 1 bears in its file's name (0 where they count from 0).
    """

    folder: Path
    files: dict[int, Path]
    num_frames: int
    missing: tuple[int, ...] = ()
    past_end: int = 0
    first: int = 1
    hint: str = "copy it anew"

    @property
    def fault(self) -> str:
        """One line on the frames that are missing; "" where none is."""
        if not self.missing:
            return ""
        what = f"frame {self.missing[0]} of {self.num_frames} is missing"
        if len(self.missing) > 1:
            what = f"{len(self.missing)} of {self.num_frames} frames are missing, the first of them {self.missing[0]}"
        return f"{self.folder}: {what}; {self.hint}"

    @property
    def note(self) -> str:
        """One line on what a user may not expect; "" where there is nothing to say."""
        said = []
        if self.first != 1:
            said.append(f"files are numbered from {self.first}, which is taken as frame 1")
        if self.past_end:
            said.append(f"{self.past_end} files behind frame {self.num_frames}, the last of seqinfo.ini, are left out")
        return f"{self.folder}: {'; '.join(said)}" if said else ""


def list_frames(folder: Path, info: SequenceInfo | None = None, *, numbered: bool | None = None) -> FrameFiles:
    """The pictures in `folder`, which is that of the files itself (`SEQ/img1`), and their frames.

    With `info` they are compared with what it promises. `numbered`: a file's number is its frame; by default of a
    sequence (`info` is given or the folder is called img1). The pictures of any other folder count in their order
    (2 before 10). Links that lead nowhere are among the files, for whoever reads them to say so. Raises UserError:
    no such folder, no picture in it, two files for one frame.
    """
    found = _pictures(folder)
    chosen = [f for f in found if info is None or f.suffix.lower() == info.image_ext.lower()]
    if not chosen:
        there = f"; there is {found[0].name}, but seqinfo.ini says imExt={info.image_ext}" if found and info else ""
        raise UserError(f"{folder}: no pictures ({', '.join(IMAGE_SUFFIXES)}) in it{there}")
    if numbered is None:
        numbered = info is not None or "img1" in (folder.name, folder.resolve().name)
    promised = info.num_frames if info is not None else None
    files, first = _by_number(chosen, promised) if numbered else (dict(enumerate(chosen, 1)), 1)
    end = promised or max(files)
    start = 1 if promised else min(files)
    missing = tuple(frame for frame in range(start, end + 1) if frame not in files)
    inside = {frame: file for frame, file in files.items() if frame <= end}
    other = next((f.name for f in found if missing and f not in chosen and _number(f) == missing[0] + first - 1), None)
    hint = f"there is {other}, but seqinfo.ini says imExt={info.image_ext}" if other and info else "copy it anew"
    past_end = len(files) - len(inside)
    return FrameFiles(
        folder=folder, files=inside, num_frames=end, missing=missing, past_end=past_end, first=first, hint=hint
    )


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
    numbers = [_number(file) for file in files]
    kinds = {re.sub(r"\d+$", "", file.stem) for file in files}
    folder = files[0].parent
    if None in numbers or len(kinds) > 1:
        if promised not in (None, len(files)):
            names = f"{files[0].name} … {files[-1].name}"
            raise UserError(f"{folder}: {len(files)} files ({names}) without a common numbering, {promised} promised")
        return dict(enumerate(files, 1)), 1
    by_number: dict[int, Path] = {}
    for number, file in zip(numbers, files, strict=True):
        assert number is not None
        other = by_number.setdefault(number, file)
        if other != file:
            raise UserError(f"{folder}: {other.name} and {file.name} are one frame; remove one of them")
    low, high = min(by_number), max(by_number)
    whole = len(by_number) == promised == high - low + 1  # a part of a video that kept its numbers
    first = low if low == 0 or whole else 1
    return {number - first + 1: by_number[number] for number in sorted(by_number)}, first
