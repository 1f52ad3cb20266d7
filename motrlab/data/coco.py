"""COCO JSON, of videos or of still images: `videos`, `images`, `annotations`, `categories`.

In COCO-video an image has `video_id` and `frame_id`, an annotation a track id. Frames of a video are ordered by
`frame_id` (from 0 or 1, gaps are closed). A track id is `instance_id` or `track_id`; `bbox` is `[left, top, width,
height]` in pixels; an image's `width` and `height`, where it says them, must be those of its file. `iscrowd` or
`ignore` 1 gives flag 0; `visibility`, where there is one, is taken. Without `videos` and `video_id` the file is plain
COCO: still images, every box an id of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.data.formats import Labels
from motrlab.data.importing import ClassMap, LabelledVideo, safe_name, with_area, write_videos
from motrlab.data.motchallenge import SequenceInfo, check_labels
from motrlab.data.odgt import read_odgt
from motrlab.data.rows import Rows, is_number, read_text
from motrlab.data.validate import Image
from motrlab.errors import UserError

_FRAME_RATE = 30.0  # where a video says none
_Item = dict[str, Any]


def import_coco(
    source: Path,
    destination: Path,
    images: Path | None = None,
    class_map: ClassMap | None = None,
    tracked: Classes = PEOPLE,
) -> list[SequenceInfo]:
    """Write every video of the file as `destination/NAME`, or its still images as `FILE-001` and so on; their infos.

    A file called `.odgt` is CrowdHuman's, see `odgt.py`. Names of image files count from folder `images`, by default
    the folder of `source`. All labels are checked before the first video is written. Raises UserError.
    """
    if source.suffix.lower() == ".odgt":
        return write_videos([read_odgt(source, images)], destination, class_map, tracked)
    reader = _Reader(source, images if images is not None else source.parent)
    videos = reader.videos() if reader.has_videos else [reader.stills()]
    return write_videos(videos, destination, class_map, tracked)


class _Reader:
    """One file; an item in messages is `file: kind id`."""

    def __init__(self, source: Path, images: Path) -> None:
        self.source, self.folder = source, images
        text = read_text(source)
        try:
            self.data = json.loads(text)
        except (ValueError, RecursionError) as error:
            at = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{source}{at}: not JSON ({error})") from error
        if not isinstance(self.data, dict):
            raise self._error("a list, not an object with videos, images, annotations, categories")

    def _error(self, text: str) -> UserError:
        return UserError(f"{self.source}: {text}")

    @property
    def has_videos(self) -> bool:
        images = self.data.get("images")
        with_video = (isinstance(item, dict) and "video_id" in item for item in images or ())
        return "videos" in self.data or not isinstance(images, list) or any(with_video)

    def stills(self) -> LabelledVideo:
        """All images, in the order of the file, as the frames of one sequence."""
        images = self._table("images")
        names = self._names()
        labels = with_area(self._labels({0: list(images)}, names, stills=True)[0], self.source)
        return LabelledVideo(
            name=safe_name(self.source.stem), frame_rate=1.0, images=[self._path(image) for image in images.values()],
            annotations=check_labels(labels, len(images)), names=names, stills=True, sizes=self._sizes(images.values()),
        )  # fmt: skip

    def videos(self) -> list[LabelledVideo]:
        videos, images, names = self._table("videos"), self._table("images"), self._names()
        frames = self._frames(videos, images)
        labels = self._labels(frames, names)
        found: dict[str, LabelledVideo] = {}
        for key, video in videos.items():
            name = safe_name(str(video.get("name") or video.get("file_name") or f"video-{key}"))
            if name in found:
                raise self._error(f"two videos would be called {name!r}; give them other names")
            if not frames[key]:
                raise self._error(f"video {key} ({name}) has no images; remove it or add them")
            found[name] = LabelledVideo(
                name=name,
                frame_rate=self._frame_rate(key, video),
                images=[self._path(images[image]) for image in frames[key]],
                annotations=check_labels(labels[key], len(frames[key])),
                names=names,
                sizes=self._sizes(images[image] for image in frames[key]),
            )
        if not found:
            raise self._error("no videos in it")
        return list(found.values())

    def _names(self) -> dict[int, str]:
        """Of the categories; "" where one has none."""
        return {key: str(item.get("name") or "") for key, item in self._table("categories").items()}

    def _table(self, kind: str) -> dict[int, _Item]:
        """The items of a list, by id."""
        items = self.data.get(kind)
        if not isinstance(items, list):
            raise self._error(f"no list {kind!r}; a COCO-video file has videos, images, annotations, categories")
        table: dict[int, _Item] = {}
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise self._error(f"{kind}[{number}] is not an object")
            key = self._whole(item, "id", f"{kind}[{number}]")
            if table.setdefault(key, item) is not item:
                raise self._error(f"{kind}: id {key} twice")
        return table

    def _whole(self, item: _Item, field: str, what: str) -> int:
        value = item.get(field)
        if value is None or not is_number(value) or value != int(value):
            found = f"{field}={value!r}, a whole number expected" if field in item else f"no {field}"
            raise self._error(f"{what}: {found}")
        return int(value)

    def _frame_rate(self, key: int, video: _Item) -> float:
        rate = next((video[f] for f in ("fps", "frame_rate", "frameRate") if video.get(f) is not None), _FRAME_RATE)
        if not is_number(rate) or rate <= 0:
            raise self._error(f"video {key}: frame rate {rate!r}; a positive number expected")
        return float(rate)

    def _path(self, image: _Item) -> Path:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise self._error(f"image {image['id']}: no file_name")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise self._error(f"image {image['id']}: {name!r} lies outside {self.folder}; see --images")
        return self.folder / name

    def _sizes(self, images: Iterable[_Item]) -> dict[Image, tuple[Any, Any]]:
        """Of the images that say theirs."""
        return {self._path(i): (i["width"], i["height"]) for i in images if {"width", "height"} <= i.keys()}

    def _frames(self, videos: dict[int, _Item], images: dict[int, _Item]) -> dict[int, list[int]]:
        """Image ids of each video, in the order of the frames."""
        frames: dict[int, dict[int, int]] = {key: {} for key in videos}
        for key, image in images.items():
            video, frame = (self._whole(image, field, f"image {key}") for field in ("video_id", "frame_id"))
            if video not in videos:
                raise self._error(f"image {key}: no video {video}")
            other = frames[video].setdefault(frame, key)
            if other != key:
                raise self._error(f"images {other} and {key} are both frame {frame} of video {video}")
        return {video: [found[frame] for frame in sorted(found)] for video, found in frames.items()}

    def _track(self, item: _Item, what: str) -> int:
        field = "instance_id" if "instance_id" in item else "track_id"
        if item.get(field) is None:
            raise self._error(f"{what}: no track_id or instance_id; tracking needs identities")
        track = self._whole(item, field, what)
        if track < 0:
            raise self._error(f"{what}: {field} {track}; a person's is 0 or more")
        return track

    def _labels(
        self, frames: dict[int, list[int]], names: dict[int, str], *, stills: bool = False
    ) -> dict[int, Labels]:
        """By video; of `stills` every box has an id of its own. In messages the id of an annotation is its line."""
        places = {image: (video, frame) for video, found in frames.items() for frame, image in enumerate(found, 1)}
        tables: dict[int, list[list[float]]] = {video: [] for video in frames}
        keys: dict[int, list[int]] = {video: [] for video in frames}
        for key, item in self._table("annotations").items():
            what = f"annotation {key}"
            image, category = (self._whole(item, field, what) for field in ("image_id", "category_id"))
            if image not in places:
                raise self._error(f"{what}: no image {image}")
            if category not in names:
                raise self._error(f"{what}: no category {category}")
            track = len(keys[places[image][0]]) + 1 if stills else self._track(item, what)
            box, seen = item.get("bbox"), item.get("visibility", 1.0)
            if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, [*box, seen])):
                said = f"bbox={box!r}, visibility={seen!r}"
                raise self._error(f"{what}: {said}; [left, top, width, height] in pixels, a fraction expected")
            video, frame = places[image]
            flag = not (item.get("iscrowd") or item.get("ignore"))
            tables[video].append([frame, track, *box, flag, category, 1.0 if seen == -1 else seen])  # -1: not said
            keys[video].append(key)
        rows = {v: Rows(f"{self.source}:annotation", [""] * len(found), found, None) for v, found in keys.items()}
        return {v: Labels(np.array(table).reshape(-1, 9), rows[v], names, True) for v, table in tables.items()}
