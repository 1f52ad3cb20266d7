"""MOTChallenge folders and files: `SEQ/{img1/%06d.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}`, read and checked.

A gt file has one row per box, comma separated, in one of two forms told apart by the number of columns:
9 (MOT16, MOT17, MOT20): `frame,id,left,top,width,height,flag,class,visibility`;
10 (MOT15): `frame,id,left,top,width,height,flag,x,y,z`, without class and visibility.
Frames count from 1; flag 0 means "ignore"; boxes are pixels and may reach outside the image.
"""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError
from motrlab.files import write_text

_LARGEST = 2.0**53  # beyond it whole numbers are no longer exact
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
DETECTORS = ("FRCNN", "SDP", "DPM")  # the three detector copies of each MOT17 video, in order of preference


@dataclass(frozen=True, kw_only=True)
class SequenceInfo:
    """What `seqinfo.ini` says; `name` is the folder's. Frames count from 1 to `num_frames`; an unknown size is 0."""

    name: str
    num_frames: int
    width: int
    height: int
    frame_rate: float
    image_dir: str = "img1"
    image_ext: str = ".jpg"

    def frame_path(self, folder: Path, frame: int) -> Path:
        return folder / self.image_dir / f"{frame:06d}{self.image_ext}"


@dataclass(frozen=True)
class Annotations:
    """One row per box, sorted by frame, then id.

    `frame`, `track_id`, `flag`, `class_id` are `int64 [n]`; `ltwh` is `float64 [n, 4]` in pixels; `visibility` is
    `float64 [n]`, a fraction from 0 to 1. Without `has_class` every class is 1 and every visibility 1.
    """

    frame: NDArray[np.int64]
    track_id: NDArray[np.int64]
    ltwh: NDArray[np.float64]
    flag: NDArray[np.int64]
    class_id: NDArray[np.int64]
    visibility: NDArray[np.float64]
    has_class: bool

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, rows: NDArray[Any]) -> Annotations:
        """The rows that a mask or an index array names."""
        return Annotations(
            self.frame[rows], self.track_id[rows], self.ltwh[rows], self.flag[rows], self.class_id[rows],
            self.visibility[rows], self.has_class,
        )  # fmt: skip

    @property
    def people(self) -> Annotations:
        """The rows that count: flag 1 and class 1 (pedestrian)."""
        return self.select((self.flag == 1) & (self.class_id == 1))

    @staticmethod
    def empty(has_class: bool = True) -> Annotations:
        none = np.zeros(0, np.int64)
        return Annotations(none, none, np.zeros((0, 4)), none, none, np.zeros(0), has_class)


@dataclass(frozen=True)
class Detections:
    """`frame int64 [n]` from 1, `ltwh float64 [n, 4]` in pixels, `score float64 [n]` in the detector's own units."""

    frame: NDArray[np.int64]
    ltwh: NDArray[np.float64]
    score: NDArray[np.float64]


