from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.coco import import_coco
from motrlab.data.motchallenge import find_sequences, read_annotations, read_sequence_info
from motrlab.data.prepare import prepare

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def images(make_sequence: Callable[..., Path]) -> Path:
    make_sequence("cam1", num_frames=4)
    return make_sequence("cam2", num_frames=3, seed=5).parent


def labels() -> dict[str, Any]:
    """Two videos: four frames in disorder, with a crowd and a car; three frames of which the middle one is empty."""
    one = [
        {"id": 10 + i, "video_id": 1, "frame_id": i, "file_name": f"cam1/img1/{i + 1:06d}.jpg"} for i in (2, 0, 1, 3)
    ]
    two = [{"id": 20 + i, "video_id": 2, "frame_id": i, "file_name": f"cam2/img1/{i:06d}.jpg"} for i in (1, 2, 3)]

    def box(number: int, image: int, track: int, category: int = 1, **more: object) -> dict[str, Any]:
        fields = {"id": number, "image_id": image, "category_id": category, "instance_id": track}
        return {**fields, "bbox": [number, 2.5, 10, 20], **more}

    return {
        "videos": [{"id": 1, "name": "street/one", "fps": 12.5}, {"id": 2, "name": "two"}],
        "images": one + two,
        "categories": [{"id": 1, "name": "Person"}, {"id": 7, "name": "car"}, {"id": 9, "name": "dog"}],
        "annotations": [
            box(1, 12, 3), box(2, 10, 3, visibility=0.25), box(3, 10, 4, iscrowd=1), box(4, 13, 8, 7), box(5, 13, 9, 9),
            box(6, 21, 1), box(7, 23, 1),
        ],
    }  # fmt: skip


def write(folder: Path, data: object) -> Path:
    file = folder / "labels.json"
    file.write_text(json.dumps(data))
    return file


def test_videos_become_folders_that_prepare_takes(images: Path, tmp_path: Path) -> None:
    infos = import_coco(write(images, labels()), tmp_path / "mot")
    assert [(i.name, i.num_frames, i.width, i.height, i.frame_rate) for i in infos] == [
        ("street-one", 4, 96, 64, 12.5), ("two", 3, 96, 64, 30),
    ]  # fmt: skip
    folder = tmp_path / "mot" / "street-one"
    assert read_sequence_info(folder) == infos[0]
    assert (folder / "gt/gt.txt").read_text().splitlines() == [
        "1,3,2,2.5,10,20,1,1,0.25",
        "1,4,3,2.5,10,20,0,1,1",
        "3,3,1,2.5,10,20,1,1,1",
        "4,8,4,2.5,10,20,0,3,1",
        "4,9,5,2.5,10,20,0,9,1",
    ]
    for frame in range(1, 5):
        target, original = folder / f"img1/{frame:06d}.jpg", images / f"cam1/img1/{frame:06d}.jpg"
        assert target.samefile(original)  # a hard link
    summary = prepare(tmp_path / "mot", tmp_path / "data")
    assert {(s.part, s.name): s.values["num_boxes"] for s in summary.sequences} == {
        ("train", "street-one"): 1, ("train", "two"): 1, ("test", "street-one"): 1, ("test", "two"): 1,
    }  # fmt: skip


