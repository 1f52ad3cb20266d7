from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.validate import jpeg_size, validate_sequence
from motrlab.errors import UserError


def encode(height: int, width: int, *options: int) -> bytes:
    return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8), list(options))[1].tobytes()


@pytest.mark.parametrize(
    "data",
    [
        encode(37, 53),
        encode(37, 53, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encode(37, 53, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        encode(37, 53) + b"\0" * 100,
        encode(37, 53)[:2] + b"\xff\xe1\x00\x0athumb\xff\xd9\xff" + encode(37, 53)[2:],
    ],
    ids=["baseline", "progressive", "restart markers", "trailing bytes", "end marker in a thumbnail, fill byte"],
)
def test_size_is_read_from_the_header(data: bytes) -> None:
    assert jpeg_size(data) == (53, 37)


def test_every_cut_of_a_jpeg_is_noticed() -> None:
    data = encode(37, 53)
    for length in range(2, len(data)):
        with pytest.raises(ValueError, match="cut short"):
            jpeg_size(data[:length])
    with pytest.raises(ValueError, match="not a JPEG"):
        jpeg_size(b"\x89PNG\r\n")


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def as_png(path: Path) -> None:
    path.rename(path.with_suffix(".png"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "frame 3 of 8 is missing"),
    "other extension": (as_png, "there is 000003.png, but seqinfo.ini says imExt=.jpg"),
    "truncated": (cut_file, "cut short"),
    "not a JPEG": (lambda p: p.write_bytes(b"hello"), "not a JPEG"),
    "empty file": (lambda p: p.write_bytes(b""), "not a JPEG"),
    "other size": (lambda p: p.write_bytes(encode(60, 96)), "96×60 pixels, but seqinfo.ini says 96×64"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_frame_is_named(case: str, make_sequence: Callable[..., Path]) -> None:
    folder = make_sequence("A")
    assert validate_sequence(folder).num_frames == 8
    damage, message = FAULTS[case]
    damage(folder / "img1" / "000003.jpg")
    with pytest.raises(UserError, match=message) as caught:
        validate_sequence(folder)
    assert str(folder / "img1" / "000003.jpg") in str(caught.value)


def test_only_jpeg_sequences(make_sequence: Callable[..., Path]) -> None:
    file = make_sequence("A") / "seqinfo.ini"
    file.write_text(file.read_text().replace(".jpg", ".png"))
    with pytest.raises(UserError, match=r"seqinfo.ini: imExt=\.png; frames must be JPEG"):
        validate_sequence(file.parent)


def test_gt_and_progress(make_sequence: Callable[..., Path]) -> None:
    seen: list[tuple[str, int, int]] = []
    validate_sequence(make_sequence("A"), progress=lambda *step: seen.append(step))
    assert seen[-1] == ("validate A", 8, 8)
    with pytest.raises(UserError, match=r"gt\.txt:1: frame 9"):
        validate_sequence(make_sequence("B", gt="9,1,1,1,5,5,1,1,1\n"))
