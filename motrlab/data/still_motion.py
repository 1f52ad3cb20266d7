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
from motrlab.data.transforms import ClipSample, FrameObjects, area_between, seen_in_view

_CLEAR, _FREE = 0.9, 0.05  # who is pasted is that visible; no more of the cut-out belongs to anybody else's box
_LEAST_PX = 16  # height of a cut-out
_GRID = (np.arange(8) + 0.5) / 8  # points of a box, each way, of which those behind something are counted


@dataclass(frozen=True)
class _Occluder:
    """`picture [h, w, 3]`, where `mask [h, w]` is not 0; `boxes float32 [T, 4]`: where it is, cxcywh of the view.

    `visibility` is that of the person it shows, 0 of a patch. `round`: the mask is an ellipse.
    """

    picture: Image
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    visibility: float
    round: bool


@dataclass(frozen=True)
class SeqStillMotion:
    """A clip of one picture, repeated, → the same seen by a moving camera, `height` × `width` px (what the network's
    sides are in proportion to).

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
        images, views = [], []
        for image, (left, top, right, bottom) in zip(sample.images, self._windows(rng, sample), strict=True):
            images.append(resize_image(image[top:bottom, left:right], self.height, self.width))
            (height, width), (high, wide) = image.shape[:2], (bottom - top, right - left)
            views.append(((width / wide, height / high), (-left / wide, -top / high)))
        objects = [seen_in_view(people, *view) for people, view in zip(sample.objects, views, strict=True)]
        moved = replace(sample, images=images, objects=objects)
        first_id = max((people.ids.max() for people in sample.objects if len(people.ids)), default=0) + 1
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
        people = sample.objects[0].boxes
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
        tall = height * rng.uniform(0.8, 1.5)
        if cut is not None:
            picture, visibility = cut
            wide = tall * self.height / self.width * picture.shape[1] / picture.shape[0]
        else:
            image = moved.images[when]
            colour = image[int(rng.integers(self.height)), int(rng.integers(self.width))]
            picture, visibility = np.broadcast_to(colour, (8, 8, 3)).copy(), 0.0
            wide = width * rng.uniform(0.2, 1.2)
        mask = np.full(picture.shape[:2], 255 * (cut is None), np.uint8)
        if cut is not None:
            high, broad = picture.shape[:2]
            cv2.ellipse(mask, ((broad / 2, high / 2), (broad, high), 0.0), 255, -1)
        place = np.array([x + width * rng.uniform(-0.4, 0.4), y + (height - tall) / 2 + height * rng.uniform(0, 0.15)])
        step = np.array([width * rng.uniform(-0.8, 0.8), height * rng.uniform(-0.03, 0.03)])
        centres = place + step * (np.arange(len(moved.images)) - when)[:, None]
        boxes = np.concatenate([centres, np.tile([wide, tall], (len(centres), 1))], 1)
        return _Occluder(picture, mask, self._on_pixels(boxes), visibility, cut is not None)

    def _on_pixels(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Boxes that begin and end between pixels of the view, at least one wide and high."""
        pixels = np.array([self.width, self.height] * 2)
        corners = np.rint(box_cxcywh_to_xyxy(boxes) * pixels)
        size = np.maximum(corners[:, 2:] - corners[:, :2], 1)
        return (np.concatenate([corners[:, :2] + size / 2, size], 1) / pixels).astype(np.float32)


def _cut_out(rng: np.random.Generator, still: ClipSample) -> tuple[Image, float] | None:
    """Somebody who is well seen, alone in the box, mirrored or not: the picture inside the box, and the visibility."""
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
            return (cv2.flip(found, 1) if rng.random() < 0.5 else found), float(people.visibility[index])  # type: ignore[return-value]
    return None


def _occlude(sample: ClipSample, occluder: _Occluder, new_id: int) -> ClipSample:
    """With the occluder in front of everything; if it is a person, of that id."""
    objects = []
    for image, people, box in zip(sample.images, sample.objects, occluder.boxes, strict=True):
        _paste(image, occluder, box)
        hidden = _hidden(people.boxes, box, round=occluder.round)
        visibility = (people.visibility * (1 - hidden)).astype(np.float32)
        corners = box_cxcywh_to_xyxy(box[None])
        inside = min(float(area_between(corners, (0, 0), (1, 1))[0] / (box[2] * box[3])), 1.0)
        new = np.flatnonzero([inside * occluder.visibility > 0])  # one row or none
        objects.append(
            FrameObjects(
                np.concatenate([people.boxes, box[None][new]]),
                np.concatenate([people.ids, np.full(len(new), new_id)]),
                np.concatenate([visibility, np.full(len(new), inside * occluder.visibility, np.float32)]),
            )
        )
    return replace(sample, objects=objects)


def _paste(image: Image, occluder: _Occluder, box: NDArray[np.float32]) -> None:
    """Into the picture itself, the part that is inside it."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.rint(box_cxcywh_to_xyxy(box[None])[0] * [width, height, width, height]).astype(int)
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        return
    size = (int(right - left), int(bottom - top))
    shrinks = size[1] < occluder.picture.shape[0]
    picture = cv2.resize(occluder.picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mask = cv2.resize(occluder.mask, size, interpolation=cv2.INTER_NEAREST)
    part = slice(max(-top, 0), height - top), slice(max(-left, 0), width - left)
    target = image[max(top, 0) : bottom, max(left, 0) : right]
    cv2.copyTo(picture[part], mask[part], target)


def _hidden(boxes: NDArray[np.floating], front: NDArray[np.float32], *, round: bool) -> NDArray[np.float64]:
    """`[n]`: the share, in the view, of each box `[n, 4]` that is behind the ellipse or the box `front`, `[4]`."""
    corners = np.clip(box_cxcywh_to_xyxy(boxes), 0, 1)
    low, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    places = (low[:, None] + size[:, None] * _GRID[:, None] - front[:2]) / (front[2:] / 2)  # [n, 8, 2], from its centre
    x, y = np.abs(places[:, :, None, 0]), np.abs(places[:, None, :, 1])
    behind = x**2 + y**2 <= 1 if round else (x <= 1) & (y <= 1)
    share: NDArray[np.float64] = behind.mean((1, 2))
    return share