def test_frames_are_copied_where_links_are_not_possible(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    import_coco(write(images, labels()), tmp_path / "mot")
    target, original = tmp_path / "mot/two/img1/000002.jpg", images / "cam2/img1/000002.jpg"
    assert not target.samefile(original)
    assert target.read_bytes() == original.read_bytes()


def test_an_import_run_again_keeps_what_is_there_and_overwrites_nothing(images: Path, tmp_path: Path) -> None:
    file, out = write(images, labels()), tmp_path / "mot"
    import_coco(file, out)
    before = (out / "two").stat().st_ino
    import_coco(file, out)
    assert (out / "two").stat().st_ino == before
    (out / "two/gt/gt.txt").write_text("corrected by hand")
    assert main(["import", "--format", "coco", "--src", str(file), "--dst", str(out)]) == 2
    assert (out / "two/gt/gt.txt").read_text() == "corrected by hand"


IMPORT = """
import sys, time
from pathlib import Path
from motrlab.data import coco, importing

original = importing._put

def slowly(image, target):
    print(target, flush=True)
    time.sleep(0.1)
    original(image, target)

importing._put = slowly
coco.import_coco(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_an_import_killed_goes_on(images: Path, tmp_path: Path) -> None:
    file, out = write(images, labels()), tmp_path / "mot"
    command = [sys.executable, "-c", IMPORT, str(file), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "two" not in process.stdout.readline():  # within the second video
            assert process.poll() is None
        process.kill()
    assert [f.name for f in find_sequences(out)] == ["street-one"]  # nothing half-made is taken for a sequence
    import_coco(file, out)
    assert sorted(f.name for f in out.iterdir()) == ["street-one", "two"]
    assert len(list((out / "two/img1").iterdir())) == 3


def test_images_may_lie_elsewhere(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, labels())
    arguments = ["import", "--format", "coco", "--src", str(file), "--dst", str(tmp_path / "mot")]
    assert main(arguments) == 2
    assert "cam1/img1/000001.jpg: missing; --images" in capsys.readouterr().err
    assert main([*arguments, "--images", str(images)]) == 0
    out = capsys.readouterr().out.splitlines()
    frames = {"street-one": 4, "two": 3}
    assert out == [f"{tmp_path}/mot/{name}: {count} frames of 96×64, from COCO" for name, count in frames.items()]


def test_a_video_without_labels_has_an_empty_gt(images: Path, tmp_path: Path) -> None:
    data = labels()
    data["annotations"] = []
    (info, _) = import_coco(write(images, data), tmp_path / "mot")
    found = read_annotations(tmp_path / "mot" / info.name / "gt/gt.txt", info)
    assert len(found) == 0


def test_track_id_does_as_well_as_instance_id(images: Path, tmp_path: Path) -> None:
    data = labels()
    for item in data["annotations"]:
        item["track_id"] = item.pop("instance_id")
    import_coco(write(images, data), tmp_path / "mot")
    gt = read_annotations(tmp_path / "mot/two/gt/gt.txt", read_sequence_info(tmp_path / "mot/two"))
    np.testing.assert_array_equal(gt.track_id, [1, 1])


def test_a_visibility_of_minus_1_is_not_said(images: Path, tmp_path: Path) -> None:
    data = labels()
    data["annotations"][1]["visibility"] = -1
    import_coco(write(images, data), tmp_path / "mot")
    assert (tmp_path / "mot/street-one/gt/gt.txt").read_text().startswith("1,3,2,2.5,10,20,1,1,1\n")


def change(kind: str, index: int, **fields: object) -> Change:
    return lambda data: data[kind][index].update(fields)


def without(kind: str, index: int, field: str) -> Change:
    return lambda data: data[kind][index].pop(field)


MALFORMED: dict[str, tuple[Change, str]] = {
    "no videos": (lambda d: d.pop("videos"), "no list 'videos'"),
    "empty videos": (lambda d: d.update(videos=[], images=[], annotations=[]), "no videos in it"),
    "a video twice": (change("videos", 1, id=1), "videos: id 1 twice"),
    "videos of one name": (change("videos", 1, name="street one"), "two videos would be called 'street-one'"),
    "a nameless video": (change("videos", 1, name="///"), "no letter or digit"),
    "a video without images": (lambda d: d["videos"].append({"id": 3, "name": "3"}), "video 3 (3) has no images"),
    "frame rate 0": (change("videos", 0, fps=0), "video 1: frame rate 0"),
    "an image without frame": (without("images", 0, "frame_id"), "image 12: no frame_id"),
    "an image of no video": (change("images", 0, video_id=5), "image 12: no video 5"),
    "a frame twice": (change("images", 0, frame_id=0), "images 12 and 10 are both frame 0 of video 1"),
    "a frame in letters": (change("images", 0, frame_id="x"), "image 12: frame_id='x', a whole number"),
    "an image without file": (without("images", 0, "file_name"), "image 12: no file_name"),
    "a file outside": (change("images", 0, file_name="../x.jpg"), "image 12: '../x.jpg' lies outside"),
    "an absolute file": (change("images", 0, file_name="/etc/passwd"), "image 12: '/etc/passwd' lies outside"),
    "a missing file": (change("images", 0, file_name="x.jpg"), "x.jpg: missing"),
    "no track id": (without("annotations", 0, "instance_id"), "annotation 1: no track_id or instance_id"),
    "null track id": (change("annotations", 0, instance_id=None), "annotation 1: no track_id or instance_id"),
    "a track id in letters": (change("annotations", 0, instance_id="a"), "annotation 1: instance_id='a'"),
    "a negative track id": (change("annotations", 0, instance_id=-1), "annotation 1: instance_id -1; a person's"),
    "pictures of another size": (
        change("images", 0, width=192, height=128),
        "000003.jpg: 96×64 pixels, but its labels are of 192×128; give the pictures that were labelled",
    ),
    "an id twice in a frame": (
        change("annotations", 2, instance_id=3),
        "annotation:3: id 3 twice in frame 1 (first in line 2)",
    ),
    "an id twice, first in annotation 0": (
        lambda d: (d["annotations"][1].update(id=0), d["annotations"][2].update(instance_id=3)),
        "annotation:3: id 3 twice in frame 1 (first in line 0)",
    ),
    "a box of no image": (change("annotations", 0, image_id=99), "annotation 1: no image 99"),
    "a box of no category": (change("annotations", 0, category_id=99), "annotation 1: no category 99"),
    "negative width": (change("annotations", 0, bbox=[1, 2, -3, 4]), "annotation:1: width -3 and height 4"),
    "three numbers": (change("annotations", 0, bbox=[1, 2, 3]), "annotation 1: bbox=[1, 2, 3]"),
    "letters in a box": (change("annotations", 0, bbox=[1, "b", 3, 4]), "annotation 1: bbox=[1, 'b', 3, 4]"),
    "NaN": (change("annotations", 0, bbox=[1, float("nan"), 3, 4]), "annotation 1: bbox=[1, nan, 3, 4]"),
    "a huge number": (change("annotations", 0, bbox=[1, 10**400, 3, 4]), "annotation 1: bbox="),
    "visibility above 1": (change("annotations", 0, visibility=1.5), "annotation:1: class 1, visibility 1.5"),
    "an annotation that is none": (lambda d: d["annotations"].append(5), "annotations[7] is not an object"),
    "nobody": (
        change("categories", 0, name="cat"),
        "no label is called person or pedestrian; there are cat (5×), car (1×), dog (1×)",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_labels_are_one_line_and_2(
    case: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = MALFORMED[case]
    data = copy.deepcopy(labels())
    damage(data)
    file = write(images, data)
    assert main(["import", "--format", "coco", "--src", str(file), "--dst", str(tmp_path / "mot")]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "labels.json:1: not JSON"),
        ("[]", "a list, not an object"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        (None, "labels.json: missing"),
    ],
    ids=["half", "a list", "nested too deep", "a number too long", "missing"],
)
def test_files_that_are_no_coco(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.json"
    if text is not None:
        file.write_text(text)
    assert main(["import", "--format", "coco", "--src", str(file), "--dst", str(tmp_path / "mot")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_frames_of_two_sizes_and_other_formats(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(images, labels())
    cv2.imwrite(str(images / "cam1/img1/000003.jpg"), np.zeros((10, 20, 3), np.uint8))
    arguments = ["import", "--format", "coco", "--src", str(file), "--dst", str(tmp_path / "mot")]
    assert main(arguments) == 2
    assert "000003.jpg: .jpg, 20×10 pixels, but the video's first frame .jpg, 96×64" in capsys.readouterr().err
    (images / "cam1/img1/000003.jpg").write_bytes(b"\x89PNG")
    assert main(arguments) == 2
    assert "000003.jpg: PNG file is cut short" in capsys.readouterr().err


def still_labels() -> dict[str, Any]:
    """Three images of two sizes and kinds without tracks; a crowd, a box to be ignored, a flat one, a car."""
    boxes = [(1, 1, {}), (1, 1, {"iscrowd": 1}), (1, 1, {"ignore": 1}), (2, 7, {}), (3, 1, {"visibility": 0.5})]
    items = [
        {"id": 100 + i, "image_id": image, "category_id": kind, "bbox": [i, 2.5, 10, 20], **more}
        for i, (image, kind, more) in enumerate(boxes)
    ]
    items.append({"id": 200, "image_id": 3, "category_id": 1, "bbox": [1, 1, 0, 4]})
    names = {1: "cam1/img1/000001.jpg", 2: "cam1/img1/000002.jpg", 3: "large.png"}
    return {
        "images": [{"id": key, "file_name": name} for key, name in names.items()],
        "categories": [{"id": 1, "name": "person"}, {"id": 7, "name": "car"}],
        "annotations": items,
    }


def test_labels_without_tracks_are_stills(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(images / "large.png"), np.zeros((120, 70, 3), np.uint8))
    file, out = write(images, still_labels()), tmp_path / "mot"
    infos = import_coco(file, out)
    assert [(i.name, i.num_frames, i.width, i.height, i.image_ext, i.stills) for i in infos] == [
        ("labels-001", 1, 96, 64, ".jpg", True), ("labels-002", 1, 70, 120, ".png", True),
    ]  # fmt: skip
    assert "1 boxes without an area are left out" in capsys.readouterr().err
    assert [read_sequence_info(out / info.name) for info in infos] == infos
    assert (out / "labels-001/gt/gt.txt").read_text().splitlines() == [
        "1,1,0,2.5,10,20,1,1,1", "1,2,1,2.5,10,20,0,1,1", "1,3,2,2.5,10,20,0,1,1",
    ]  # fmt: skip
    assert (out / "labels-002/gt/gt.txt").read_text() == "1,5,4,2.5,10,20,1,1,0.5\n"
    assert import_coco(file, out) == infos  # run again


def test_stills_come_in_folders_of_no_more_than_so_many(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motrlab.data.importing._STILLS", 2)
    cv2.imwrite(str(images / "large.jpg"), np.zeros((120, 70, 3), np.uint8))
    data = still_labels()
    data["images"][2]["file_name"] = "large.jpg"
    data["annotations"][3]["category_id"] = 1
    infos = import_coco(write(images, data), tmp_path / "mot")
    assert [(info.name, info.num_frames, info.width, info.height) for info in infos] == [
        ("labels-001", 2, 96, 64), ("labels-002", 1, 70, 120),
    ]  # fmt: skip
    assert (tmp_path / "mot/labels-001/gt/gt.txt").read_text().splitlines()[-1] == "2,4,3,2.5,10,20,1,1,1"


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        (change("annotations", 0, image_id=99), "annotation 100: no image 99"),
        (change("annotations", 0, bbox=[1, 2]), "annotation 100: bbox=[1, 2]"),
        (change("images", 0, file_name="../x.jpg"), "image 1: '../x.jpg' lies outside"),
        (change("images", 0, width=192, height=128), "1.jpg: 96×64 pixels, but its labels are of 192×128"),
        (lambda d: d.pop("annotations"), "no list 'annotations'"),
        (lambda d: d.update(images=[]), "annotation 100: no image 1"),
        (lambda d: d.update(annotations=d["annotations"][1:3]), "no image with a person that is not to be ignored"),
    ],
    ids=["no image", "two numbers", "outside", "another size", "no annotations", "no images", "nobody counts"],
)
def test_malformed_stills(
    change_it: Change, message: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = still_labels()
    change_it(data)
    assert main(["import", "--src", str(write(images, data)), "--dst", str(tmp_path / "mot")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
