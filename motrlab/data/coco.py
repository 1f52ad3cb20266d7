"""COCO-video JSON: `videos`, `images` with `video_id` and `frame_id`, `annotations` with a track id, `categories`.

Frames of a video are ordered by `frame_id` (from 0 or 1, gaps are closed). A track id is `instance_id` or `track_id`;
`bbox` is `[left, top, width, height]` in pixels; `iscrowd` 1 gives flag 0; `visibility`, where there is one, is taken.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.data.importing import ClassMap, LabelledVideo, safe_name, write_videos
from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.rows import read_text
from motrlab.errors import UserError

_FRAME_RATE = 30.0  # where a video says none
_LARGEST = 2**53
_Item = dict[str, Any]


def import_coco(
    source: Path, destination: Path, images: Path | None = None, class_map: ClassMap | None = None
) -> list[SequenceInfo]:
    """Write every video of the file as `destination/NAME` and return their infos.

    Names of image files count from folder `images`, by default the folder of `source`. All is checked before the first
    video is written. Raises UserError.
    """
    videos = _Reader(source, images if images is not None else source.parent).videos()
    return write_videos(videos, destination, class_map)


class _Reader:
    """One file; `where` of an item in messages is `file: kind id`."""

    def __init__(self, source: Path, images: Path) -> None:
        self.source, self.folder = source, images
        text = read_text(source)
        try:
            self.data = json.loads(text)
        except (ValueError, RecursionError) as error:
            at = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise UserError(f"{source}{at}: not JSON ({error})") from error
        if not isinstance(self.data, dict):
            raise UserError(f"{source}: a list, not an object with videos, images, annotations, categories")

    def videos(self) -> list[LabelledVideo]:
        videos, images = self._table("videos"), self._table("images")
        names = {key: str(item.get("name", "")) for key, item in self._table("categories").items()}
        frames = self._frames(videos, images)
        rows = self._rows(images, names)
        found: dict[str, LabelledVideo] = {}
        for key, video in videos.items():
            name = safe_name(str(video.get("name") or video.get("file_name") or f"video-{key}"))
            if name in found:
                raise UserError(f"{self.source}: two videos would be called {name!r}; give them other names")
            if not frames[key]:
                raise UserError(f"{self.source}: video {key} ({name}) has no images; remove it or add them")
            found[name] = LabelledVideo(
                name=name,
                frame_rate=self._frame_rate(key, video),
                images=[self._path(images[image]) for image in frames[key]],
                annotations=_annotations([rows[image] for image in frames[key]]),
                names=names,
            )
        if not found:
            raise UserError(f"{self.source}: no videos in it")
        return list(found.values())

    def _table(self, kind: str) -> dict[int, _Item]:
        """The items of a list, by id."""
        items = self.data.get(kind)
        if not isinstance(items, list):
            has = "videos, images, annotations, categories"
            raise UserError(f"{self.source}: no list {kind!r}; a COCO-video file has {has}")
        table: dict[int, _Item] = {}
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise UserError(f"{self.source}: {kind}[{number}] is not an object")
            key = self._whole(item, "id", f"{kind}[{number}]")
            if key in table:
                raise UserError(f"{self.source}: {kind}: id {key} twice")
            table[key] = item
        return table

    def _whole(self, item: _Item, field: str, what: str) -> int:
        value = item.get(field)
        if value is None or not _is_number(value) or value != int(value):
            found = f"{field}={value!r}, a whole number expected" if field in item else f"no {field}"
            raise UserError(f"{self.source}: {what}: {found}")
        return int(value)

    def _frame_rate(self, key: int, video: _Item) -> float:
        rate = next((video[f] for f in ("fps", "frame_rate", "frameRate") if video.get(f) is not None), _FRAME_RATE)
        if not _is_number(rate) or rate <= 0:
            raise UserError(f"{self.source}: video {key}: frame rate {rate!r}; a positive number expected")
        return float(rate)

    def _path(self, image: _Item) -> Path:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{self.source}: image {image['id']}: no file_name")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{self.source}: image {image['id']}: {name!r} lies outside {self.folder}; see --images")
        return self.folder / name

    def _frames(self, videos: dict[int, _Item], images: dict[int, _Item]) -> dict[int, list[int]]:
        """Image ids of each video, in the order of the frames."""
        frames: dict[int, dict[int, int]] = {key: {} for key in videos}
        for key, image in images.items():
            video = self._whole(image, "video_id", f"image {key}")
            if video not in videos:
                raise UserError(f"{self.source}: image {key}: no video {video}")
            frame = self._whole(image, "frame_id", f"image {key}")
            other = frames[video].setdefault(frame, key)
            if other != key:
                raise UserError(f"{self.source}: images {other} and {key} are both frame {frame} of video {video}")
        return {video: [found[frame] for frame in sorted(found)] for video, found in frames.items()}

    def _rows(self, images: dict[int, _Item], names: dict[int, str]) -> dict[int, dict[int, list[float]]]:
        """By image, then track id: left, top, width, height, flag, category, visibility."""
        rows: dict[int, dict[int, list[float]]] = defaultdict(dict)
        for key, item in self._table("annotations").items():
            what = f"annotation {key}"
            image, category = self._whole(item, "image_id", what), self._whole(item, "category_id", what)
            if image not in images:
                raise UserError(f"{self.source}: {what}: no image {image}")
            if category not in names:
                raise UserError(f"{self.source}: {what}: no category {category}")
            field = "instance_id" if "instance_id" in item else "track_id"
            if item.get(field) is None:
                raise UserError(f"{self.source}: {what}: no track_id or instance_id; tracking needs identities")
            track = self._whole(item, field, what)
            if track in rows[image]:
                raise UserError(f"{self.source}: {what}: id {track} twice in image {image}")
            flag = float(not item.get("iscrowd"))
            rows[image][track] = [*self._box(item, what), flag, category, self._seen(item, what)]
        return rows

    def _box(self, item: _Item, what: str) -> list[float]:
        box = item.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise UserError(f"{self.source}: {what}: bbox={box!r}; [left, top, width, height] in pixels expected")
        if box[2] <= 0 or box[3] <= 0:
            raise UserError(f"{self.source}: {what}: width {box[2]:g} and height {box[3]:g} must be positive")
        return [float(v) for v in box]

    def _seen(self, item: _Item, what: str) -> float:
        value = item.get("visibility", 1.0)
        if not _is_number(value) or not 0 <= value <= 1:
            raise UserError(f"{self.source}: {what}: visibility={value!r}; a fraction from 0 to 1 expected")
        return float(value)


def _annotations(frames: list[dict[int, list[float]]]) -> Annotations:
    table = [[i, track, *row[track]] for i, row in enumerate(frames, 1) for track in sorted(row)]
    array = np.array(table, np.float64).reshape(-1, 9)
    frame, track_id, flag, class_id = array[:, [0, 1, 6, 7]].astype(np.int64).T
    return Annotations(frame, track_id, array[:, 2:6], flag, class_id, array[:, 8], True)


def _is_number(value: object) -> bool:
    """An int or a float, exact as a whole number; JSON as Python reads it may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
