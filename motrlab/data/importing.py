"""What importers share: a labelled video becomes a MOTChallenge folder that `prepare` takes.

Frames are the original JPEG bytes, as hard links where the file system allows, copies elsewhere; `seqinfo.ini` has the
size that the JPEG headers say. A folder is made under a temporary name and moved into place; one that is there already
with the same content is kept, one with another content is never overwritten.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from motrlab.data.motchallenge import Annotations, SequenceInfo, format_annotations, format_sequence_info
from motrlab.data.validate import jpeg_size
from motrlab.errors import UserError
from motrlab.files import replaced_folder

# MOT17's classes by the names that people give them (lower case, letters only); any other object is an occluder (9),
# which is neither counted nor removed. Only class 1 has flag 1, for the protocol `hat` knows no classes.
PEDESTRIAN, OTHER = 1, 9
CLASSES = {
    "person": 1, "people": 1, "pedestrian": 1, "human": 1, "personwalking": 1, "walker": 1,
    "persononvehicle": 2, "rider": 2, "cyclist": 2, "motorcyclist": 2,
    "car": 3, "van": 3, "bus": 3, "truck": 3, "vehicle": 3,
    "bicycle": 4, "bike": 4, "cycle": 4,
    "motorbike": 5, "motorcycle": 5, "scooter": 5,
    "nonmotorizedvehicle": 6, "nonmotorisedvehicle": 6, "nonmotvehicle": 6,
    "staticperson": 7, "sittingperson": 7, "personsitting": 7,
    "distractor": 8, "mannequin": 8, "statue": 8,
    "occluder": 9, "occluderontheground": 10, "occluderfull": 11,
    "reflection": 12,
}  # fmt: skip


def mot_class(name: str) -> int:
    """MOT17's class number of a label, whatever its case, spaces and hyphens."""
    return CLASSES.get(re.sub(r"[^a-z]", "", name.lower()), OTHER)


class Image(Protocol):
    """A frame's file, on the disk or in an archive; `str` of it stands in messages."""

    def read_bytes(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """`images[i]` is frame `i + 1`; `annotations` count frames the same way."""

    name: str
    frame_rate: float
    images: Sequence[Image]
    annotations: Annotations


def safe_name(text: str) -> str:
    """A folder's name made of a video's: letters, digits, `.`, `_`, `-`, whatever else is there becomes `-`."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:100]
    if not name:
        raise UserError(f"video name {text!r}: no letter or digit in it; give it a name")
    return name


def jpeg_files(folder: Path) -> list[Path]:
    """The JPEG files of a folder in the order that people count in (2 before 10). Raises UserError: none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the video's frames")
    files = [f for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg")]
    if not files:
        raise UserError(f"{folder}: no JPEG file in it; frames must be JPEG files (.jpg)")
    return sorted(files, key=lambda f: natural_key(f.name))


def natural_key(text: str) -> list[tuple[int, str]]:
    """Sorts `frame2` before `frame10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def write_video(video: LabelledVideo, destination: Path) -> SequenceInfo:
    """Write `destination/NAME/{img1, gt/gt.txt, seqinfo.ini}` and return its info.

    Raises UserError: a frame that is no whole JPEG file or of another size than the first, a folder in the way, a
    target that cannot be written.
    """
    path = destination / video.name
    size = (0, 0)
    for image in video.images:
        found = _size(image)
        if found != (size if any(size) else found):
            raise UserError(f"{image}: {found[0]}×{found[1]} pixels, but the video's first frame {size[0]}×{size[1]}")
        size = found
    info = SequenceInfo(
        name=video.name, num_frames=len(video.images), width=size[0], height=size[1], frame_rate=video.frame_rate
    )
    if path.exists():
        _check_same(path, info, video.annotations)
        return info
    with replaced_folder(path) as folder:
        (folder / "img1").mkdir()
        (folder / "gt").mkdir()
        for frame, image in enumerate(video.images, 1):
            _put(image, info.frame_path(folder, frame))
        (folder / "gt" / "gt.txt").write_text(format_annotations(video.annotations), encoding="utf-8")
        (folder / "seqinfo.ini").write_text(format_sequence_info(info), encoding="utf-8")
    return info


def _size(image: Image) -> tuple[int, int]:
    try:
        return jpeg_size(image.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{image}: missing; --images is the folder that the labels' file names start from") from error
    except OSError as error:
        raise UserError(f"{image}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{image}: {error}; frames must be whole JPEG files") from error


def _put(image: Image, target: Path) -> None:
    if isinstance(image, Path):
        try:
            os.link(image.resolve(), target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(image, target)
    else:
        target.write_bytes(image.read_bytes())


def _check_same(path: Path, info: SequenceInfo, annotations: Annotations) -> None:
    """An import run again finds what it wrote before."""
    expected = {"seqinfo.ini": format_sequence_info(info), "gt/gt.txt": format_annotations(annotations)}
    same = all((path / n).is_file() and (path / n).read_text(encoding="utf-8") == text for n, text in expected.items())
    if not same or len(list((path / "img1").glob("*.jpg"))) != info.num_frames:
        raise UserError(f"{path}: there is something else already; move it away or choose another --dst")


def with_classes(annotations: Annotations, names: dict[int, str], where: str) -> Annotations:
    """Class numbers of a label list (`names`) to MOT17's; only people keep their flag, all others get flag 0.

    Raises UserError where no label of the list is a person: nothing would be tracked.
    """
    classes = {key: mot_class(name) for key, name in names.items()}
    if PEDESTRIAN not in classes.values():
        raise UserError(f"{where}: no label is called person or pedestrian; there are {', '.join(names.values())}")
    class_id = np.array([classes[c] for c in annotations.class_id.tolist()], np.int64)
    flag = np.where(class_id == PEDESTRIAN, annotations.flag, 0)
    return replace(annotations, class_id=class_id, flag=flag, has_class=True)
