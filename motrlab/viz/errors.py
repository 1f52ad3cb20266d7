"""Pictures of a tracker's worst errors: the person in a crop of the frame, with all tracks around.

Images are `uint8 [H, W, 3]` in BGR order, boxes `ltwh` in pixels of the whole frame.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.data.pictures import Image
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import draw_frame

WIDTH_PX = 360
_HEIGHT_PX = 225
_MARK_BGR, _BAR_BGR, _INK_BGR = (60, 60, 255), (32, 32, 32), (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def error_crop(image: Image, tracks: FrameTracks, box: NDArray[np.float64], label: str) -> Image:
    """The surroundings of a person's box, enlarged, with the tracks in it and red corners around the person.

    `label`: ASCII text below, as the font has no other letters. Returns `[250, 360, 3]`.
    """
    height, width = image.shape[:2]
    crop_height = min(height, max(3.0 * box[3], height / 3), width * _HEIGHT_PX / WIDTH_PX)
    crop_width = crop_height * WIDTH_PX / _HEIGHT_PX
    left = round(float(np.clip(box[0] + box[2] / 2 - crop_width / 2, 0, width - crop_width)))
    top = round(float(np.clip(box[1] + box[3] / 2 - crop_height / 2, 0, height - crop_height)))
    part = image[top : top + round(crop_height), left : left + round(crop_width)]
    scale = WIDTH_PX / part.shape[1]
    canvas = np.asarray(cv2.resize(part, (WIDTH_PX, _HEIGHT_PX), interpolation=cv2.INTER_CUBIC), np.uint8)
    offset = np.array([left, top, 0.0, 0.0])
    ltwh = (tracks.ltwh - offset) * scale
    seen = ((ltwh[:, :2] < (WIDTH_PX, _HEIGHT_PX)) & (ltwh[:, :2] + ltwh[:, 2:] > 0)).all(1)
    canvas = draw_frame(canvas, FrameTracks(tracks.track_id[seen], ltwh[seen], tracks.score[seen]), min_width_px=0)
    _mark(canvas, (box - offset) * scale)
    bar = np.full((25, WIDTH_PX, 3), _BAR_BGR, np.uint8)
    cv2.putText(bar, label, (6, 17), _FONT, 0.42, _INK_BGR, 1, cv2.LINE_AA)
    return np.concatenate([canvas, bar])


def _mark(canvas: Image, box: NDArray[np.float64]) -> None:
    """Corners of a box a little outside the person's own, so that a track's box stays to be seen."""
    left, top, right, bottom = np.rint([box[0] - 4, box[1] - 4, box[0] + box[2] + 4, box[1] + box[3] + 4]).astype(int)
    arm = max(6, int(min(right - left, bottom - top)) // 4)
    for x, inward in ((left, arm), (right, -arm)):
        for y, downward in ((top, arm), (bottom, -arm)):
            cv2.line(canvas, (x, y), (x + inward, y), _MARK_BGR, 2, cv2.LINE_AA)
            cv2.line(canvas, (x, y), (x, y + downward), _MARK_BGR, 2, cv2.LINE_AA)
