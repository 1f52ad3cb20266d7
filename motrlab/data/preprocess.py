"""Image → network input, the same bytes in training, evaluation and the deployed runtime. NumPy and OpenCV only.

The image is resized to the network's size without keeping the aspect, turned from BGR into YUV 4:4:4 (BT.601, full
range: Y, U and V from 0 to 255, grey at U = V = 128), and normalised as `(x - 128) / 128`, so that the fixed-point
input at scale 1/128 is the byte minus 128.

A camera's NV12 frame is such YUV already, its U and V halved in size: they are repeated, and no colour is computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

# ITU-R BT.601, section 2.5: luma weights of R, G, B; U and V are colour differences scaled to the range of luma.
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
_LUMA = np.array([_BLUE, _GREEN, _RED])
_U = (np.array([1.0, 0.0, 0.0]) - _LUMA) * (0.5 / (1 - _BLUE))
_V = (np.array([0.0, 0.0, 1.0]) - _LUMA) * (0.5 / (1 - _RED))
BGR_TO_YUV = np.stack([_LUMA, _U, _V]).astype(np.float32)  # [3, 3]; add YUV_OFFSET
YUV_OFFSET = np.array([0.0, 128.0, 128.0], np.float32)
_BAND_ROWS = 64  # what is between stays in the processor's cache
_BGR_TO_INPUT = np.column_stack([BGR_TO_YUV / 128, (YUV_OFFSET - 128) / 128]).astype(np.float32)  # [3, 4]


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """`uint8 [H, W, 3]` → `uint8 [height, width, 3]`, the aspect not kept.

    The one rule everywhere: pixel areas are averaged (INTER_AREA) where a side shrinks to less than half, because
    bilinear samples would skip pixels there; bilinear (INTER_LINEAR) otherwise.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > 2 * height or image.shape[1] > 2 * width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized  # type: ignore[return-value]


def _bands(image: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of a BGR picture `uint8 [H, W, 3]`, and their YUV on the scale of the input, -1 to 1."""
    for top in range(0, len(image), _BAND_ROWS):
        rows = slice(top, top + _BAND_ROWS)
        yield rows, cv2.transform(image[rows].astype(np.float32), _BGR_TO_INPUT)  # type: ignore[misc]


def yuv_normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """BGR `uint8 [..., H, W, 3]` → network input `float32 [..., 3, H, W]`, range -1 to 1."""
    *lead, height, width, _ = images.shape
    result = np.empty((*lead, 3, height, width), np.float32)
    for index in np.ndindex(*lead):
        for rows, band in _bands(images[index]):
            cv2.split(band, list(result[index][:, rows]))
    return result


def preprocess(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """BGR `uint8 [H, W, 3]` of any size, or NV12 → network input `float32 [3, height, width]`, range -1 to 1."""
    if image.ndim == 2:
        steps = np.moveaxis(preprocess_bytes(image, height, width).astype(np.float32), -1, 0)
        return np.ascontiguousarray((steps - 128) / 128)
    return yuv_normalise(resize_image(image, height, width))


def preprocess_bytes(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The same image as the fixed-point network takes it: `uint8 [height, width, 3]`, `input_bytes` of `preprocess`."""
    if image.ndim == 2:
        return resize_image(nv12_to_yuv(image), height, width)
    result = np.empty((height, width, 3), np.uint8)
    for rows, band in _bands(resize_image(image, height, width)):
        np.rint(np.multiply(band, 128, out=band), out=band)
        # With saturation: the bluest blue is 255.5.
        cv2.add(band, (128.0, 128.0, 128.0, 0.0), result[rows], dtype=cv2.CV_8U)  # type: ignore[call-overload]
    return result


def input_bytes(inputs: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Network input `float32 [..., 3, H, W]` on its grid of 1/128: `uint8 [..., H, W, 3]`, 128 for zero."""
    steps = np.clip(np.rint(inputs * np.float32(128)), -128, 127) + 128
    return np.ascontiguousarray(np.moveaxis(steps.astype(np.uint8), -3, -1))


def nv12_to_yuv(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NV12 `uint8 [3 H / 2, W]` (rows of Y, then rows of U and V in turn for 2×2 pixels) → YUV `uint8 [H, W, 3]`."""
    height, width = len(image) * 2 // 3, image.shape[1]
    chroma = image[height:].reshape(height // 2, width // 2, 2)
    full = cv2.resize(chroma, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.dstack((image[:height], full))


def bgr_to_nv12(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGR `uint8 [H, W, 3]` as a camera of full range would deliver it; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    yuv = preprocess_bytes(image[:height, :width], height, width)
    chroma = cv2.resize(yuv[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.concatenate((yuv[..., 0], chroma.reshape(height // 2, width)))


def nv12_to_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NV12 of full range → BGR, to look at."""
    yuv = nv12_to_yuv(image).astype(np.float32) - YUV_OFFSET
    bgr = yuv @ np.linalg.inv(BGR_TO_YUV).T.astype(np.float32)
    return np.clip(np.rint(bgr), 0, 255).astype(np.uint8)


def full_range(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NV12 of video range (Y 16 to 235, U and V 16 to 240, as most video files have it) → of full range."""
    height, steps = len(image) * 2 // 3, np.arange(256)
    luma = np.clip(np.rint((steps - 16) * (255 / 219)), 0, 255).astype(np.uint8)
    chroma = np.clip(np.rint((steps - 128) * (255 / 224) + 128), 0, 255).astype(np.uint8)
    return np.concatenate((luma[image[:height]], chroma[image[height:]]))
