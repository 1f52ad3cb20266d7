"""What importers share: a labelled video becomes a MOTChallenge folder that `prepare` takes.

Frames are the original JPEG or PNG files, as hard links where the file system allows, copies elsewhere; `seqinfo.ini`
has the size that their headers say. Classes become MOT17's by their names, or as the user maps them. A folder is made
under a temporary name and moved into place; one that is there already with the same content is kept, one with another
content is never overwritten.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.data.formats import MOT_CLASSES, Labels
from motrlab.data.motchallenge import Annotations, Detections, SequenceInfo, label_files, write_files
from motrlab.data.rows import counts
from motrlab.data.validate import Image, read_size
from motrlab.errors import UserError
from motrlab.files import replaced_folder

# MOT17's classes by the names that people give them (lower case, letters only); any other object is an occluder (9),
# which is neither counted nor removed. Only what is tracked has flag 1, for the protocol `hat` knows no classes.
# Players and dancers are people on foot; a rider may be what a user wants to track, but MOT17 has a class of its own.
OTHER = 9
CLASSES = {
    **{re.sub("[^a-z]", "", name): number for number, name in enumerate(MOT_CLASSES) if name},
    "person": 1, "people": 1, "human": 1, "personwalking": 1, "walker": 1,
    "player": 1, "goalkeeper": 1, "goalkeepers": 1, "referee": 1, "dancer": 1, "athlete": 1,
    "rider": 2, "cyclist": 2, "motorcyclist": 2, "van": 3, "bus": 3, "truck": 3, "vehicle": 3, "bike": 4, "cycle": 4,
    "motorcycle": 5, "scooter": 5, "nonmotorisedvehicle": 6, "nonmotvehicle": 6,
    "mask": 13, "sittingperson": 7, "personsitting": 7, "mannequin": 8, "statue": 8,
}  # fmt: skip
ClassMap = Mapping[str, int]
_KNOWN = ", ".join(f"{number} {name}" for number, name in enumerate(MOT_CLASSES) if name)
_STILLS = 1000  # of a folder at most: packing that was killed goes on after the last that is whole
_ADVICE = "--images is the folder that the labels' file names start from"


def parse_class_map(pairs: Iterable[str]) -> dict[str, int]:
    """`NAME=CLASS` of the command line: a label, or the number of one without a name, and a MOT17 class."""
    found = {}
    for pair in pairs:
        name, equals, kind = (part.strip() for part in pair.partition("="))
        number = _class_number(kind)
        if not (name and equals and number):
            raise UserError(f"--map {pair}: NAME=CLASS expected, CLASS being one of {_KNOWN}")
        found[_key(name)] = number
    return found


def parse_tracked(text: str) -> Classes:
    """`pedestrian,car`: MOT17's classes, by name or number, in the order of the network's outputs."""
    numbers = tuple(map(_class_number, text.split(",")))
    if 0 in numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--classes {text}: classes with commas between expected, each once, of {_KNOWN}")
    return Classes(numbers, tuple(MOT_CLASSES[number] for number in numbers))


def _class_number(text: str) -> int:
    """One of MOT17's, 0 for what is none."""
    number = int(text) if text.strip().isdecimal() else CLASSES.get(_key(text), 0)
    return number if number in CLASSES.values() else 0


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """`images[i]` is frame `i + 1`; annotations and detections count frames the same way.

    Of `stills` the frames are single images, of any size, and every box is somebody else's. `names` are those of the
    class numbers in `annotations`; a number that is not among them is its own name. `sizes`: width and
    height that the labels say of images.
    """

    name: str
    frame_rate: float
    images: Sequence[Image]
    annotations: Annotations
    names: Mapping[int, str]
    detections: Detections | None = None
    stills: bool = False
    sizes: Mapping[Image, tuple[int, int]] = field(default_factory=dict)

    def label(self, number: int) -> str:
        """What a class is called."""
        return self.names.get(number) or str(number)


