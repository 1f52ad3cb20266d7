"""CrowdHuman's labels: whose box counts, and the line of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.odgt import read_odgt
from motrlab.errors import UserError


def person(x: float, **more: Any) -> dict[str, Any]:
    return {"tag": "person", "fbox": [x, 10, 20, 40], "vbox": [x, 10, 20, 10], "hbox": [x, 10, 5, 5], **more}


LINES: list[dict[str, Any]] = [
    {
        "ID": "1,a0",
        "gtboxes": [
            person(5, extra={"box_id": 0, "occ": 1}, head_attr={"ignore": 1}),
            person(30, extra={"ignore": 1}),
            {"tag": "mask", "fbox": [0, 0, 8, 9], "vbox": [0, 0, 8, 9], "hbox": [0, 0, 8, 9], "extra": {"ignore": 1}},
            {"tag": "person", "hbox": [60, 1, 6, 6]},
            person(-3, vbox=[0, 10, 17, 40]),
            person(50, fbox=[50, 10, 0, 0]),
        ],
    },
    {"ID": "2,b1", "gtboxes": [person(1, extra={"ignore": 1})]},
    {"ID": "3,c2", "gtboxes": [person(2)]},
]


def write(folder: Path, lines: list[Any]) -> Path:
    file = folder / "annotation_train.odgt"
    file.write_text("\n\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "Images").mkdir()
    for name, size in (("1,a0", (60, 80)), ("2,b1", (50, 50)), ("3,c2", (90, 40))):
        cv2.imwrite(str(tmp_path / "Images" / f"{name}.jpg"), np.full((*size, 3), 90, np.uint8))
    return write(tmp_path, LINES)


def test_people_count_and_what_is_to_be_ignored_does_not(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--src", str(source), "--dst", str(tmp_path / "mot")]) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "mot" / "annotation_train-001"
    assert out == f"{folder}: 2 stills of at most 80×90, from COCO\n"  # nobody counts on the second image
    assert err == f"motrlab: {source}: 1 boxes without an area are left out\n"
    info = read_sequence_info(folder)
    assert (info.stills, info.num_frames) == (True, 2)
    assert (folder / "img1/000002.jpg").samefile(tmp_path / "Images" / "3,c2.jpg")
    assert (folder / "gt/gt.txt").read_text().splitlines() == [
        "1,1,5,10,20,40,1,1,0.25",  # a head to be ignored is not the person
        "1,2,30,10,20,40,0,1,0.25",
        "1,3,0,0,8,9,0,13,1",  # a crowd
        "1,4,60,1,6,6,0,1,1",
        "1,5,-3,10,20,40,1,1,0.85",
        "2,8,2,10,20,40,1,1,0.25",
    ]
    assert len(read_annotations(folder / "gt/gt.txt", info).people) == 3


WRONG: dict[str, tuple[Any, str]] = {
    "half a line": ("{", ":1: not JSON"),
    "a list": ("[]", ":1: ID, a file's name without its .jpg, and a list gtboxes expected"),
    "no ID": ({"gtboxes": []}, ":1: ID, a file's name"),
    "an ID that leads elsewhere": ({"ID": "../x", "gtboxes": []}, ":1: ID, a file's name"),
    "no boxes": ({"ID": "x"}, ":1: ID, a file's name"),
    "a box that is none": ({"ID": "x", "gtboxes": [3]}, ":1: an item of gtboxes is no object"),
    "three numbers": ({"ID": "x", "gtboxes": [person(1, fbox=[1, 2, 3])]}, ":1: box [1, 2, 3]; [left, top,"),
    "letters": ({"ID": "x", "gtboxes": [person(1, vbox=[1, 2, 3, "4"])]}, ":1: box [1, 2, 3, '4']"),
    "no box at all": ({"ID": "x", "gtboxes": [{"tag": "person"}]}, ":1: box None"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_has_its_line(case: str, tmp_path: Path) -> None:
    line, message = WRONG[case]
    file = write(tmp_path, [line])
    with pytest.raises(UserError) as caught:
        read_odgt(file)
    assert str(caught.value).startswith(f"{file}{message}")


def test_an_id_twice_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r":3: ID 'x' for the second time"):
        read_odgt(write(tmp_path, [{"ID": "x", "gtboxes": []}] * 2))
    with pytest.raises(UserError, match="no line in it"):
        read_odgt(write(tmp_path, []))


def test_nobody_who_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [LINES[1]])
    assert main(["import", "--src", str(file), "--dst", str(tmp_path / "mot")]) == 2
    assert "no image with a person that is not to be ignored" in capsys.readouterr().err
