"""Image → network input, the same bytes in training, evaluation and the deployed runtime. NumPy and OpenCV only.

The image is resized to the network's size without keeping the aspect, turned from BGR into YUV 4:4:4 (BT.601, full
range: Y, U and V from 0 to 255, grey at U = V = 128), and normalised as `(x - 128) / 128`, so that the fixed-point
input at scale 1/128 is the byte minus 128.
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
    """BGR image `uint8 [H, W, 3]` of any size → network input `float32 [3, height, width]`, range -1 to 1."""
    return yuv_normalise(resize_image(image, height, width))


def preprocess_bytes(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The same image as the fixed-point network takes it: `uint8 [height, width, 3]`, `input_bytes` of `preprocess`."""
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