def read_text(path: Path) -> str:
    """A text file as UTF-8, with or without a byte-order mark. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_sequence_info(folder: Path) -> SequenceInfo:
    """Read `folder/seqinfo.ini` by key, whatever the order, the letter case and the comments.

    Only seqLength must be there, evaluation needs no more: a size that it does not say is 0, the rate is 30, the folder
    img1, and the file extension that of the first picture there. Raises UserError.
    """
    file = folder / "seqinfo.ini"
    if not file.is_file():
        raise UserError(f"{file}: missing; a sequence needs a seqinfo.ini with seqLength, imWidth and imHeight")
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    try:
        parser.read_string(read_text(file))
    except configparser.Error as error:
        raise UserError(f"{file}: not an ini file ({str(error).splitlines()[0]})") from error
    section = next((parser[name] for name in parser.sections() if name.strip().lower() == "sequence"), None)
    if section is None:
        raise UserError(f"{file}: no section [Sequence]")
    image_dir = _text(section, "imDir") or "img1"
    extension = _text(section, "imExt") or _first_extension(folder / image_dir)
    return SequenceInfo(
        name=folder.name or folder.resolve().name,
        num_frames=int(_positive(section, "seqLength", file)),
        width=int(_positive(section, "imWidth", file, default=0)),
        height=int(_positive(section, "imHeight", file, default=0)),
        frame_rate=_positive(section, "frameRate", file, default=30),
        image_dir=image_dir,
        image_ext=extension if extension.startswith(".") else f".{extension}",
    )


def _text(section: configparser.SectionProxy, key: str) -> str:
    return section.get(key, "").strip().strip("\"'")


def _first_extension(folder: Path) -> str:
    shown = [f for f in folder.iterdir() if not f.name.startswith(".")] if folder.is_dir() else []
    return next((f.suffix for f in shown if f.suffix.lower() in IMAGE_SUFFIXES), ".jpg")


def _positive(section: configparser.SectionProxy, key: str, file: Path, default: float | None = None) -> float:
    text = _text(section, key)
    if not text:
        if default is None:
            raise UserError(f"{file}: no {key} in [Sequence]")
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0 or math.isinf(value) or (key != "frameRate" and value != int(value)):
        raise UserError(f"{file}: {key} must be a positive number, not {text!r}")
    return value


def format_sequence_info(info: SequenceInfo) -> str:
    """The text of a `seqinfo.ini`."""
    rate = int(info.frame_rate) if info.frame_rate == int(info.frame_rate) else info.frame_rate
    return (
        f"[Sequence]\nname={info.name}\nimDir={info.image_dir}\nframeRate={rate}\nseqLength={info.num_frames}\n"
        f"imWidth={info.width}\nimHeight={info.height}\nimExt={info.image_ext}\n"
    )


def _rows(text: str, path: Path | str, min_columns: int) -> Iterator[tuple[int, list[float]]]:
    """Line number and finite numbers of every row that is not blank; `path` is for messages."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) < min_columns:
            raise UserError(f"{path}:{number}: {len(cells)} columns, at least {min_columns} needed")
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}; every column must be a number") from error
        if not all(map(math.isfinite, values)):
            raise UserError(f"{path}:{number}: NaN or infinity; every column must be a finite number")
        if values[0] != int(values[0]) or values[1] != int(values[1]):
            raise UserError(f"{path}:{number}: frame and id must be whole numbers, not {cells[0]} and {cells[1]}")
        if max(map(abs, values)) > _LARGEST:
            raise UserError(f"{path}:{number}: a number beyond {_LARGEST:g}; frames, ids and pixels expected")
        yield number, values


def _check_frame(
    path: Path | str, number: int, frame: float, info: SequenceInfo | None, counted: str = "frames in seqinfo.ini"
) -> None:
    if frame < 1:
        raise UserError(f"{path}:{number}: frame {frame:.0f}; frames count from 1")
    if info is not None and frame > info.num_frames:
        raise UserError(f"{path}:{number}: frame {frame:.0f} is past the end ({info.num_frames} {counted})")


def read_annotations(path: Path, info: SequenceInfo) -> Annotations:
    """Read and check a gt file of 9 or 10 columns (module docstring); rows may stand in any order, or be none.

    Raises UserError naming file and line: not a number, wrong number of columns, a size that is not positive, a
    frame outside the sequence, an id twice in a frame, a visibility outside 0 to 1.
    """
    return parse_annotations(read_text(path), path, info)


def parse_annotations(
    text: str, path: Path | str, info: SequenceInfo, counted: str = "frames in seqinfo.ini"
) -> Annotations:
    """The text of a gt file, read and checked as in `read_annotations`; `path` and `counted` are for messages."""
    rows: list[list[float]] = []
    lines: dict[tuple[float, float], int] = {}
    for number, values in _rows(text, path, 9):
        columns = len(rows[0]) if rows else len(values)
        if columns > 10 or len(values) != columns:
            expected = "9 or 10" if columns > 10 else str(columns)
            raise UserError(f"{path}:{number}: {len(values)} columns, {expected} expected")
        _check_frame(path, number, values[0], info, counted)
        _check_gt_row(path, number, values)
        first = lines.setdefault((values[0], values[1]), number)
        if first != number:
            raise UserError(
                f"{path}:{number}: id {values[1]:.0f} twice in frame {values[0]:.0f} (first in line {first})"
            )
        rows.append(values)
    if not rows:
        return Annotations.empty()
    return _annotations(np.array(rows))


def _check_gt_row(path: Path | str, number: int, values: list[float]) -> None:
    width, height, flag = values[4:7]
    if width <= 0 or height <= 0:
        raise UserError(f"{path}:{number}: width {width:g} and height {height:g} must be positive")
    if flag != int(flag):
        raise UserError(f"{path}:{number}: the flag (column 7) must be a whole number, not {flag:g}")
    if len(values) == 9 and (values[7] != int(values[7]) or not 0 <= values[8] <= 1):
        found = f"class {values[7]:g}, visibility {values[8]:g}"
        raise UserError(f"{path}:{number}: {found}; a whole number and a fraction from 0 to 1 expected")


def _annotations(table: NDArray[np.float64]) -> Annotations:
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    has_class = table.shape[1] == 9
    integers = table[:, [0, 1, 6]].astype(np.int64)
    class_id = table[:, 7].astype(np.int64) if has_class else np.ones(len(table), np.int64)
    visibility = table[:, 8].copy() if has_class else np.ones(len(table))
    return Annotations(
        integers[:, 0], integers[:, 1], table[:, 2:6].copy(), integers[:, 2], class_id, visibility, has_class
    )


