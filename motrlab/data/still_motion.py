"""A still image as a clip: what a camera sees that pans, zooms and shakes, and things that move in front of people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy
from motrlab.data.pictures import Image
from motrlab.data.preprocess import resize_image
from motrlab.data.transforms import ClipSample, FrameObjects, area_between, joined, next_id, seen_in_view

_CLEAR, _FREE = 0.9, 0.05  # who is pasted is that visible; no more of the cut-out belongs to anybody else's box
_LEAST_PX = 16  # height of a cut-out
_GRID = (np.arange(8) + 0.5) / 8  # points of a box, each way, of which those behind something are counted


@dataclass(frozen=True)
class _Occluder:
    """`picture [h, w, 3]`, where `mask [h, w]` is not 0; its left top corner is at `places int [T, 2]`, x and y in px.

    `visibility` is that of the person it shows, 0 of a patch. `round`: the mask is an ellipse.
    """

    picture: Image
    mask: NDArray[np.uint8]
    places: NDArray[np.int64]
    visibility: float
    round: bool
    kind: int  # class of that person


@dataclass(frozen=True)
class SeqStillMotion:
    """A clip of one picture, repeated, → the same seen by a moving camera, `height` × `width` px (what the network's
    sides are in proportion to), or as large as the largest view in the picture if that is smaller.

    The view has 45 to 100 % of the largest one of that shape, and stays inside the picture. It moves by at most `pan`
    of itself a frame each way and grows or shrinks by at most `e^zoom`, smoothly, and trembles with a standard
    deviation of at most `shake` of itself. Up to `occluders` things then pass in front of people: patches of one
    colour, as poles and cars are, and people cut out of the same picture, who get ids of their own. Ids are kept, boxes
    may reach outside the view; what is outside or behind something is no longer visible.
    """

    height: int
    width: int
    pan: float = 0.08
    zoom: float = 0.05
    shake: float = 0.006
    occluders: int = 2

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        high, wide = sample.images[0].shape[:2]
        if (scale := min(high / self.height, wide / self.width)) < 1:  # whoever resizes next enlarges the view
            smaller = replace(self, height=max(1, round(self.height * scale)), width=max(1, round(self.width * scale)))
            return smaller(sample, rng)
        images, views = [], []
        for image, (left, top, right, bottom) in zip(sample.images, self._windows(rng, sample), strict=True):
            images.append(resize_image(image[top:bottom, left:right], self.height, self.width))
            (height, width), (high, wide) = image.shape[:2], (bottom - top, right - left)
            views.append(((width / wide, height / high), (-left / wide, -top / high)))
        objects = [seen_in_view(people, *view) for people, view in zip(sample.objects, views, strict=True)]
        moved = replace(sample, images=images, objects=objects)
        first_id = next_id(sample)
        for new_id in range(first_id, first_id + int(rng.integers(self.occluders + 1))):
            occluder = self._occluder(rng, sample, moved)
            if occluder is not None:
                moved = _occlude(moved, occluder, new_id)
        return moved

    def _windows(self, rng: np.random.Generator, sample: ClipSample) -> list[list[int]]:
        """What the camera sees of every frame, somebody among it: left, top, right, bottom in whole pixels."""
        size, num_frames = np.array(sample.images[0].shape[1::-1]), len(sample.images)
        sides = np.array([self.width, self.height]) / size
        largest = sides / sides.max()  # of the picture, each way
        time = np.linspace(0, 1, num_frames)[:, None] ** math.exp(rng.uniform(-0.5, 0.5))
        path, change = (limit * (num_frames - 1) / 2 * np.array([-1, 1]) for limit in (self.pan, self.zoom))
        zoom = np.minimum(rng.uniform(math.log(0.45), 0) + rng.uniform(-1, 1) * change, 0)
        ends = largest * np.exp(zoom)[:, None]  # sizes of the first and the last view, [2, 2]
        people = sample.objects[0].boxes[sample.objects[0].visibility >= 0]
        somebody = people[rng.integers(len(people)), :2] if len(people) else rng.random(2)
        middle = somebody + rng.uniform(-0.4, 0.4, 2) * ends.min(0)
        centres = np.clip(middle + path[:, None] * rng.uniform(-1, 1, 2) * ends.mean(0), ends / 2, 1 - ends / 2)
        view = ends[0] * (ends[1] / ends[0]) ** time  # never larger than on the straight way, so all are inside
        centre = centres[0] + (centres[1] - centres[0]) * time
        centre += rng.normal(0, rng.uniform(0, self.shake), centre.shape) * view
        centre = np.clip(centre, view / 2, 1 - view / 2)
        low = np.rint((centre - view / 2) * size).astype(int)
        high = np.clip(np.rint((centre + view / 2) * size).astype(int), low + 1, size)
        windows: list[list[int]] = np.concatenate([low, high], 1).tolist()
        return windows

    def _occluder(self, rng: np.random.Generator, still: ClipSample, moved: ClipSample) -> _Occluder | None:
        """Something that is in front of somebody in one of the frames; None where nobody is to be seen there."""
        when = int(rng.integers(len(moved.objects)))
        people = moved.objects[when]
        seen = np.flatnonzero(people.visibility > 0.3)
        if not len(seen):
            return None
        x, y, width, height = people.boxes[rng.choice(seen)].tolist()
        cut = _cut_out(rng, still) if rng.random() < 0.5 else None
        sides = np.array([width * rng.uniform(0.2, 1.2), height * rng.uniform(0.8, 1.5)])
        pixels = np.array([self.width, self.height])
        wide, high = np.maximum(np.rint(sides * pixels), 1).astype(int).tolist()
        if cut is not None:
            picture, visibility, kind = cut
            wide = max(1, round(high * picture.shape[1] / picture.shape[0]))
            picture = _resize(picture, wide, high)
            mask = np.zeros((high, wide), np.uint8)
            cv2.ellipse(mask, ((wide / 2, high / 2), (wide, high), 0.0), 255, -1)
        else:
            colour = moved.images[when][int(rng.integers(self.height)), int(rng.integers(self.width))]
            picture, visibility, kind = np.full((high, wide, 3), colour, np.uint8), 0.0, 0
            mask = np.full((high, wide), 255, np.uint8)
        centre = np.array(
            [x + width * rng.uniform(-0.4, 0.4), y + (height - sides[1]) / 2 + height * rng.uniform(0, 0.15)]
        )
        step = np.array([width * rng.uniform(-0.8, 0.8), height * rng.uniform(-0.03, 0.03)])
        centres = centre + step * (np.arange(len(moved.images)) - when)[:, None]
        places = np.rint(centres * pixels - np.array([wide, high]) / 2).astype(int)
        return _Occluder(picture, mask, places, visibility, cut is not None, kind)


def _resize(picture: Image, width: int, height: int) -> Image:
    way = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=way), np.uint8)


def _cut_out(rng: np.random.Generator, still: ClipSample) -> tuple[Image, float, int] | None:
    """Somebody who is well seen, alone in the box, mirrored or not: picture inside the box, visibility and class."""
    people, image = still.objects[0], still.images[0]
    corners = box_cxcywh_to_xyxy(people.boxes)
    pixels = np.rint(corners * np.tile(image.shape[1::-1], 2)).astype(int)
    inside = (corners >= 0).all(1) & (corners <= 1).all(1)
    wanted = inside & (people.visibility >= _CLEAR) & (pixels[:, 3] - pixels[:, 1] >= _LEAST_PX)
    for index in rng.permutation(np.flatnonzero(wanted))[:4].tolist():
        low, high = corners[index, :2], corners[index, 2:]
        shared = area_between(np.delete(corners, index, 0), low, high)
        left, top, right, bottom = pixels[index].tolist()
        if right > left and (shared <= _FREE * np.prod(high - low)).all():
            found = image[top:bottom, left:right]
            found = cv2.flip(found, 1) if rng.random() < 0.5 else found  # type: ignore[assignment]
            return found, float(people.visibility[index]), int(people.kinds[index])
    return None


def _occlude(sample: ClipSample, occluder: _Occluder, new_id: int) -> ClipSample:
    """With the occluder in front of everything; if it is a person, of that id."""
    pixels = np.array(sample.images[0].shape[1::-1])
    size = np.array(occluder.mask.shape[::-1])
    boxes = np.concatenate([occluder.places + size / 2, np.tile(size, (len(occluder.places), 1))], 1) / np.tile(
        pixels, 2
    )
    inside = area_between(box_cxcywh_to_xyxy(boxes), (0, 0), (1, 1)) / np.prod(size / pixels)
    seen = (np.clip(inside, 0, 1) * occluder.visibility).astype(np.float32)
    objects = []
    for t, (image, people, box) in enumerate(zip(sample.images, sample.objects, boxes.astype(np.float32), strict=True)):
        if inside[t] > 0:
            _paste(image, occluder, *occluder.places[t].tolist())
            hidden = _hidden(people.boxes, box, round=occluder.round)
            people = replace(people, visibility=(people.visibility * (1 - hidden)).astype(np.float32))
        if seen[t] > 0:
            kind, somebody = np.array([occluder.kind]), np.array([new_id])
            people = joined(people, FrameObjects(box[None], somebody, seen[t : t + 1], kind))
        objects.append(people)
    return replace(sample, objects=objects)


def _paste(image: Image, occluder: _Occluder, left: int, top: int) -> None:
    """Into the picture itself, the part that is inside it."""
    (high, wide), (height, width) = occluder.mask.shape, image.shape[:2]
    part = slice(max(-top, 0), height - top), slice(max(-left, 0), width - left)
    target = image[max(top, 0) : top + high, max(left, 0) : left + wide]
    cv2.copyTo(occluder.picture[part], occluder.mask[part], target)


def _hidden(boxes: NDArray[np.floating], front: NDArray[np.float32], *, round: bool) -> NDArray[np.float64]:
    """`[n]`: the share, in the view, of each box `[n, 4]` that is behind the ellipse or the box `front`, `[4]`."""
    corners = np.clip(box_cxcywh_to_xyxy(boxes), 0, 1)
    low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    places = (low[:, None] + size[:, None] * _GRID[:, None] - front[:2]) / (front[2:] / 2)  # [n, 8, 2], from its centre
    x, y = np.abs(places[:, :, None, 0]), np.abs(places[:, None, :, 1])
    behind = x**2 + y**2 <= 1 if round else (x <= 1) & (y <= 1)
    share: NDArray[np.float64] = behind.mean((1, 2))
    return share
