from __future__ import annotations

import cv2
import numpy as np
import pytest

from motrlab.data.preprocess import preprocess, resize_image, yuv_normalise


@pytest.mark.parametrize(
    ("bgr", "yuv"),
    [
        ((0, 0, 0), (0, 128, 128)),
        ((255, 255, 255), (255, 128, 128)),
        ((128, 128, 128), (128, 128, 128)),
        ((255, 0, 0), (29.07, 255.5, 107.27)),  # full range BT.601: blue takes U to the end of its range
        ((0, 0, 255), (76.245, 84.97, 255.5)),
    ],
    ids=["black", "white", "grey", "blue", "red"],
)
def test_known_colours(bgr: tuple[int, ...], yuv: tuple[float, ...]) -> None:
    found = yuv_normalise(np.full((2, 3, 3), bgr, np.uint8))
    assert found.shape == (3, 2, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 1, 2] * 128 + 128, yuv, atol=0.01)


def test_agrees_with_opencv() -> None:
    image = np.random.default_rng(0).integers(40, 200, (6, 8, 3), np.uint8)
    luma, v, u = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb))
    np.testing.assert_allclose(yuv_normalise(image) * 128 + 128, np.stack([luma, u, v]), atol=1)


def test_batches_are_their_singles() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), np.uint8)
    found = yuv_normalise(images)
    assert found.shape == (2, 3, 3, 4, 5)
    np.testing.assert_array_equal(found[1, 2], yuv_normalise(images[1, 2]))
    assert yuv_normalise(images[:0]).shape == (0, 3, 3, 4, 5)


@pytest.mark.parametrize(
    ("old", "new", "interpolation"),
    [
        ((60, 80), (40, 50), cv2.INTER_LINEAR),
        ((80, 80), (40, 40), cv2.INTER_LINEAR),
        ((81, 80), (40, 40), cv2.INTER_AREA),
        ((60, 80), (90, 20), cv2.INTER_AREA),
        ((30, 40), (60, 80), cv2.INTER_LINEAR),
    ],
    ids=["little smaller", "half", "less than half", "one side only", "larger"],
)
def test_areas_are_averaged_below_half(old: tuple[int, int], new: tuple[int, int], interpolation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    expected = cv2.resize(image, new[::-1], interpolation=interpolation)
    np.testing.assert_array_equal(resize_image(image, *new), expected)
    np.testing.assert_array_equal(preprocess(image, *new), yuv_normalise(expected))