def format_annotations(annotations: Annotations) -> str:
    """gt rows in the form the annotations came in (9 columns with class, 10 without)."""
    lines = []
    for i in range(len(annotations)):
        box = ",".join(_number(v) for v in annotations.ltwh[i])
        head = f"{annotations.frame[i]},{annotations.track_id[i]},{box},{annotations.flag[i]}"
        tail = (
            f"{annotations.class_id[i]},{_number(annotations.visibility[i])}" if annotations.has_class else "-1,-1,-1"
        )
        lines.append(f"{head},{tail}\n")
    return "".join(lines)


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return str(int(value)) if value == int(value) else repr(float(value))


def read_detections(path: Path, info: SequenceInfo | None = None) -> Detections:
    """Read a det file (`frame,-1,left,top,width,height,score`, further columns ignored). Raises UserError."""
    rows = []
    for number, values in _rows(read_text(path), path, 7):
        _check_frame(path, number, values[0], info)
        rows.append(values[:7])
    table = np.array(rows).reshape(-1, 7)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Detections(table[:, 0].astype(np.int64), table[:, 2:6].copy(), table[:, 6].copy())


def format_detections(detections: Detections) -> str:
    """det rows of 10 columns, id -1, numbers as they were read."""
    lines = []
    for frame, box, score in zip(detections.frame, detections.ltwh, detections.score, strict=True):
        lines.append(f"{frame},-1,{','.join(_number(v) for v in box)},{_number(score)},-1,-1,-1\n")
    return "".join(lines)


def write_rows(
    path: Path,
    frame: NDArray[np.int64],
    track_id: NDArray[np.int64],
    ltwh: NDArray[np.float64],
    score: NDArray[np.float64],
    decimals: int = 3,
) -> None:
    """Write tracks as `frame,id,left,top,width,height,score,-1,-1,-1` rows, in the order given.

    Boxes are rounded to `decimals` digits, scores to five.
    """
    lines = []
    for f, i, box, s in zip(frame, track_id, ltwh, score, strict=True):
        lines.append(f"{f},{i},{','.join(f'{v:.{decimals}f}' for v in box)},{s:.5f},-1,-1,-1\n")
    write_text(path, "".join(lines))


def find_sequences(root: Path, names: Sequence[str] = ()) -> tuple[Path, ...]:
    """Folders of the sequences under `root`, sorted by name.

    `root` holds the sequences, or is a MOT17 folder whose `train/` does. Of several detector copies of a video
    (`MOT17-02-DPM`, `-FRCNN`, `-SDP`) one is taken, in the order of `DETECTORS`, unless `names` asks for another.
    A name is a folder's name, or a video's name without the detector. Raises UserError.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds the sequences")
    folders = _sequence_folders(root) or _sequence_folders(root / "train")
    if not folders:
        hint = f"; did you mean {root.parent}?" if (root / "seqinfo.ini").is_file() else ""
        raise UserError(f"{root}: no sequences (folders with seqinfo.ini or img1) in it or its train/{hint}")
    videos: dict[str, list[Path]] = {}
    for folder in folders:
        videos.setdefault(_video(folder.name), []).append(folder)
    if not names:
        return tuple(copies[0] for copies in videos.values())
    chosen: dict[str, Path] = {}
    for name in names:
        found = next((f for f in folders if f.name == name), None) or next(iter(videos.get(name, ())), None)
        if found is None:
            raise UserError(f"{root}: no sequence {name!r}; there are {', '.join(f.name for f in folders)}")
        other = chosen.setdefault(_video(found.name), found)
        if other != found:
            raise UserError(f"{other.name} and {found.name} are copies of one video: name one of them")
    return tuple(chosen[key] for key in sorted(chosen))


def _sequence_folders(root: Path) -> list[Path]:
    """Sequence folders, by video name, detector copies in order of preference."""
    if not root.is_dir():
        return []
    shown = [f for f in root.iterdir() if not f.name.startswith(".")]  # hidden ones are what a killed import left
    found = [f for f in shown if (f / "seqinfo.ini").is_file() or (f / "img1").is_dir()]
    return sorted(found, key=lambda f: (_video(f.name), _preference(f.name), f.name))


def _video(name: str) -> str:
    return re.sub(rf"-({'|'.join(DETECTORS)})$", "", name)


def _preference(name: str) -> int:
    suffix = name.rpartition("-")[2]
    return DETECTORS.index(suffix) if suffix in DETECTORS else -1
