"""The one decoder of picture files, for training, evaluation and `track`. NumPy and OpenCV only.

Ground truth is of the pixels as they are stored. So an EXIF orientation, which asks a viewer to turn the picture, is
ignored everywhere; `validate.orientation` tells of one where the user should know.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError

Image = NDArray[np.uint8]  # [H, W, 3] in BGR

_REDUCED = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8,
}  # fmt: skip


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
