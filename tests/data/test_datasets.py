"""Folders of other data sets, each written as its own tools write it, through `import` and `prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.formats import FORMATS
from motrlab.data.motchallenge import read_annotations, read_detections, read_sequence_info
from motrlab.data.store import FrameStore

NUM_FRAMES = 4
NINE = "1,7,5,6,7,8,1,1,1\n2,7,5,6,7,8,1,1,0.5\n4,8,5,6,7,8,0,7,1\n"
GAME = "[Sequence]\ntrackletID_1= player team left;10\ntrackletID_2= ball;1\ntrackletID_3= referee; main\n"


def frames(folder: Path, name: str = "{:06d}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + NUM_FRAMES):
        cv2.imwrite(str(folder / name.format(number)), np.full((48, 64, 3), number % 256, np.uint8))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def sequence(name: str, gt: str, pictures: str = "{:06d}.jpg", first: int = 1) -> Callable[[Path], None]:
    """A MOTChallenge folder, without imExt, imWidth and imHeight."""

    def make(root: Path) -> None:
        frames(root / name / "img1", pictures, first)
        write(root / name / "gt/gt.txt", gt)
        write(root / name / "seqinfo.ini", f"[Sequence]\nname={name}\nframeRate=20\nseqLength={NUM_FRAMES}\n")

    return make


def soccernet(root: Path) -> None:
    sequence("SNMOT-060", "1,1,5,6,7,8,1,-1,-1,-1\n1,2,9,9,2,2,1,-1,-1,-1\n2,3,5,6,7,8,1,-1,-1,-1\n")(root)
    write(root / "SNMOT-060/gameinfo.ini", GAME)
    write(root / "SNMOT-060/det/det.txt", "2,-1,5,6,7,8,0.5\n")


def visdrone(root: Path) -> None:
    frames(root / "sequences/uav01", "{:07d}.jpg")
    rows = (
        "1,0,1,1,9,9,0,0,0,0",
        "1,0,20,1,9,9,0,0,0,0",
        "1,4,5,6,7,8,1,1,0,0",
        "2,4,5,6,7,8,1,2,0,1",
        "2,5,1,1,5,5,1,4,1,2",
    )
    write(root / "annotations/uav01.txt", "\n".join((*rows, "3,4,5,6,7,8,0,1,0,0\n")))
    write(root / "annotations/._uav01.txt", "x")


def kitti(root: Path) -> None:
    frames(root / "training/image_02/0003", "{:06d}.png", first=0)
    end = "1.5 0.5 1.2 2.0 1.0 9.0 -0.1"
    rows = (
        f"0 -1 DontCare -1 -1 -10 1 1 5 5 {end}", f"0 -1 DontCare -1 -1 -10 6 1 9 5 {end}",
        f"0 2 Pedestrian 0 1 -0.2 5 6 12 14 {end}", f"1 3 Van 0.5 0 -0.2 5 6 12 14 {end}",
        f"2 4 Person_sitting 0 3 -0.2 5 6 12 14 {end}", f"3 2 Pedestrian 0 2 -0.2 5.5 6 12 14 {end}\n",
    )  # fmt: skip
    write(root / "training/label_02/0003.txt", "\n".join(rows))


# what it is recognised as: how it is made, name of the sequence, rows of the gt that comes out
DATA_SETS: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "MOT15": (sequence("TUD-Campus", "1,7,5,6,7,8,1,-4.1,-7.3,0\n"), "TUD-Campus", ["1,7,5,6,7,8,1,1,1"]),
    "MOT16": (sequence("MOT16-02", NINE), "MOT16-02", NINE.split()),
    "MOT17": (sequence("MOT17-02-SDP", NINE), "MOT17-02-SDP", NINE.split()),
    "MOT20": (
        sequence("MOT20-01", NINE.replace("0,7,1", "1,13,1")), "MOT20-01", NINE.replace("0,7,1", "0,13,1").split()),
    "DanceTrack": (sequence("dancetrack0001", NINE, "{:08d}.jpg"), "dancetrack0001", NINE.split()),
    "SportsMOT": (sequence("v_-6Os86HzwCs_c001", NINE), "v_-6Os86HzwCs_c001", NINE.split()),
    "SoccerNet": (soccernet, "SNMOT-060", ["1,1,5,6,7,8,1,1,1", "1,2,9,9,2,2,0,9,1", "2,3,5,6,7,8,1,1,1"]),
    "VisDrone": (
        visdrone, "uav01",
        ["1,4,5,6,7,8,1,1,1", "2,4,5,6,7,8,1,1,0.75", "2,5,1,1,5,5,0,3,0.25", "3,4,5,6,7,8,0,1,1"]),
    "KITTI": (
        kitti, "0003", ["1,2,5,6,7,8,1,1,0.75", "2,3,5,6,7,8,0,3,1", "3,4,5,6,7,8,0,7,1", "4,2,5.5,6,6.5,8,1,1,0.25"]),
}  # fmt: skip


def run(root: Path, *more: str) -> int:
    return main(["import", "--src", str(root / "source"), "--dst", str(root / "mot"), *more])


def test_every_format_that_is_converted_is_tried() -> None:
    assert {format.name for format in FORMATS if format.converted} == DATA_SETS.keys()


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_is_recognised_and_becomes_what_prepare_takes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, folder, rows = DATA_SETS[name]
    make(tmp_path / "source")
    assert run(tmp_path) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path}/mot/{folder}: {NUM_FRAMES} frames of 64×48, from {name}")
    assert (tmp_path / "mot" / folder / "gt/gt.txt").read_text().split() == rows
    assert main(["prepare", "--src", str(tmp_path / "mot"), "--dst", str(tmp_path / "data")]) == 0


@pytest.mark.parametrize(("make", "told"), [(visdrone, "VisDrone: `python -m motrlab import --format visdrone`"),
                                            (kitti, "KITTI: `python -m motrlab import --format kitti`")])  # fmt: skip
def test_prepare_names_a_data_set_by_its_layout(
    make: Callable[[Path], None], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "source")
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 2
    assert f"it is laid out as {told} converts them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "gt", "told"),
    [
        (("dancetrack0001", "dancetrack0002"), "1,7,5,6,7,8,1,1,0.5\n", ["DanceTrack"]),
        (("A", "B"), "1,7,5,6,7,8,1,1,1\n", ["MOT17"]),  # UAVDT writes such rows for cars
        (("A", "B"), "1,7,5,6,7,8,1,1,0.5\n", []),
    ],
)
def test_prepare_says_once_what_it_recognised(
    names: tuple[str, ...], gt: str, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in names:
        sequence(name, gt, "{:08d}.jpg")(tmp_path / "source")
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("recognised: ")]
    assert said == [f"recognised: {name} (9 columns)" for name in told]


def test_the_rate_and_detections_come_along(tmp_path: Path) -> None:
    soccernet(tmp_path / "source")
    kitti(tmp_path / "source" / "kitti")
    assert run(tmp_path) == 0
    info = read_sequence_info(tmp_path / "mot/SNMOT-060")
    assert (info.frame_rate, info.width) == (20, 64)
    assert read_detections(tmp_path / "mot/SNMOT-060/det/det.txt", info).frame.tolist() == [2]
    assert main(["import", "--src", str(tmp_path / "source/kitti"), "--dst", str(tmp_path / "mot")]) == 0
    assert read_sequence_info(tmp_path / "mot/0003").frame_rate == 10


MAPPED: dict[str, tuple[str, list[str], list[int]]] = {
    "class 0": ("1,7,5,6,7,8,1,0,1\n2,7,5,6,7,8,1,3,1\n", ["0=pedestrian"], [1, 3]),
    "classes 19 and 3": ("1,7,5,6,7,8,1,19,1\n2,7,5,6,7,8,1,3,1\n", ["19=1", "car=static person"], [1, 7]),
    "confidences": ("1,7,5,6,7,8,0.87,1,1\n2,7,5,6,7,8,0,1,1\n", [], [1, 1]),
}


@pytest.mark.parametrize("case", MAPPED)
def test_a_class_map_says_who_is_a_person(case: str, tmp_path: Path) -> None:
    gt, pairs, classes = MAPPED[case]
    sequence("A", gt)(tmp_path / "source")
    assert run(tmp_path, *(part for pair in pairs for part in ("--map", pair))) == 0
    found = read_annotations(tmp_path / "mot/A/gt/gt.txt", read_sequence_info(tmp_path / "mot/A"))
    assert found.class_id.tolist() == classes
    assert found.flag.tolist() == [1, 0]


KITTI = "{} 2 Pedestrian 0 1 1.5 5 6 12 14 1 1 1 2 2 9 0\n"
COUNTED: dict[str, tuple[str, int, str, list[int]]] = {
    "files and rows from 0": ("0,1,5,6,7,8,1,1,1\n3,1,5,6,7,8,1,1,1\n", 0, "frames counted from 0", [1, 4]),
    "files from 0, rows from 1": (
        "1,1,5,6,7,8,1,1,1\n4,1,5,6,7,8,1,1,1\n",
        0,
        "files counted from 0, rows from 1",
        [1, 4],
    ),
    "files from 1, rows from 0": ("0,1,5,6,7,8,1,1,1\n3,1,5,6,7,8,1,1,1\n", 1, "frames counted from 0", [1, 4]),
    "files from 1, rows of KITTI": (KITTI.format(0) + KITTI.format(3), 1, "frames counted from 0", [1, 4]),
    "files from 0, rows of KITTI from 1": (KITTI.format(1) + KITTI.format(3), 0, "frames counted from 0", [2, 4]),
}


@pytest.mark.parametrize("case", COUNTED)
def test_frames_that_count_from_another_number_are_moved(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, first, said, expected = COUNTED[case]
    sequence("A", gt, first=first)(tmp_path / "source")
    assert run(tmp_path) == 0
    assert said in capsys.readouterr().out
    found = read_annotations(tmp_path / "mot/A/gt/gt.txt", read_sequence_info(tmp_path / "mot/A"))
    assert found.frame.tolist() == expected


def test_a_file_that_fits_two_is_decided_by_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequence("A", "1,7,5,6,7,8,1,4,0,0\n2,7,5,6,7,8,1,4,0,0\n")(tmp_path / "source")
    assert run(tmp_path) == 2
    assert (
        "say which it is: `python -m motrlab import` with `--format mot15` or `--format visdrone`"
        in capsys.readouterr().err
    )
    assert run(tmp_path, "--format", "visdrone", "--map", "car=pedestrian") == 0
    assert "from VisDrone" in capsys.readouterr().out


FAULTS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no folder": (lambda root: None, [], "source: no such folder; give a data set's folder"),
    "no sequence": (lambda root: root.mkdir(), [], "no sequences"),
    "without gt": (lambda root: frames(root / "A/img1"), [], "no sequence with gt/gt.txt"),
    "an unknown format": (sequence("A", NINE), ["--format", "uavdt"], "--format uavdt: not one of coco, cvat, mot17"),
    "rows of another format": (sequence("A", NINE), ["--format", "mot15"], "gt.txt:1: 9 columns; MOT15 has 10 columns"),
    "UAVDT": (lambda root: write(root / "GT/M0101_gt_whole.txt", "1,1,5,6,7,8,1,1,1\n"), [], "rows of UAVDT"),
    "a missing frame": (
        lambda root: (sequence("A", NINE)(root), (root / "A/img1/000002.jpg").unlink()), [],
        "img1: frame 2 of 4 is missing"),
    "a track without a role": (
        lambda root: (soccernet(root), write(root / "SNMOT-060/gameinfo.ini", GAME.replace("D_3", "D_4"))), [],
        "gt.txt:3: id 3 is not in gameinfo.ini"),
    "nobody": (
        sequence("A", "1,7,5,6,7,8,1,0,1\n"), [],
        "no label is called person or pedestrian; there are 0 (1×): choose by --map NAME=pedestrian"),
    "nobody who counts": (sequence("A", "1,7,5,6,7,8,0,1,1\n"), [], "all 1 boxes are to be ignored (flag 0)"),
    "a map without a class": (sequence("A", NINE), ["--map", "car"], "--map car: NAME=CLASS expected"),
    "a map to no class": (sequence("A", NINE), ["--map", "car=14"], "--map car=14: NAME=CLASS expected"),
    "a map of no label": (sequence("A", NINE), ["--map", "lion=1"], "no label 'lion'; there are pedestrian (2×)"),
    "images": (sequence("A", NINE), ["--images", "x"], "--images x: for coco and cvat only"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_imported_is_one_line_and_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, more, message = FAULTS[case]
    make(tmp_path / "source")
    assert run(tmp_path, *more) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "mot").exists()


@pytest.mark.parametrize("label", ["player", "Dancer", "goalkeeper"])
def test_players_and_dancers_are_people(label: str, tmp_path: Path) -> None:
    write_coco(tmp_path / "source.json", label)
    frames(tmp_path / "img1")
    assert main(["import", "--src", str(tmp_path / "source.json"), "--dst", str(tmp_path / "mot")]) == 0
    assert "1,1,5,6,7,8,1,1,1" in (tmp_path / "mot/v/gt/gt.txt").read_text()


def test_riders_are_people_if_the_map_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "source.json", "rider")
    frames(tmp_path / "img1")
    arguments = ["import", "--src", str(tmp_path / "source.json"), "--dst", str(tmp_path / "mot")]
    assert main(arguments) == 2
    assert "there are rider (1×): choose by --map NAME=pedestrian" in capsys.readouterr().err
    assert main([*arguments, "--map", "rider=pedestrian"]) == 0
    assert "1,1,5,6,7,8,1,1,1" in (tmp_path / "mot/v/gt/gt.txt").read_text()


def write_coco(file: Path, label: str) -> None:
    image = '{"id": 1, "video_id": 1, "frame_id": 0, "file_name": "img1/000001.jpg"}'
    box = '{"id": 1, "image_id": 1, "category_id": 3, "track_id": 1, "bbox": [5, 6, 7, 8]}'
    write(
        file,
        f'{{"videos": [{{"id": 1, "name": "v"}}], "images": [{image}], "annotations": [{box}],'
        f' "categories": [{{"id": 3, "name": "{label}"}}]}}',
    )


def test_an_import_run_again_compares_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sequence("A", NINE)(tmp_path / "source")
    assert run(tmp_path) == run(tmp_path) == 0  # the second finds what the first wrote
    picture = tmp_path / "source/A/img1/000002.jpg"
    picture.unlink()
    cv2.imwrite(str(picture), np.full((48, 64, 3), 200, np.uint8))
    assert run(tmp_path) == 2
    assert "already there; move it away" in capsys.readouterr().err


def test_several_classes_are_tracked_if_one_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    visdrone(tmp_path / "src")
    what = ["import", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "dst"), "--classes"]
    assert main([*what, "car,pedestrian"]) == 0
    folder = tmp_path / "dst/uav01"
    info = read_sequence_info(folder)
    assert info.classes == "3 car, 1 pedestrian"
    gt = read_annotations(folder / "gt/gt.txt", info)
    kinds = info.tracked.kinds(gt.class_id)
    assert {int(k) for k in kinds[gt.flag != 0]} == {0, 1}
    assert len(gt.counted(info.tracked)) == (gt.flag != 0).sum() > len(gt.people) > 0
    assert main(["prepare", "--src", str(tmp_path / "dst"), "--dst", str(tmp_path / "packed")]) == 0
    assert FrameStore(tmp_path / "packed/train_lmdb").classes == info.tracked
    assert read_sequence_info(tmp_path / "packed/test_gt/uav01").tracked == info.tracked
    for classes, fault in (
        ("pedestrian,bicycle", "no label is called bicycle; there are"),
        ("pedestrian,unicorn", "--classes pedestrian,unicorn: classes with commas"),
        ("car,car", "--classes car,car: classes with commas between expected, each once"),
    ):
        capsys.readouterr()
        assert main([*what, classes]) == 2
        assert fault in capsys.readouterr().err
    sequence("OTHER", NINE)(tmp_path / "dst")
    capsys.readouterr()
    assert main(["prepare", "--src", str(tmp_path / "dst"), "--dst", str(tmp_path / "packed")]) == 2
    assert "tracked are pedestrian in OTHER but car, pedestrian in uav01" in capsys.readouterr().err
