from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.cvat import import_cvat
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.prepare import prepare
from motrlab.errors import UserError

LABELS = "car\nperson\nstatue\n"
GT = "1,1,10.50,8.00,12.00,20.00,1,2,1.0\n2,1,11.50,8.00,12.00,20.00,0,2,0.5\n4,7,1,1,5,5,1,1,1.0\n4,8,1,1,5,5,1,3,1\n"


@pytest.fixture
def frames(make_sequence: Callable[..., Path]) -> list[bytes]:
    folder = make_sequence("cam", num_frames=12) / "img1"
    return [(folder / f"{i:06d}.jpg").read_bytes() for i in range(1, 13)]


def archive(path: Path, files: dict[str, bytes | str], frames: list[bytes] = []) -> Path:  # noqa: B006
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
        for i, data in enumerate(frames):
            out.writestr(f"img1/frame_{i}.jpg", data)  # frame_10 before frame_2 in the archive's order
    return path


GOOD: dict[str, bytes | str] = {"gt/gt.txt": GT, "gt/labels.txt": LABELS}


def run(source: Path, *more: str) -> int:
    return main(["import", "--format", "cvat", "--src", str(source), "--dst", str(source.parent / "mot"), *more])


def test_an_archive_becomes_a_folder_that_prepare_takes(frames: list[bytes], tmp_path: Path) -> None:
    (info,) = import_cvat(archive(tmp_path / "my task.zip", GOOD, frames), tmp_path / "mot")
    folder = tmp_path / "mot" / "my-task"
    assert (info.name, info.num_frames, info.width, info.height, info.frame_rate) == ("my-task", 12, 96, 64, 30)
    assert read_sequence_info(folder) == info
    assert (folder / "gt/gt.txt").read_text().splitlines() == [
        "1,1,10.5,8,12,20,1,1,1", "2,1,11.5,8,12,20,0,1,0.5", "4,7,1,1,5,5,0,3,1", "4,8,1,1,5,5,0,8,1",
    ]  # fmt: skip
    assert [(folder / f"img1/{i:06d}.jpg").read_bytes() for i in range(1, 13)] == frames
    assert prepare(tmp_path / "mot", tmp_path / "data").totals["train"]["num_frames"] == 6


