"""Boxes, ids and trails drawn on frames; contact sheets of such frames.

Images are `uint8 [H, W, 3]` in BGR order, boxes `ltwh` in pixels of the image. Drawing never changes its input.
"""

import colorsys
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_ltwh_to_xyxy, pairwise_iou
from motrlab.classes import PEOPLE, Classes
from motrlab.data.pictures import Image
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks
from motrlab.files import write_bytes
from motrlab.tracking.sequence import FrameTracks

Trails = Mapping[int, NDArray[np.float64]]  # id → points [n, 2] in pixels, oldest first

TRAIL_FRAMES = 30
_GOLDEN = 0.618033988749895  # neighbouring ids get hues far apart
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GT_BGR, _AGREE_BGR = (255, 255, 255), (190, 190, 190)
_LEGIBLE_PX, _TAB_PX = 900, 20  # width from which ids of small people can be read; height of an id then
AGREE_IOU = 0.9
_PAD_BGR = (32, 32, 32)


def tracks_of_frame(tracks: Tracks, frame: int, classes: Classes = PEOPLE) -> FrameTracks:
    """The rows of frame number `frame` (from 1)."""
    own = tracks.select(tracks.frame == frame)
    kind = classes.kinds(own.class_id) if len(classes) > 1 else None
    return FrameTracks(own.track_id, own.ltwh, own.score, kind)  # type: ignore[arg-type]


def trails_until(tracks: Tracks, frame: int, length: int = TRAIL_FRAMES) -> Trails:
    """Foot points of the last `length` frames up to `frame`, for the ids that frame shows."""
    return trails_of([tracks_of_frame(tracks, number) for number in range(frame - length + 1, frame + 1)])


def trails_of(frames: Sequence[FrameTracks]) -> Trails:
    """Foot points, the middle of each box's lower edge, in some frames, for the ids that the last of them shows."""
    ltwh, track_id = np.concatenate([f.ltwh for f in frames]), np.concatenate([f.track_id for f in frames])
    feet = ltwh[:, :2] + ltwh[:, 2:] * (0.5, 1.0)
    return {k: feet[track_id == k] for k in frames[-1].track_id.tolist()}


