from __future__ import annotations

import cv2
import numpy as np
import pytest

from motrlab.data.pictures import decode_image
from motrlab.data.validate import remarks
from motrlab.errors import UserError

COARSE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
PICTURE = np.asarray(cv2.resize(COARSE, (96, 64), interpolation=cv2.INTER_CUBIC), np.uint8)
QUARTER_TURN = {
    "big endian": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    "little endian": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
}


def encoded(suffix: str, exif: bytes = b"") -> bytes:
    metadata = [np.frombuffer(exif, np.uint8)] if exif else []
    done, data = cv2.imencodeWithMetadata(suffix, PICTURE, [cv2.IMAGE_METADATA_EXIF] * len(metadata), metadata)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("exif", QUARTER_TURN)
def test_an_orientation_turns_nothing_and_can_be_told(suffix: str, exif: str) -> None:
    data = encoded(suffix, QUARTER_TURN[exif])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (96, 64, 3)  # the tag works
    np.testing.assert_array_equal(decode_image(data, "x"), decode_image(encoded(suffix), "x"))
    assert remarks(data) == ["EXIF orientation 6 is ignored; boxes are of the stored pixels"]
    assert remarks(encoded(suffix)) == remarks(b"") == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_grey_has_three_equal_channels_and_is_told(suffix: str) -> None:
    data = cv2.imencode(suffix, PICTURE[:, :, 0])[1].tobytes()
    image = decode_image(data, "x")
    assert image.shape == PICTURE.shape
    assert (image == image[:, :, :1]).all()
    assert remarks(data) == ["grey pictures are read as three equal channels"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("reduce", [1, 4])
def test_sixteen_bits_are_not_guessed(suffix: str, reduce: int) -> None:
    """12 of 16 bits, as of a camera, would be decoded as a picture that is nearly black."""
    deep = PICTURE.astype(np.uint16) << 4
    for picture in (deep, deep[:, :, 0]):
        data = cv2.imencode(suffix, picture)[1].tobytes()
        with pytest.raises(UserError, match=f"^a/1{suffix}: 16 bits a value: scale them to 8 and write it again$"):
            decode_image(data, f"a/1{suffix}", reduce)


@pytest.mark.parametrize(("reduce", "shape"), [(1, (64, 96, 3)), (2, (32, 48, 3)), (4, (16, 24, 3)), (8, (8, 12, 3))])
def test_pictures_may_be_decoded_smaller(reduce: int, shape: tuple[int, ...]) -> None:
    image = decode_image(encoded(".jpg"), "x", reduce)
    assert (image.shape, image.dtype) == (shape, np.uint8)
    expected = cv2.resize(decode_image(encoded(".jpg"), "x"), shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(".png")[:40]])
def test_what_does_not_decode_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.jpg: not a readable picture"):
        decode_image(data, "a.jpg")
