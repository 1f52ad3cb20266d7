"""MOTChallenge folders and files: `SEQ/{img1/%06d.jpg, gt/gt.txt, det/det.txt, seqinfo.ini}`, read and checked.

A gt file has one row per box, in one of two forms:
9 columns (MOT16, MOT17, MOT20): `frame,id,left,top,width,height,flag,class,visibility`;
10 columns (MOT15): `frame,id,left,top,width,height,flag,x,y,z`, without class and visibility.
Frames count from 1; flag 0 means "ignore"; boxes are pixels and may reach outside the image; -1 is "not said".
`formats.py` recognises the rows of other data sets, which `import` converts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.classes import PEOPLE, Classes
from motrlab.config.checks import later
from motrlab.data.formats import Format, Labels, how_to_import, laid_out_as, read_labels, recognise
from motrlab.data.rows import Rows, is_promised, read_ini, read_text, why_unreadable
from motrlab.errors import UserError

_CROWD = 13  # class of a region that shows people together
ENDLESS = 2**53  # frames of a video of which nobody says the length
_CONFIDENCE = "a confidence? `python -m motrlab import` takes whatever is not 0 as 1"
_FROM_ZERO = "`python -m motrlab import` takes sequences that count from 0"
ANNOTATION_FIELDS = ("frame", "track_id", "ltwh", "flag", "class_id", "visibility")  # the arrays of Annotations
DETECTORS = ("FRCNN", "SDP", "DPM")  # the three detector copies of each MOT17 video, in order of preference


@dataclass(frozen=True, kw_only=True)
class SequenceInfo:
    """What `seqinfo.ini` says; `name` is the folder's. Frames count from 1 to `num_frames`.

    A size that it does not say is 0, an extension "". `stills`: its frames are single images that have nothing to do
    with each other, of any size up to the one that it says. `classes`: those that are tracked, `Classes.text`.
    """

    name: str
    num_frames: int
    width: int
    height: int
    frame_rate: float
    image_dir: str = "img1"
    image_ext: str = ".jpg"
    stills: bool = later(False)
    classes: str = later("")

    @property
    def tracked(self) -> Classes:
        return Classes.parse(self.classes, f"{self.name}: seqinfo.ini")

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
        return replace(self, **{field: getattr(self, field)[rows] for field in ANNOTATION_FIELDS})

    def counts(self, classes: Classes = PEOPLE) -> NDArray[np.bool_]:
        """`[n]`: rows that count: of a tracked class, and a flag other than 0."""
        return (self.flag != 0) & (classes.kinds(self.class_id) >= 0)

    def counted(self, classes: Classes = PEOPLE) -> Annotations:
        """Only those."""
        return self.select(self.counts(classes))

    def regions(self, classes: Classes = PEOPLE) -> NDArray[np.bool_]:
        """`[n]`: rows of flag 0 in which people may be: of a tracked class, or a crowd."""
        return (self.flag == 0) & ((classes.kinds(self.class_id) >= 0) | (self.class_id == _CROWD))

    @property
    def people(self) -> Annotations:
        """Those of class 1 (pedestrian)."""
        return self.counted()

    @staticmethod
    def empty() -> Annotations:
        none = np.zeros(0, np.int64)
        return Annotations(none, none, np.zeros((0, 4)), none, none, np.zeros(0), has_class=True)


@dataclass(frozen=True)
class Detections:
    """`frame int64 [n]` from 1, `ltwh float64 [n, 4]` in pixels, `score float64 [n]` in the detector's own units."""

    frame: NDArray[np.int64]
    ltwh: NDArray[np.float64]
    score: NDArray[np.float64]

    def select(self, rows: NDArray[Any]) -> Detections:
        """As of `Annotations`."""
        return Detections(self.frame[rows], self.ltwh[rows], self.score[rows])


