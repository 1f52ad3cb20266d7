from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from motrlab.data.frames import list_frames
from motrlab.data.motchallenge import SequenceInfo
from motrlab.errors import UserError


def folder(path: Path, names: Iterable[str]) -> Path:
    path.mkdir()
    for name in names:
        (path / name).touch()
    return path


def info(num_frames: int = 4, image_ext: str = ".jpg") -> SequenceInfo:
    return SequenceInfo(name="A", num_frames=num_frames, width=0, height=0, frame_rate=30.0, image_ext=image_ext)


NUMBERED = {  # files, where frame 1 is numbered, extension
    "six digits": ([f"{i:06d}.jpg" for i in range(1, 5)], 1, ".jpg"),
    "seven digits": ([f"{i:07d}.jpg" for i in range(1, 5)], 1, ".jpg"),
    "eight digits": ([f"{i:08d}.jpg" for i in range(1, 5)], 1, ".jpg"),
    "no zeros in front": ([f"frame_{i}.jpg" for i in range(1, 5)], 1, ".jpg"),
    "from zero": ([f"{i:06d}.jpg" for i in range(4)], 0, ".jpg"),
    "upper case": ([f"{i:06d}.JPG" for i in range(1, 5)], 1, ".jpg"),
    "no extension said": ([f"{i:06d}.png" for i in range(1, 5)], 1, ""),
    "PNG": ([f"{i:06d}.png" for i in range(1, 5)], 1, ".png"),
    "what macOS leaves": ([f"{dot}{i:06d}.jpg" for i in range(1, 5) for dot in ("", "._")], 1, ".jpg"),
    "other files": ([f"{i:06d}.jpg" for i in range(1, 5)] + ["Thumbs.db"], 1, ".jpg"),
    "no numbers": (["a.jpg", "b.jpg", "c.jpg", "d.jpg"], 1, ".jpg"),
}


@pytest.mark.parametrize("case", NUMBERED)
def test_frames_are_found_by_their_numbers(case: str, tmp_path: Path) -> None:
    names, first, extension = NUMBERED[case]
    found = list_frames(folder(tmp_path / "img1", names), info(image_ext=extension))
    shown = [name for name in names if not name.startswith(("._", "Thumbs"))]
    assert [(frame, file.name) for frame, file in found.files.items()] == list(enumerate(shown, 1))
    assert (found.first, found.fault) == (first, "")
    assert bool(found.note) == (first != 1)


def test_a_missing_frame_does_not_move_the_others(tmp_path: Path) -> None:
    path = folder(tmp_path / "img1", ["000001.jpg", "000004.jpg"])
    found = list_frames(path, info())
    assert list(found.files) == [1, 4]
    assert found.fault == f"{path}: 2 of 4 frames are missing, the first of them 2; copy it again"
    assert list_frames(path).fault == found.fault  # nothing promises frames, but the gap shows


def test_frames_of_another_kind_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "img1", ["000001.jpg", "000002.png", "000003.jpg"])
    assert list_frames(path, info(3)).fault.endswith(
        "frame 2 of 3 is missing; there is 000002.png, but seqinfo.ini says imExt=.jpg"
    )


def test_nothing_is_read_past_the_promised_end(tmp_path: Path) -> None:
    found = list_frames(folder(tmp_path / "img1", [f"{i:06d}.jpg" for i in range(1, 7)]), info())
    assert (list(found.files), found.fault) == ([1, 2, 3, 4], "")
    assert "2 files after frame 4" in found.note


def test_pictures_of_any_other_folder_count_in_their_order(tmp_path: Path) -> None:
    found = list_frames(folder(tmp_path / "holiday", ["IMG_2.jpg", "IMG_10.png", "b.jpg"]))
    assert [file.name for file in found.files.values()] == ["IMG_2.jpg", "IMG_10.png", "b.jpg"]
    assert (list(found.files), found.fault, found.note) == ([1, 2, 3], "", "")


def test_a_link_that_leads_nowhere_is_a_frame(tmp_path: Path) -> None:
    path = folder(tmp_path / "img1", ["000001.jpg"])
    (path / "000002.jpg").symlink_to(tmp_path / "gone")
    assert list(list_frames(path).files) == [1, 2]


REFUSED = {
    "no pictures": (["notes.txt"], "no pictures"),
    "another extension": (["000001.bmp"], "there is 000001.bmp, but seqinfo.ini says imExt=.jpg"),
    "a frame twice": (["1.jpg", "000001.jpg"], "000001.jpg and 1.jpg have the same|1.jpg and 000001.jpg have the same"),
    "two cameras": (["a_1.jpg", "b_1.jpg"], "without a common numbering, 4 expected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_apart_is_refused(case: str, tmp_path: Path) -> None:
    names, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        list_frames(folder(tmp_path / "img1", names), info())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="img1: missing"):
        list_frames(tmp_path / "img1", info())
    (tmp_path / "img1").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"img1: a link to {tmp_path}/gone, which is not there"):
        list_frames(tmp_path / "img1", info())