def safe_name(text: str) -> str:
    """A folder's name made of a video's: letters, digits, `.`, `_`, `-`, whatever else is there becomes `-`."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:100]
    if not name:
        raise UserError(f"video name {text!r}: no letter or digit in it; give it a name")
    return name


def with_area(labels: Labels, source: Path) -> Labels:
    """Without the boxes that have no area, which large sets of stills have a few of; says on stderr how many."""
    kept = labels.table[:, 4:6].min(1) > 0
    if not kept.all():
        print(f"motrlab: {source}: {(~kept).sum()} boxes without an area are left out", file=sys.stderr)
    return replace(labels, table=labels.table[kept], rows=labels.rows.select(kept))


def write_videos(
    videos: Sequence[LabelledVideo],
    destination: Path,
    class_map: ClassMap | None = None,
    tracked: Classes = PEOPLE,
) -> list[SequenceInfo]:
    """Write every video as `destination/NAME`, its classes being MOT17's: by `class_map`, else by their names.

    Only those `tracked` keep their flag, all others get flag 0. Raises UserError, before anything is written, where a
    name of the map is no label or where no label is of a tracked class; else as `write_video` does.
    """
    class_map = class_map or {}
    boxes = [video.label(number) for video in videos for number in video.annotations.class_id.tolist()]
    labels = list(dict.fromkeys([*boxes, *(name for video in videos for name in video.names.values() if name)]))
    classes = {label: class_map.get(_key(label), CLASSES.get(_letters(label), OTHER)) for label in labels}
    there = counts(boxes) or ", ".join(labels)
    if unknown := sorted(class_map.keys() - set(map(_key, labels))):
        raise UserError(f"--map: no label {unknown[0]!r}; there are {there}")
    if boxes and not any(video.stills or video.annotations.flag.any() for video in videos):  # stills say it themselves
        raise UserError(f"all {len(boxes)} boxes are to be ignored (flag 0); write 1 for those that count")
    used = {classes[label] for label in boxes or labels}
    if lacking := [name for number, name in tracked if number not in used]:
        called = "person or pedestrian" if lacking[0] == PEOPLE.names[0] else lacking[0]
        raise UserError(f"no label is called {called}; there are {there}: choose by --map NAME={lacking[0]}")
    infos = []
    for video in videos:
        gt = video.annotations
        class_id = np.array([classes[video.label(number)] for number in gt.class_id.tolist()], np.int64)
        flag = ((tracked.kinds(class_id) >= 0) & (gt.flag != 0)).astype(np.int64)
        mapped = replace(video, annotations=replace(gt, class_id=class_id, flag=flag, has_class=True))
        parts = _still_folders(mapped, tracked) if video.stills else [mapped]
        infos += [write_video(one, destination, tracked) for one in parts]
    return infos


def _still_folders(video: LabelledVideo, tracked: Classes) -> list[LabelledVideo]:
    """The images with somebody who is tracked, in folders of one kind of file each. Raises UserError without any."""
    gt, kinds = video.annotations, [_extension(image) for image in video.images]
    shown = sorted((kinds[frame - 1], frame) for frame in np.unique(gt.counted(tracked).frame).tolist())
    groups = [[f for k, f in shown if k == kind] for kind in dict.fromkeys(kind for kind, _ in shown)]
    parts = [np.array(group[at : at + _STILLS]) for group in groups for at in range(0, len(group), _STILLS)]
    if not parts:
        raise UserError(f"{video.name}: no image with a person that is not to be ignored")
    found = []
    for number, frames in enumerate(parts, 1):
        own = gt.select(np.isin(gt.frame, frames))
        labels = replace(own, frame=np.searchsorted(frames, own.frame) + 1)
        images = [video.images[frame - 1] for frame in frames.tolist()]
        found.append(replace(video, name=f"{video.name}-{number:03d}", images=images, annotations=labels))
    return found


def _extension(image: Image) -> str:
    return ".png" if str(image).lower().endswith(".png") else ".jpg"


def write_video(video: LabelledVideo, destination: Path, tracked: Classes = PEOPLE) -> SequenceInfo:
    """Write `destination/NAME/{img1, gt/gt.txt, det/det.txt, seqinfo.ini}` and return its info.

    Raises UserError: a frame that is no whole JPEG or PNG file, has another size than its labels say or, in a video,
    is unlike the first in that or in size, a folder in the way, a target that cannot be written.
    """
    path = destination / video.name
    sizes = [read_size(image, advice=_ADVICE) for image in video.images]
    for image, size in zip(video.images, sizes, strict=True):
        if (said := video.sizes.get(image, size)) != size:
            told = "{}×{} pixels, but its labels are of {}×{}".format(*size, *said)
            raise UserError(f"{image}: {told}; give the pictures that were labelled")
    kinds = [(_extension(image), *size) for image, size in zip(video.images, sizes, strict=True)]
    for image, kind in zip(video.images, kinds, strict=True):
        if kind != kinds[0] and not video.stills:
            this, first = ("{}, {}×{} pixels".format(*k) for k in (kind, kinds[0]))
            raise UserError(f"{image}: {this}, but the video's first frame {first}")
    width, height = np.max(sizes, axis=0).tolist()
    info = SequenceInfo(
        name=video.name, num_frames=len(kinds), width=width, height=height, frame_rate=video.frame_rate,
        image_ext=kinds[0][0], stills=video.stills, classes=tracked.text,
    )  # fmt: skip
    texts = label_files(info, video.annotations, video.detections)
    if path.exists():
        _check_same(path, info, texts, video.images)
        return info
    with replaced_folder(path) as folder:
        (folder / "img1").mkdir()
        for frame, image in enumerate(video.images, 1):
            _put(image, info.frame_path(folder, frame))
        write_files(folder, texts)
    return info


def _put(image: Image, target: Path) -> None:
    if isinstance(image, Path):
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(image.resolve(), target)
            return
    target.write_bytes(image.read_bytes())


def _is_same(image: Image, file: Path) -> bool:
    linked = isinstance(image, Path) and image.samefile(file)
    return linked or image.read_bytes() == file.read_bytes()


def _check_same(path: Path, info: SequenceInfo, texts: Mapping[str, str], images: Sequence[Image]) -> None:
    """An import run again finds what it wrote before, pictures too."""
    files = [info.frame_path(path, frame) for frame in range(1, info.num_frames + 1)]
    same = all((path / n).is_file() and (path / n).read_text(encoding="utf-8") == text for n, text in texts.items())
    same = same and sorted((path / "img1").glob(f"*{info.image_ext}")) == files
    if not same or not all(map(_is_same, images, files)):
        raise UserError(f"{path}: already there; move it away or choose another --dst")
