"""How the camera moved from one frame to the next, as BoT-SORT finds it (arXiv 2206.14651, section 3.2).

Corners of the frame before are followed by sparse optical flow, and a shift with rotation and scale is fitted to them
by RANSAC: what moves on its own is an outlier. The grey picture is the brightness of the network's input, which every
stage has, so that all of them see the same motion.
"""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.data.preprocess import input_bytes
from motrlab.tracking.step import to_numpy

Grey = NDArray[np.uint8]  # [H, W]
# Chosen on train halves of `street` by benchmarks/camera_motion.py: 0.14 of 1.3 px a frame are left in the mean.
_LARGEST_PX = 240  # a wider picture is halved until it is no wider
_MOST_CORNERS, _QUALITY, _WINDOW_PX, _LEVELS = 200, 0.003, 11, 2
_OFF_PX = 0.3  # a corner farther from where the fit puts it is an outlier
_AS_WELL = 0.9  # a still camera that explains that share of what the fit does is believed instead
_FEWEST, _SHARE = 8, 0.3  # corners that agree, and their share of all, for the fit to be believed
STILL = np.array([[1.0, 0, 0], [0, 1, 0]])


def grey_pictures(frame: Any) -> list[Grey]:
    """Of what a base graph is given: bytes `uint8 [B, H, W, 3]` or input `[B, 3, H, W]` from -1 to 1, any array."""
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8:
        return [np.asarray(cv2.extractChannel(image, 0), np.uint8) for image in frame]
    return [input_bytes(plane[None])[..., 0] for plane in to_numpy(frame[:, 0])]


class CameraMotion:
    """The motion of one video's picture, frame by frame."""

    def __init__(self) -> None:
        self._before: Grey | None = None

    def update(self, grey: Grey) -> NDArray[np.float64]:
        """`[2, 3]`: what was at `p`, fractions of the picture, before, is at `m[:, :2] @ p + m[:, 2]` in this frame.

        `STILL` in the first frame, and where too few corners agree.
        """
        halvings = max(0, math.ceil(math.log2(grey.shape[1] / _LARGEST_PX)))
        if halvings:
            share = 0.5**halvings
            grey = np.asarray(cv2.resize(grey, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), np.uint8)
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape:
            return STILL
        found = _fit(before, grey)
        if found is None:
            return STILL
        size = np.array(grey.shape[::-1])
        turn, shift = found[:, :2], found[:, 2] + 0.5 - found[:, :2] @ [0.5, 0.5]  # OpenCV counts from pixel centres
        return np.column_stack([turn * size / size[:, None], shift / size])


def _fit(before: Grey, grey: Grey) -> NDArray[np.float64] | None:
    """`[2, 3]` in pixels."""
    corners = cv2.goodFeaturesToTrack(before, _MOST_CORNERS, _QUALITY, max(3, before.shape[1] // 60))
    if corners is None or len(corners) < _FEWEST:
        return None
    window = (_WINDOW_PX, _WINDOW_PX)
    moved, state, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, grey, corners, None, winSize=window, maxLevel=_LEVELS
    )
    followed = state[:, 0] == 1
    if followed.sum() < _FEWEST:
        return None
    found, agree = cv2.estimateAffinePartial2D(
        corners[followed], moved[followed], method=cv2.RANSAC, ransacReprojThreshold=_OFF_PX
    )
    if found is None or agree.sum() < max(_FEWEST, _SHARE * len(corners)):
        return None
    stayed = np.linalg.norm((moved - corners)[followed].reshape(-1, 2), axis=1) <= _OFF_PX
    if stayed.sum() >= _AS_WELL * agree.sum():
        return None
    return np.asarray(found, np.float64)
