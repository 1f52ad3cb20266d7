from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.validate import check_decodes, picture_size, validate_sequence
from motrlab.data.workers import frame_workers
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
        encode(37, 53) + b"\0\xff\xda\0",
        encode(37, 53)[:2] + b"\xff\xe1\x00\x0athumb\xff\xd9\xff" + encode(37, 53)[2:],
    ],
    ids=[
        "baseline",
        "progressive",
        "restart markers",
        "trailing bytes",
        "trailing marker",
        "end marker in a thumbnail, fill byte",
    ],
)
def test_size_is_read_from_the_header(data: bytes) -> None:
    assert picture_size(data) == (53, 37)


def test_every_cut_of_a_jpeg_is_noticed() -> None:
    data = encode(37, 53)
    for length in range(2, len(data)):
        with pytest.raises(ValueError, match="cut short"):
            picture_size(data[:length])
    with pytest.raises(ValueError, match="not a JPEG or PNG file"):
        picture_size(b"\x89PNG\n\x1a\n" + data)


def test_every_cut_and_every_changed_byte_of_a_png_is_noticed() -> None:
    data = cv2.imencode(".png", np.eye(37, 53, dtype=np.uint8) * 200)[1].tobytes()
    assert picture_size(data) == (53, 37)
    for length in range(4, len(data)):
        with pytest.raises(ValueError, match="PNG file is cut short"):
            picture_size(data[:length])
    for at in range(12, len(data)):
        with pytest.raises(ValueError, match=r"PNG file is (damaged|cut short)"):
            picture_size(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.jpg")


def as_png(path: Path) -> None:
    path.rename(path.with_suffix(".png"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "img1: frame 3 of 8 is missing"),
    "a link to nowhere": (to_nowhere, "000003.jpg: a link to gone.jpg, which is not there"),
    "other extension": (as_png, "there is 000003.png, but seqinfo.ini says imExt=.jpg"),
    "truncated": (cut_file, "000003.jpg: JPEG file is cut short"),
    "not a JPEG": (lambda p: p.write_bytes(b"hello"), "000003.jpg: not a JPEG"),
    "empty file": (lambda p: p.write_bytes(b""), "000003.jpg: not a JPEG"),
    "other size": (lambda p: p.write_bytes(encode(60, 96)), "000003.jpg: 96×60 pixels, but seqinfo.ini says 96×64"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_frame_is_named(case: str, make_sequence: Callable[..., Path]) -> None:
    folder = make_sequence("A")
    assert validate_sequence(folder).info.num_frames == 8
    damage, message = FAULTS[case]
    damage(folder / "img1" / "000003.jpg")
    with pytest.raises(UserError, match=message) as caught:
        validate_sequence(folder)
    assert str(caught.value).startswith(str(folder / "img1"))


def test_only_jpeg_and_png_sequences(make_sequence: Callable[..., Path]) -> None:
    folder = make_sequence("A")
    rewritten = (folder / "seqinfo.ini").read_text().replace("imExt=.jpg", "")
    (folder / "seqinfo.ini").write_text(rewritten)
    for file in (folder / "img1").iterdir():
        file.rename(file.with_suffix(".bmp"))
    with pytest.raises(UserError, match=r"img1/000001\.bmp: frames must be JPEG or PNG"):
        validate_sequence(folder)


def test_gt_is_checked(make_sequence: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"gt\.txt:1: frame 9"):
        validate_sequence(make_sequence("B", gt="9,1,1,1,5,5,1,1,1\n"))


def photograph() -> bytes:
    """A JPEG with something in every block."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


INSIDE: dict[str, Callable[[bytes], bytes]] = {
    "cut, then closed": lambda d: d[: len(d) // 2] + b"\xff\xd9",
    "last bytes lost, then closed": lambda d: d[:-60] + b"\xff\xd9",
    "zeros at the end": lambda d: d[: len(d) // 2] + bytes(len(d) // 2 - 2) + d[-2:],
    "a hole of zeros": lambda d: d[:2000] + bytes(1000) + d[3000:],
    "no pixels at all": lambda d: d[: d.index(b"\xff\xda") + 14] + b"\xff\xd9",
}


@pytest.mark.parametrize("case", INSIDE)
def test_damage_behind_a_faultless_header_is_found(
    case: str, make_sequence: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_sequence("A")
    data = INSIDE[case](photograph())
    assert picture_size(data) == (96, 64)
    (folder / "img1" / "000003.jpg").write_bytes(data)
    with pytest.raises(UserError, match=r"000003\.jpg: JPEG file is damaged inside \(corrupt JPEG data"):
        validate_sequence(folder)
    assert capfd.readouterr().err == ""  # what libjpeg says stands in the message alone


@pytest.mark.parametrize(
    "data",
    [
        photograph(),
        encode(64, 96),
        encode(64, 96, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encode(64, 96, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
        photograph() + bytes(300),
        photograph()[:-2] + bytes(9) + b"\xff\xd9",
    ],
    ids=["noise", "black", "progressive", "restart markers", "bytes behind the end", "bytes before the end marker"],
)
def test_whole_pictures_pass(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    check_decodes(data)
    assert capfd.readouterr().err == ""


def test_stderr_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    check_decodes(photograph())
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_processes_find_the_same_fault(make_sequence: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motrlab.data.workers._MEGAPIXELS_PER_WORKER", 0.01)
    folder = make_sequence("A")
    with frame_workers(2, 0.05) as frame_map:
        assert frame_map is not map
        assert validate_sequence(folder, frame_map=frame_map).info.num_frames == 8
        cut_file(folder / "img1" / "000005.jpg")
        with pytest.raises(UserError, match=r"000005\.jpg: JPEG file is cut short"):
            validate_sequence(folder, frame_map=frame_map)


@pytest.mark.parametrize(("num_workers", "megapixels"), [(1, 1e6), (8, 999.0), (8, 0.0)])
def test_few_frames_are_checked_in_this_process(num_workers: int, megapixels: float) -> None:
    with frame_workers(num_workers, megapixels) as frame_map:
        assert frame_map is map


WORK = """
import multiprocessing, time
from motrlab.data import workers

if __name__ == "__main__":
    with workers.frame_workers(2, 10_000) as frame_map:
        list(frame_map(print, range(64)))
        print("workers", *(p.pid for p in multiprocessing.active_children()), flush=True)
        time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(WORK)
    with subprocess.Popen([sys.executable, tmp_path / "work.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("workers"))
        workers = [int(pid) for pid in line.split()[1:]]
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
