"""Training clips as pictures: what the network is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.data.clips import Clip
from motrlab.data.preprocess import BGR_TO_YUV, YUV_OFFSET
from motrlab.viz.overlay import FrameTracks, contact_sheet, draw_frame


def network_input_to_bgr(frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The inverse of `data.preprocess`: `float32 [3, H, W]` → `uint8 [H, W, 3]`."""
    yuv = frame.transpose(1, 2, 0) * 128 + 128 - YUV_OFFSET
    bgr = yuv @ np.linalg.inv(BGR_TO_YUV).T
    return np.clip(np.rint(bgr), 0, 255).astype(np.uint8)


def clip_sheet(clips: Sequence[Clip], width: int = 320) -> NDArray[np.uint8]:
    """One row per clip, one column per frame, boxes and ids drawn; every frame `width` pixels wide."""
    pictures: list[Any] = []
    for clip in clips:
        for image, boxes, ids in zip(clip.images, clip.boxes, clip.ids, strict=True):
            picture = network_input_to_bgr(image.numpy())
            height = round(width * picture.shape[0] / picture.shape[1])
            picture = np.ascontiguousarray(cv2.resize(picture, (width, height)))
            ltwh = box_cxcywh_to_ltwh(boxes.numpy()) * np.array([width, height, width, height])
            pictures.append(draw_frame(picture, FrameTracks(ids.numpy(), ltwh)))
    return contact_sheet(pictures, columns=len(clips[0].boxes))