def read_sequence_info(folder: Path) -> SequenceInfo:
    """Read `folder/seqinfo.ini` by key, whatever the order, the letter case and the comments.

    Only seqLength must be there, evaluation needs no more; the rate is 30 where it does not say one. Raises UserError.
    """
    file = folder / "seqinfo.ini"
    if not file.is_file():
        needed = "a sequence needs one with seqLength, and `python -m motrlab import` writes it"
        raise UserError(f"{file}: {why_unreadable(file, FileNotFoundError())}; {needed}")
    said = read_ini(file)
    extension = said.get("imext", "").removeprefix(".")
    return SequenceInfo(
        name=folder.name or folder.resolve().name,
        num_frames=int(_positive(said, "seqLength", file)),
        width=int(_positive(said, "imWidth", file, default=0)),
        height=int(_positive(said, "imHeight", file, default=0)),
        frame_rate=_positive(said, "frameRate", file, default=30),
        image_dir=said.get("imdir") or "img1",
        image_ext=f".{extension}" if extension else "",
        stills=said.get("stills", "0") != "0",
        classes=Classes.parse(said.get("classes", ""), str(file)).text,
    )


def _positive(said: Mapping[str, str], key: str, file: Path, default: float | None = None) -> float:
    text = said.get(key.lower(), "")
    if not text and default is not None:
        return default
    if not text:
        raise UserError(f"{file}: no {key} in [Sequence]")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or (key != "frameRate" and not value.is_integer()):
        raise UserError(f"{file}: {key} must be a positive number, not {text!r}")
    return value


def format_sequence_info(info: SequenceInfo) -> str:
    """The text of a `seqinfo.ini`."""
    return (
        f"[Sequence]\nname={info.name}\nimDir={info.image_dir}\nframeRate={_shortest(info.frame_rate)}\n"
        f"seqLength={info.num_frames}\nimWidth={info.width}\nimHeight={info.height}\nimExt={info.image_ext}\n"
    ) + ("stills=1\n" * info.stills + f"classes={info.classes}\n" * bool(info.classes))


def _shortest(number: float) -> str:
    """The shortest form that reads back the same."""
    return str(int(number)) if number == int(number) else repr(number)


def read_annotations(path: Path, info: SequenceInfo) -> Annotations:
    """Read and check a gt file of 9 or 10 columns (module docstring); rows may stand in any order, or be none.

    Raises UserError naming file and line: not a number, wrong number of columns, a size that is not positive, a
    frame outside the sequence, an id twice in a frame, a visibility outside 0 to 1; rows of another data set.
    """
    return read_recognised(path, info)[0]


def read_recognised(path: Path, info: SequenceInfo) -> tuple[Annotations, Format]:
    """As `read_annotations`, and the format that the rows are of."""
    rows, folder = Rows.of(read_text(path), path), path.parent.parent
    format = recognise(rows, folder)
    if not format.is_mot:
        raise UserError(f"{path}: rows of {format.name} ({format.says}); {how_to_import(format)}")
    labels = read_labels(rows, replace(format, roles=""), folder)  # who is who stands in no row
    if len(info.tracked) > 1 and not labels.has_class and len(rows):
        raise UserError(f"{path}: no column with a class, but seqinfo.ini has classes={info.classes}")
    return check_labels(labels, info.num_frames), format


def check_labels(labels: Labels, num_frames: int, counted: str = "frames in seqinfo.ini") -> Annotations:
    """Labels of a video of `num_frames` frames, by frame, then id. Raises UserError as `read_annotations` does."""
    rows, (frame, track, *_, width, height, flag, kind, seen) = labels.rows, labels.table.T
    _check_frames(rows, frame, num_frames, counted)
    rows.refuse((width <= 0) | (height <= 0), "width {:g} and height {:g} must be positive", width, height)
    rows.refuse(flag != np.rint(flag), f"the flag (column 7) must be a whole number, not {{:g}}; {_CONFIDENCE}", flag)
    rows.refuse(
        (kind != np.rint(kind)) | (seen < 0) | (seen > 1),
        "class {:g}, visibility {:g}; a whole number and a fraction from 0 to 1 expected", kind, seen,
    )  # fmt: skip
    rows.refuse_repeats(frame, track)
    table = labels.table[np.lexsort((track, frame))]
    frames, ids, flags, classes = table[:, [0, 1, 6, 7]].astype(np.int64).T
    return Annotations(frames, ids, table[:, 2:6].copy(), flags, classes, table[:, 8].copy(), labels.has_class)