@pytest.mark.parametrize(
    "files",
    [
        {"gt/gt.txt": GT.replace("\n", "\r\n"), "gt/labels.txt": b"\xef\xbb\xbf" + LABELS.encode()},
        {"gt/gt.txt": "".join(f"{line},-1\n" for line in GT.splitlines()), "gt/labels.txt": LABELS},
        {"task/gt/gt.txt": GT, "task/gt/labels.txt": LABELS},
    ],
    ids=["CRLF and byte-order mark", "a tenth column", "packed again in a folder"],
)
def test_forms_that_are_read_as_well(files: dict[str, bytes | str], frames: list[bytes], tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zip", files)
    assert run(source, "--images", str(tmp_path / "source/cam/img1")) == 0
    folder = tmp_path / "mot/a"
    found = read_annotations(folder / "gt/gt.txt", read_sequence_info(folder))
    np.testing.assert_array_equal(found.class_id, [1, 1, 3, 8])
    assert (folder / "img1/000012.jpg").samefile(tmp_path / "source/cam/img1/000012.jpg")


def gt(row: str) -> dict[str, bytes | str]:
    return {**GOOD, "gt/gt.txt": "1,1,1,1,5,5,1,2,1\n" + row + "\n"}


MALFORMED: dict[str, tuple[dict[str, bytes | str], str]] = {
    "no gt": ({"gt/labels.txt": LABELS}, "0 files gt/gt.txt, not one; export the task as MOT 1.1"),
    "two gt": ({**GOOD, "b/gt/gt.txt": GT}, "2 files gt/gt.txt"),
    "no labels": ({"gt/gt.txt": GT}, "gt/labels.txt: missing"),
    "labels that are no text": ({**GOOD, "gt/labels.txt": b"\xff\xfe"}, "gt/labels.txt: not UTF-8"),
    "nobody": ({**GOOD, "gt/labels.txt": "car\nbus\nvan\n"}, "no label is called person or pedestrian"),
    "letters": (gt("2,1,x,1,5,5,1,2,1"), "gt/gt.txt:2: could not convert"),
    "NaN": (gt("2,1,nan,1,5,5,1,2,1"), "gt/gt.txt:2: NaN"),
    "negative width": (gt("2,1,1,1,-5,5,1,2,1"), "gt/gt.txt:2: width -5"),
    "too few columns": (gt("2,1,1,1,5,5,1"), "gt/gt.txt:2: 7 columns, 9 expected"),
    "an id twice": (gt("1,1,1,1,5,5,1,2,1"), "gt/gt.txt:2: id 1 twice in frame 1"),
    "frame 0": (gt("0,1,1,1,5,5,1,2,1"), "gt/gt.txt:2: frame 0"),
    "past the end": (gt("13,1,1,1,5,5,1,2,1"), "gt/gt.txt:2: frame 13 is past the end (12 frames there)"),
    "shapes": (gt("2,-1,1,1,5,5,1,2,1\n2,-1,9,1,5,5,1,2,1"), "gt/gt.txt:2: no track id; label with tracks"),
    "no track": (gt("2,-1,1,1,5,5,1,2,1"), "gt/gt.txt:2: no track id; label with tracks, not with shapes"),
    "class 0": (gt("2,1,1,1,5,5,1,0,1"), "gt/gt.txt:2: class 0, but labels.txt has 3 lines"),
    "class 4": (gt("2,1,1,1,5,5,1,4,1"), "gt/gt.txt:2: class 4, but labels.txt has 3 lines"),
    "zip slip": ({**GOOD, "img1/../../../evil.jpg": b"x"}, "leads outside the archive"),
    "an absolute name": ({**GOOD, "/tmp/evil": b"x"}, "leads outside the archive"),
    "a drive": ({**GOOD, "C:\\evil": b"x"}, "leads outside the archive"),
    "a BMP frame": ({**GOOD, "img1/frame_000003.BMP": b"x"}, "img1/frame_000003.BMP is no JPEG or PNG file"),
    "a frame that is cut": ({**GOOD, "img1/frame_99.jpg": b"\xff\xd8\xff"}, "frame_99.jpg: JPEG file is cut short"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_archives_are_one_line_and_2(
    case: str, frames: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, message = MALFORMED[case]
    assert run(archive(tmp_path / "a.zip", files, frames)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mot").exists() or list((tmp_path / "mot").iterdir()) == []
    assert {p.name for p in tmp_path.iterdir()} <= {"a.zip", "source", "mot"}


def damaged(path: Path, frames: list[bytes]) -> None:
    """A frame's bytes changed: its checksum no longer fits."""
    data = archive(path, GOOD, frames).read_bytes()
    at = data.index(frames[3]) + 20
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


ARCHIVES: dict[str, tuple[Callable[[Path, list[bytes]], object], str]] = {
    "missing": (lambda path, frames: None, "a.zip: cannot be read"),
    "no zip": (lambda path, frames: path.write_bytes(b"hello"), "a.zip: not a readable zip archive"),
    "cut short": (
        lambda path, frames: path.write_bytes(archive(path, GOOD, frames).read_bytes()[:-30]),
        "not a readable zip",
    ),
    "damaged": (damaged, "a.zip: not a readable zip archive (Bad CRC-32 for file 'img1/frame_3.jpg')"),
    "without frames": (lambda path, frames: archive(path, GOOD), "no frames in img1/; export with images, or"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_files_that_are_no_archives(
    case: str, frames: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = ARCHIVES[case]
    make(tmp_path / "a.zip", frames)
    assert run(tmp_path / "a.zip") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_of_images_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = archive(tmp_path / "a.zip", GOOD)
    (tmp_path / "empty").mkdir()
    assert run(source, "--images", str(tmp_path / "gone")) == 2
    assert "gone: missing; give the folder that holds the frames" in capsys.readouterr().err
    assert run(source, "--images", str(tmp_path / "empty")) == 2
    assert "empty: no pictures" in capsys.readouterr().err


def test_png_frames_of_a_video_task_stay_as_they_are(frames: list[bytes], tmp_path: Path) -> None:
    """As CVAT exports video tasks."""
    pngs = {
        f"img1/frame_{i:06d}.PNG": bytes(cv2.imencode(".png", np.full((48, 64, 3), 20 * i, np.uint8))[1])
        for i in range(12)
    }
    mac: dict[str, bytes | str] = {"__MACOSX/img1/._a.PNG": b"x", "img1/.DS_Store": b"x", "img1/._b.PNG": b"x"}
    (info,) = import_cvat(archive(tmp_path / "a.zip", {**GOOD, **pngs, **mac}), tmp_path / "mot")
    assert (info.num_frames, info.image_ext) == (12, ".png")
    assert [info.frame_path(tmp_path / "mot/a", i).read_bytes() for i in range(1, 13)] == list(pngs.values())
    pngs["img1/frame_000003.PNG"] = pngs["img1/frame_000003.PNG"][:-9]
    with pytest.raises(UserError, match=r"000003\.PNG: PNG file is cut short"):
        import_cvat(archive(tmp_path / "b.zip", {**GOOD, **pngs}), tmp_path / "mot")
    assert not (tmp_path / "mot" / "b").exists()


@pytest.mark.parametrize(
    ("numbers", "expected"), [((0, 1, 2), [1, 2]), ((10, 20, 30), [1, 2]), ((1, 2, 3), [1, 2]), ((5, 6, 7), [2, 3])]
)
def test_frames_have_the_numbers_of_their_files(
    numbers: tuple[int, ...], expected: list[int], frames: list[bytes], tmp_path: Path
) -> None:
    """CVAT takes a file's name for the frame where it is a number; only where it cannot be one, frames count from 1."""
    of = numbers if expected[0] == 1 else (2, 3)
    gt = "".join(f"{number},1,1,1,5,5,1,2,1\n" for number in of[:2])
    pictures: dict[str, bytes | str] = {f"img1/{n:06d}.jpg": data for n, data in zip(numbers, frames, strict=False)}
    (info,) = import_cvat(archive(tmp_path / "a.zip", {**GOOD, "gt/gt.txt": gt, **pictures}), tmp_path / "mot")
    assert read_annotations(tmp_path / "mot/a/gt/gt.txt", info).frame.tolist() == expected
    assert info.frame_path(tmp_path / "mot/a", 1).read_bytes() == frames[0]