def track_colour(track_id: int) -> tuple[int, int, int]:
    """The colour of an id, BGR from 0 to 255; the same in every frame, run and session."""
    hue = (track_id * _GOLDEN) % 1.0
    lightness = (0.55, 0.68, 0.45)[track_id % 3]  # a second difference for who cannot tell hues apart
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_frame(
    image: Image,
    tracks: FrameTracks,
    trails: Trails | None = None,
    *,
    gt: NDArray[np.float64] | None = None,
    min_width_px: int = 640,
    classes: Classes = PEOPLE,
) -> Image:
    """A copy of `image` with a box, an id label, with several `classes` their names, and a fading trail for each track.

    `gt` (`ltwh [m, 4]`) is drawn as thin white boxes. A frame narrower than `min_width_px` is enlarged by a whole
    factor first, as labels cannot be read on it otherwise; 0 keeps its size.
    """
    factor = max(1, -(-min_width_px // image.shape[1]))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    canvas: Image = image.copy() if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
    thickness = max(2, round(canvas.shape[1] / 500))
    if trails:
        canvas = _draw_trails(canvas, trails, factor, thickness)
    for box in gt if gt is not None else ():
        _rectangle(canvas, box * factor, _GT_BGR, 1)
    for track_id, box in zip(tracks.track_id.tolist(), tracks.ltwh, strict=True):
        _rectangle(canvas, box * factor, track_colour(track_id), thickness)
    names = [f"{classes.names[k]} " if len(classes) > 1 else "" for k in tracks.kind.tolist()]
    for name, track_id, box in zip(names, tracks.track_id.tolist(), tracks.ltwh, strict=True):  # above all boxes
        _draw_label(canvas, box * factor, f"{name}{track_id}", track_colour(track_id))
    return canvas


def draw_boxes(
    image: Image,
    boxes: NDArray[np.floating],
    colour: tuple[int, int, int],
    labels: Sequence[str],
    *,
    weight: float = 1.0,
) -> Image:
    """A copy of `image` with boxes `ltwh [n, 4]` of one colour (BGR) and a label over each, "" for none.

    Lines are `weight` times as thick as those of tracks.
    """
    canvas: Image = image.copy()
    for box in boxes:
        _rectangle(canvas, box, colour, round(weight * max(2, round(canvas.shape[1] / 500))))
    for box, label in zip(boxes, labels, strict=True):
        if label:
            _draw_label(canvas, box, label, colour)
    return canvas


def draw_over_each_other(
    image: Image, first: FrameTracks, second: FrameTracks, colours: Sequence[tuple[int, int, int]]
) -> Image:
    """Two stages' tracks of a frame over each other: thin grey boxes where they agree, and where their IoU is below
    0.9 the boxes of each in its colour (BGR): of `first` thick, ids above, of `second` thin, ids below. A small frame
    is enlarged."""
    factor = max(1, -(-_LEGIBLE_PX // image.shape[1]))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    canvas = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    odd = [found < AGREE_IOU for found in best_ious(first.ltwh, second.ltwh)]
    for box in first.ltwh[~odd[0]]:
        _rectangle(canvas, box * factor, _AGREE_BGR, 1)
    above, below = first.ltwh[odd[0]] * factor, second.ltwh[odd[1]] * factor
    canvas = draw_boxes(canvas, above, colours[0], [str(i) for i in first.track_id[odd[0]]], weight=2)
    canvas = draw_boxes(canvas, below, colours[1], [""] * len(below))
    for track_id, (left, top, _, height) in zip(second.track_id[odd[1]], below, strict=True):
        _draw_label(canvas, np.array([left, top + height + _TAB_PX]), str(track_id), colours[1])
    return canvas


def best_ious(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
    """Of boxes `ltwh` `[n, 4]` and `[m, 4]` the largest IoU of each with a box of the other set: `[n]` and `[m]`."""
    found = pairwise_iou(box_ltwh_to_xyxy(first), box_ltwh_to_xyxy(second))
    return found.max(1, initial=0), found.max(0, initial=0)


def _rectangle(canvas: Image, box: NDArray[np.floating], colour: tuple[int, int, int], thickness: int) -> None:
    left, top, width, height = np.rint(box).astype(int).tolist()
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, thickness, cv2.LINE_AA)


def _draw_trails(canvas: Image, trails: Trails, factor: int, thickness: int) -> Image:
    """Lines into a layer, their age into its opacity, then one blend."""
    layer, opacity = canvas.copy(), np.zeros(canvas.shape[:2], np.uint8)
    for track_id, points in trails.items():
        corners = np.rint(points * factor).astype(int).tolist()
        for i, (start, end) in enumerate(itertools.pairwise(corners), 1):
            cv2.line(layer, start, end, track_colour(track_id), thickness, cv2.LINE_AA)
            cv2.line(opacity, start, end, round(255 * (0.1 + 0.8 * i / len(corners))), thickness, cv2.LINE_AA)
    alpha = opacity[..., None].astype(np.float32) / 255
    blended = canvas * (1 - alpha) + layer * alpha
    return np.rint(blended).astype(np.uint8)


def _draw_label(canvas: Image, box: NDArray[np.floating], text: str, colour: tuple[int, int, int]) -> None:
    """The id on a filled tab above the box, moved inside where the frame ends."""
    scale = max(0.42, canvas.shape[1] / 1900)
    weight = 1 if scale < 0.7 else 2
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, weight)
    tab_width, tab_height = width + 6, height + 6
    left = int(np.clip(round(float(box[0])), 0, max(0, canvas.shape[1] - tab_width)))
    bottom = int(np.clip(round(float(box[1])), tab_height, canvas.shape[0]))
    cv2.rectangle(canvas, (left, bottom - tab_height), (left + tab_width, bottom), colour, cv2.FILLED)
    blue, green, red = colour
    dark_text = 0.114 * blue + 0.587 * green + 0.299 * red > 130  # luma, BT.601
    ink = (0, 0, 0) if dark_text else (255, 255, 255)
    cv2.putText(canvas, text, (left + 3, bottom - 3), _FONT, scale, ink, weight, cv2.LINE_AA)


def contact_sheet(images: Sequence[Image], columns: int, *, gap_px: int = 6) -> Image:
    """The images in rows of `columns`, all brought to the width of the first. Raises UserError without images."""
    if not images or columns < 1:
        raise UserError("contact sheet: needs at least one image and one column")
    width = images[0].shape[1]
    cells = [_to_width(image, width) for image in images]
    height = max(cell.shape[0] for cell in cells)
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    shape = (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3)
    sheet = np.full(shape, _PAD_BGR, np.uint8)
    for i, cell in enumerate(cells):
        top, left = (i // columns) * (height + gap_px), (i % columns) * (width + gap_px)
        sheet[top : top + cell.shape[0], left : left + width] = cell
    return sheet


def _to_width(image: Image, width: int) -> Image:
    if image.shape[1] == width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def image_jpeg(image: Image, max_width_px: int = 1280) -> bytes:
    """The image, no wider than that, as the bytes of a JPEG file: a picture of video frames for a notebook."""
    small = _to_width(image, min(max_width_px, image.shape[1]))
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def write_image(path: Path, image: Image) -> None:
    """Write `image` as the file type that `path` ends in. Raises UserError if OpenCV cannot."""
    try:
        data = cv2.imencode(path.suffix, image)[1]
    except cv2.error as error:
        raise UserError(f"{path}: OpenCV cannot write this picture; use .png or .jpg") from error
    write_bytes(path, data.tobytes())