def _check_frames(rows: Rows, frame: NDArray[np.float64], num_frames: int, counted: str) -> None:
    rows.refuse(frame < 1, f"frame {{:.0f}}; frames count from 1; {_FROM_ZERO}", frame)
    rows.refuse(frame > num_frames, f"frame {{:.0f}} is past the end ({num_frames} {counted})", frame)


def format_annotations(annotations: Annotations) -> str:
    """gt rows in the form the annotations came in (9 columns with class, 10 without)."""
    a = annotations
    tail = [a.class_id, a.visibility] if a.has_class else [np.full(len(a), -1)] * 3
    return _format_rows(a.frame, a.track_id, *a.ltwh.T, a.flag, *tail)


def _format_rows(*columns: NDArray[Any]) -> str:
    rows = np.column_stack([column.astype(np.float64) for column in columns]).tolist()
    return "".join(",".join(map(_shortest, row)) + "\n" for row in rows)


def read_detections(path: Path, info: SequenceInfo | None = None, first: int = 1) -> Detections:
    """Read a det file (`frame,-1,left,top,width,height,score`, further columns ignored); frames count from `first`.

    Raises UserError.
    """
    rows = Rows.of(read_text(path), path)
    table = rows.first(7)
    table[:, 0] += 1 - first
    _check_frames(rows, table[:, 0], info.num_frames if info is not None else ENDLESS, "frames in seqinfo.ini")
    found = Detections(table[:, 0].astype(np.int64), table[:, 2:6], table[:, 6])
    return found.select(np.argsort(found.frame, kind="stable"))


def format_detections(detections: Detections) -> str:
    """det rows of 10 columns, id -1, numbers as they were read."""
    unknown = np.full(len(detections.frame), -1)
    return _format_rows(detections.frame, unknown, *detections.ltwh.T, detections.score, unknown, unknown, unknown)


def label_files(info: SequenceInfo, annotations: Annotations, detections: Detections | None = None) -> dict[str, str]:
    """What a sequence's folder holds beside its frames: texts by relative path."""
    texts = {"seqinfo.ini": format_sequence_info(info), "gt/gt.txt": format_annotations(annotations)}
    return texts if detections is None else {**texts, "det/det.txt": format_detections(detections)}


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts by relative path into a folder that is being made. Raises OSError."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


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
        inside = (root / "seqinfo.ini").is_file() or (root / "img1").is_dir()
        hint = f"; did you mean {root.parent}?" if inside else ""
        if (root / "train_lmdb").is_dir():
            hint = "; it is what `prepare` wrote: give the folder that was prepared"
        if (format := laid_out_as(root)) is not None:
            hint = f"; it is laid out as {format.name}: {how_to_import(format)}"
        raise UserError(f"{root}: no sequences (folders with seqinfo.ini or img1) in it or its train/{hint}")
    videos = {video_name(f.name): f for f in reversed(folders)}  # the copy that is preferred
    if not names:
        return tuple(videos[key] for key in sorted(videos))
    chosen: dict[str, Path] = {}
    for name in names:
        found = next((f for f in folders if f.name == name), videos.get(name))
        if found is None:
            raise UserError(f"{root}: no sequence {name!r}; there are {', '.join(f.name for f in folders)}")
        other = chosen.setdefault(video_name(found.name), found)
        if other != found:
            raise UserError(f"{other.name} and {found.name} are copies of one video: name one of them")
    return tuple(chosen[key] for key in sorted(chosen))


def shown_folders(root: Path) -> list[Path]:
    """What may be a sequence in a folder, in order of names.

    Hidden ones are what a killed import left; a link that leads nowhere is no sequence if it is called like a file.
    """
    return [folder for folder in sorted(root.glob("[!.]*")) if folder.exists() or not folder.suffix]


def _sequence_folders(root: Path) -> list[Path]:
    """Sequence folders, by video name, detector copies in order of preference."""
    found = [f for f in shown_folders(root) if any(map(is_promised, (f / "seqinfo.ini", f / "img1")))]
    preference = {name: i for i, name in enumerate(DETECTORS)}
    return sorted(found, key=lambda f: (video_name(f.name), preference.get(f.name.rpartition("-")[2], -1), f.name))


def video_name(name: str) -> str:
    """A sequence's name without the detector: copies of a video have one."""
    return re.sub(rf"-({'|'.join(DETECTORS)})$", "", name)
