"""The one decoder of picture files, for training, evaluation and `track`. NumPy and OpenCV only.

Ground truth is of the pixels as they are stored. So an EXIF orientation, which asks a viewer to turn the picture, is
ignored everywhere; `validate.remarks` tells of one where the user should know.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError

Image = NDArray[np.uint8]  # [H, W, 3] in BGR

SIXTEEN_BITS = "16 bits a value: scale them to 8 and write it again"  # only who wrote them knows their range
_REDUCED = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8,
}  # fmt: skip


def decode_image(data: bytes, where: object, reduce: int = 1) -> Image:
    """The bytes of a picture file → `uint8 [H, W, 3]` in BGR, the pixels as they are stored.

    A grey picture gets three equal channels. `reduce` 2, 4 or 8 decodes to that fraction of the size (rounded up),
    faster. Raises UserError, which begins with `where`, for what does not decode, or has more than 8 bits a value.
    """
    flags = _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise UserError(f"{where}: not a readable picture; copy it again or remove it")
    if image.dtype != np.uint8:
        told = SIXTEEN_BITS if image.dtype == np.uint16 else f"values are {image.dtype}; write it with 8 bits"
        raise UserError(f"{where}: {told}")
    return np.asarray(image, np.uint8)


def image_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of a picture: BGR `[H, W, 3]`, or NV12 `[3 H / 2, W]`."""
    rows, columns = image.shape[:2]
    return (rows * 2 // 3 if image.ndim == 2 else rows), columns


def check_image(image: object, where: str, *, nv12: bool = False) -> NDArray[np.uint8]:
    """A picture that a program hands over: `uint8 [H, W, 3]` in BGR, or NV12, `uint8 [3 H / 2, W]`, both sides even.

    Raises UserError, which begins with `where`, for anything else: grey, 16 bits, empty, another shape.
    """
    wanted = "NV12, uint8 [3 H / 2, W]" if nv12 else "BGR, uint8 [H, W, 3]"
    if not isinstance(image, np.ndarray) or image.size == 0:
        found = "an empty picture" if isinstance(image, np.ndarray) else f"{type(image).__name__}, no picture"
        raise UserError(f"{where}: {found}; give {wanted}")
    shape = "×".join(map(str, image.shape))
    if image.dtype != np.uint8:
        hint = "16 bits a value: scale them to 8" if image.dtype == np.uint16 else f"values are {image.dtype}"
        raise UserError(f"{where}: {hint}; give {wanted}")
    if nv12:
        if image.ndim != 2 or image.shape[0] % 3 or image.shape[1] % 2:
            raise UserError(f"{where}: an array {shape} is no NV12 picture; give {wanted}, height and width even")
        return image
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise UserError(f'{where}: {shape} is grey (for NV12 say pixels="nv12"); cv2.cvtColor makes it {wanted}')
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{where}: an array {shape}; give {wanted}")
    return image
