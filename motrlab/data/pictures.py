"""The one decoder of picture files, for training, evaluation and `track`. NumPy and OpenCV only.

Ground truth is of the pixels as they are stored. So an EXIF orientation, which asks a viewer to turn the picture, is
ignored everywhere; `orientation` tells of one where the user should know.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError

Image = NDArray[np.uint8]  # [H, W, 3] in BGR

_REDUCED = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8,
}  # fmt: skip
_EXIF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF....)(?=II\*\0|MM\0\*)", re.DOTALL)  # of JPEG, PNG and WebP
_ORIENTATION = 0x112  # tag of TIFF 6.0, page 36


def decode_image(data: bytes, where: object, reduce: int = 1) -> Image:
    """The bytes of a picture file → `uint8 [H, W, 3]` in BGR, the pixels as they are stored.

    `reduce` 2, 4 or 8 decodes to that fraction of the size (rounded up), faster. Raises UserError, which begins with
    `where`, for what does not decode.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise UserError(f"{where}: not a readable picture; copy it again or remove it")
    return np.asarray(image, np.uint8)


def read_image(file: Path) -> Image:
    """A picture file as `decode_image` gives it. Raises UserError, also where the file cannot be read."""
    try:
        return decode_image(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, PNG or WebP file, 1 to 8; 1, upright, where it has none."""
    found = _EXIF.search(data)
    if found is None:
        return 1
    tiff = data[found.end() :]
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    first = number(4, 4)  # directory: the number of its entries, then each of 12 bytes: tag, type, count, value
    entries = (first + 2 + 12 * i for i in range(number(first, 2)))
    return next((number(at + 8, 2) for at in entries if number(at, 2) == _ORIENTATION), 1)
