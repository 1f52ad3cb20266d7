"""Is a sequence what its `seqinfo.ini` says? Every frame there, a whole JPEG, of the right size; nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from motrlab.data.motchallenge import SequenceInfo, read_annotations, read_detections, read_sequence_info
from motrlab.errors import UserError

_JPEG_SUFFIXES = (".jpg", ".jpeg")

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
    except ValueError as error:
        raise UserError(f"{path}: {error}; copy it anew") from error
    if (width, height) != (info.width, info.height):
        raise UserError(f"{path}: {width}×{height} pixels, but seqinfo.ini says {info.width}×{info.height}")


def validate_sequence(folder: Path, *, num_workers: int = 2, progress: Progress | None = None) -> SequenceInfo:
    """Check seqinfo, every frame, gt and detections. Raises UserError with the first fault found.

    `num_workers` threads read the frames.
    """
    info = read_sequence_info(folder)
    if info.image_ext.lower() not in _JPEG_SUFFIXES:
        raise UserError(f"{folder / 'seqinfo.ini'}: imExt={info.image_ext}; frames must be JPEG files (.jpg)")
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        checks = pool.map(lambda frame: check_frame(folder, info, frame), range(1, info.num_frames + 1))
        for done, _ in enumerate(checks, 1):
            if progress is not None:
                progress(f"validate {info.name}", done, info.num_frames)
    if (folder / "gt" / "gt.txt").is_file():
        read_annotations(folder / "gt" / "gt.txt", info)
    if (folder / "det" / "det.txt").is_file():
        read_detections(folder / "det" / "det.txt", info)
    return info
