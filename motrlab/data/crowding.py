"""People of another time of the same video among those of a clip, as they would stand in front of that fixed camera."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy, box_iou
from motrlab.data.pictures import Image
from motrlab.data.transforms import ClipSample, FrameObjects, joined, next_id

_ROWS = 64  # of the small pictures by which two views are compared
_AT_REST = 0.5  # of the change that one of their pixels to the side would bring
_SAME_PLACE = 0.2  # overlap of somebody's boxes then and now
_GRID = (np.arange(8) + 0.5) / 8  # points of a box, each way, of which those behind somebody are counted


def crowded(sample: ClipSample, other: ClipSample) -> ClipSample:
    """`sample` with everybody of `other`, a clip of as many frames of the same video, who is not in it himself.

    What is inside an oval in a person's box goes with him; who stands lower in the picture is in front, and people
    behind somebody of the other time lose visibility. Where the camera moved, `sample` is returned as it is.
    """
    if not _same_view(sample, other):
        return sample
    images, objects = [], []
    frames = zip(sample.images, sample.objects, other.images, _guests(sample, other), strict=True)
    for image, people, second, guests in frames:
        images.append(_joined(image, people, second, guests))
        objects.append(_together(people, guests))
    return replace(sample, images=images, objects=objects)


def _guests(sample: ClipSample, other: ClipSample) -> list[FrameObjects]:
    """The people of `other` by frame under new ids, without those who then stand where they stand now."""
    ids = np.unique(np.concatenate([people.ids for people in other.objects]))
    here = set[int]()
    for people, others in zip(sample.objects, other.objects, strict=True):
        same, which = np.nonzero(people.ids[:, None] == others.ids[None])
        near = box_iou(box_cxcywh_to_xyxy(people.boxes[same]), box_cxcywh_to_xyxy(others.boxes[which])) > _SAME_PLACE
        here.update(others.ids[which[near]].tolist())
    first = next_id(sample)
    found = []
    for people in other.objects:
        keep = ~np.isin(people.ids, list(here))
        new = first + np.searchsorted(ids, people.ids[keep])
        found.append(FrameObjects(people.boxes[keep], new, people.visibility[keep], people.kinds[keep]))
    return found


def _same_view(sample: ClipSample, other: ClipSample) -> bool:
    """Whether both clips show one background, in one light, from their first frames to their last."""
    first, *rest = ((_small(clip.images[i]), clip.objects[i]) for clip in (sample, other) for i in (0, -1))
    return all(_change(*first, *each) < _AT_REST for each in rest)


def _small(image: Image) -> NDArray[np.int16]:
    size = max(2, round(_ROWS * image.shape[1] / image.shape[0])), _ROWS
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.int16)


def _change(view: NDArray[np.int16], people: FrameObjects, second: NDArray[np.int16], others: FrameObjects) -> float:
    """Mean difference of two small pictures outside all boxes, as a share of what a shift by one pixel makes."""
    height, width = view.shape[:2]
    free = np.ones((height, width), bool)
    free[:, -1] = False
    for x0, y0, x1, y1 in np.concatenate([_corners(objects, height, width) for objects in (people, others)]):
        free[max(0, y0 - 1) : y1 + 1, max(0, x0 - 1) : x1 + 1] = False
    if not free.any():
        return np.inf
    change, shift = (np.abs(view - x)[free].mean() for x in (second, np.roll(view, -1, 1)))
    return float(change / max(shift, 1e-6))


def _corners(people: FrameObjects, height: int, width: int) -> NDArray[np.int64]:
    """`[n, 4]`, x0 y0 x1 y1 in pixels, inside the picture."""
    scale = np.array([width, height] * 2)
    corners = np.rint(box_cxcywh_to_xyxy(people.boxes) * scale)
    return np.clip(corners, 0, scale).astype(np.int64)


def _joined(image: Image, people: FrameObjects, second: Image, guests: FrameObjects) -> Image:
    """The first picture with the guests of the second, farther people first."""
    if not len(guests.ids):
        return image
    height, width = image.shape[:2]
    found = image.copy()
    boxes = np.concatenate((_corners(people, height, width), _corners(guests, height, width)))
    foot = np.concatenate([p.boxes[:, 1] + p.boxes[:, 3] / 2 for p in (people, guests)])
    for index in np.argsort(foot, kind="stable"):
        x0, y0, x1, y1 = boxes[index]
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        source = image if index < len(people.ids) else second
        across, down = (np.linspace(-1, 1, n, dtype=np.float32) ** 4 for n in (x1 - x0, y1 - y0))
        oval = (down[:, None] + across[None] <= 1).astype(np.uint8)
        cv2.copyTo(source[y0:y1, x0:x1], oval, found[y0:y1, x0:x1])
    return found


def _together(people: FrameObjects, guests: FrameObjects) -> FrameObjects:
    """Both, each behind those of the other who are nearer."""
    behind = ((people, guests), (guests, people))
    return joined(*(replace(own, visibility=_seen_behind(own, others)) for own, others in behind))


def _seen_behind(people: FrameObjects, others: FrameObjects) -> NDArray[np.float32]:
    """Visibility of people behind those of `others` whose feet are lower."""
    corners, front = box_cxcywh_to_xyxy(people.boxes), box_cxcywh_to_xyxy(others.boxes)
    size = corners[:, 2:] - corners[:, :2]
    x, y = (corners[:, i, None] + size[:, i, None] * _GRID for i in (0, 1))  # [n, 8]
    nearer = front[None, :, 3] > corners[:, None, 3]  # [n, m]
    across, down = (
        (v[:, None] >= front[None, :, i, None]) & (v[:, None] < front[None, :, i + 2, None])
        for i, v in ((0, x), (1, y))
    )  # [n, m, 8]
    hidden = (across[:, :, None] & down[..., None] & nearer[..., None, None]).any(1)  # [n, 8, 8]
    return (people.visibility * (1 - hidden.mean((1, 2)))).astype(np.float32)
