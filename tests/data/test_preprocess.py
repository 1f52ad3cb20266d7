from __future__ import annotations

import cv2
import numpy as np
import pytest

from motrlab.data.preprocess import (
    bgr_to_nv12,
    full_range,
    nv12_to_bgr,
    preprocess,
    preprocess_bytes,
    resize_image,
    yuv_normalise,
)


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


def blocks(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture whose colours are of 2×2 blocks, so that halving its chroma loses nothing; its luma is too."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 2, width // 2, 3), np.uint8)
    return small.repeat(2, 0).repeat(2, 1)


def test_nv12_of_the_networks_own_size_is_the_yuv_path() -> None:
    image = blocks(64, 96)
    nv12 = bgr_to_nv12(image)
    assert nv12.shape == (96, 96)
    np.testing.assert_array_equal(preprocess_bytes(nv12, 64, 96), preprocess_bytes(image, 64, 96))
    np.testing.assert_array_equal(
        preprocess(nv12, 64, 96) * 128 + 128, np.moveaxis(preprocess_bytes(nv12, 64, 96), 2, 0)
    )


@pytest.mark.parametrize("size", [(48, 80), (30, 40), (100, 120), (20, 20)])
def test_nv12_of_another_size_is_within_one_step_of_the_yuv_path(size: tuple[int, int]) -> None:
    """Either way rounds twice: before and behind the resize, in another order."""
    image = blocks(64, 96)
    off = preprocess_bytes(bgr_to_nv12(image), *size).astype(int) - preprocess_bytes(image, *size)
    assert np.abs(off).max() <= 1


def test_layout_of_nv12() -> None:
    """Rows of Y, then U and V in turn."""
    nv12 = np.arange(24, dtype=np.uint8).reshape(6, 4)  # 4×4 pixels
    found = preprocess_bytes(nv12, 4, 4)
    np.testing.assert_array_equal(found[..., 0], nv12[:4])
    np.testing.assert_array_equal(found[:2, :2, 1:], np.broadcast_to([16, 17], (2, 2, 2)))
    np.testing.assert_array_equal(found[2:, 2:, 1:], np.broadcast_to([22, 23], (2, 2, 2)))


def test_nv12_and_back() -> None:
    image = np.clip(blocks(32, 48), 30, 220)
    assert np.abs(nv12_to_bgr(bgr_to_nv12(image)).astype(int) - image).max() <= 2
    assert bgr_to_nv12(image[:31, :47]).shape == (45, 46)


def test_agrees_with_opencvs_nv12() -> None:
    """OpenCV's is of video range."""
    image = np.clip(blocks(32, 48), 40, 210)
    planar = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    chroma = planar[32:].reshape(2, -1).T.reshape(16, 48)
    nv12 = full_range(np.concatenate((planar[:32], chroma)))
    assert np.abs(nv12.astype(int) - bgr_to_nv12(image)).max() <= 2
