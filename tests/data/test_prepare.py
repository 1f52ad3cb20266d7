from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.exporting import export_sequences
from motrlab.data.motchallenge import (
    Annotations,
    Detections,
    format_sequence_info,
    read_annotations,
    read_detections,
    read_recognised,
    read_sequence_info,
)
from motrlab.data.prepare import cut, half_ranges, prepare
from motrlab.data.store import FrameStore, content_hash
from motrlab.errors import UserError
from motrlab.files import MARKER


@pytest.fixture
def source(make_sequence: Callable[..., Path], tmp_path: Path) -> Path:
    make_sequence("A", seed=1)
    make_sequence("B", seed=2, num_frames=9, det=None)
    make_sequence("U", seed=3, num_frames=5, gt="2,1,1,1,5,5,1,1,0.5\n", det="1,-1,1,1,5,5,0.9\n")
    make_sequence("no_gt", seed=4, gt=None)
    return tmp_path / "source"


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_everything_lands_where_the_contract_says(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    summary = prepare(source, out, unseen=lambda n: n == "U")
    assert sorted(p.name for p in out.iterdir()) == ["test_gt", "test_lmdb", "train_lmdb", "unseen_gt", "unseen_lmdb"]
    stores = {part: FrameStore(out / f"{part}_lmdb") for part in ("train", "test", "unseen")}
    lengths = {part: {s.name: s.num_frames for s in store.sequences} for part, store in stores.items()}
    assert lengths == {"train": {"A": 4, "B": 4}, "test": {"A": 4, "B": 5}, "unseen": {"U": 5}}
    assert stores["test"].frame_bytes("B", 1) == (source / "B/img1/000005.jpg").read_bytes()
    gt = sorted(str(p.relative_to(out)) for p in out.glob("*_gt/*/*"))
    assert gt == ["test_gt/A/det", "test_gt/A/gt", "test_gt/A/seqinfo.ini", "test_gt/B/gt", "test_gt/B/seqinfo.ini",
                  "unseen_gt/U/det", "unseen_gt/U/gt", "unseen_gt/U/seqinfo.ini"]  # fmt: skip
    assert summary.left_out == ("no_gt",)


def stills(make_sequence: Callable[..., Path], folder: Path, name: str = "S") -> Path:
    """A folder with a sequence of stills, one of them smaller than the others."""
    sequence = make_sequence(name, num_frames=3, gt="1,1,1,1,5,5,1,1,0.5\n3,2,1,1,5,5,1,1,1\n", det=None)
    cv2.imwrite(str(sequence / "img1/000002.jpg"), np.zeros((20, 30, 3), np.uint8))
    info = dataclasses.replace(read_sequence_info(sequence), stills=True)
    (sequence / "seqinfo.ini").write_text(format_sequence_info(info))
    folder.mkdir(exist_ok=True)
    return sequence.rename(folder / name).parent


@pytest.mark.parametrize("among", [True, False], ids=["among the videos", "in a folder of their own"])
def test_stills_are_trained_on_whole_and_never_evaluated(
    among: bool, source: Path, tmp_path: Path, make_sequence: Callable[..., Path]
) -> None:
    folder, out = stills(make_sequence, source if among else tmp_path / "stills"), tmp_path / "data"
    summary = prepare(source, out, unseen=lambda n: n == "U", stills=None if among else folder)
    stores = {part: FrameStore(out / f"{part}_lmdb") for part in ("train", "test", "unseen")}
    assert [s.name for s in stores["train"].sequences] == ["A", "B"]
    assert {part: [(s.name, s.num_frames) for s in store.stills] for part, store in stores.items()} == {
        "train": [("S", 3)], "test": [], "unseen": [],
    }  # fmt: skip
    assert stores["train"].image("S", 2).shape == (20, 30, 3)
    assert not list(out.glob("*_gt/S"))
    assert summary.totals["stills"]["num_boxes"] == 2
    assert summary.totals["train"]["num_sequences"] == 2
    infos = export_sequences(out, tmp_path / "back")
    assert read_sequence_info(tmp_path / "back/S") == next(info for info in infos if info.stills)


def test_stills_are_told_from_videos(source: Path, tmp_path: Path, make_sequence: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="A: a video, not stills"):
        prepare(source, tmp_path / "data", ["B"], stills=source)
    folder = stills(make_sequence, tmp_path / "stills", "A2")
    (folder / "A2").rename(folder / "A")
    with pytest.raises(UserError, match=r"A: .*source has a sequence of that name"):
        prepare(source, tmp_path / "data", stills=folder)
    (folder / "A").rename(folder / "S")
    cv2.imwrite(str(folder / "S/img1/000002.jpg"), np.zeros((20, 200, 3), np.uint8))
    with pytest.raises(UserError, match=r"200×20 pixels, but seqinfo\.ini says at most 96×64"):
        prepare(source, tmp_path / "data", stills=folder)


def test_a_data_hash_is_what_it_was_before_there_were_stills(source: Path, tmp_path: Path) -> None:
    """The infos count in it; a later field at its default does not."""
    info = read_sequence_info(source / "A")
    old = {k: v for k, v in dataclasses.asdict(info).items() if k not in ("stills", "classes")}
    hashes = hashlib.sha256(b"frame").digest() + hashlib.sha256(b"gt").digest()
    expected = hashlib.sha256(json.dumps(old, sort_keys=True).encode())
    for entry, at in (("000001", 0), ("annotations", 32)):
        expected.update(f"A/{entry}".encode() + hashes[at : at + 32])
    assert content_hash([(info, hashes)]) == expected.hexdigest()
    assert content_hash([(dataclasses.replace(info, stills=True), hashes)]) != expected.hexdigest()


def test_gt_of_the_test_half_is_renumbered(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "data", ["A"])
    folder = tmp_path / "data" / "test_gt" / "A"
    info = read_sequence_info(folder)
    found = read_annotations(folder / "gt/gt.txt", info)
    whole = read_annotations(source / "A/gt/gt.txt", read_sequence_info(source / "A"))
    later = whole.select(whole.frame > 4)
    assert info.num_frames == 4
    assert found.frame.tolist() == (later.frame - 4).tolist()
    assert found.ltwh.tolist() == later.ltwh.tolist()
    assert found.visibility.tolist() == later.visibility.tolist()
    detections = read_detections(folder / "det/det.txt", info)
    assert detections.frame.tolist() == [1, 2, 3, 4]
    assert detections.ltwh[:, 0].tolist() == [15.5, 16.5, 17.5, 18.5]


def test_a_second_run_changes_nothing_and_another_choice_leaves_nothing_stale(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = prepare(source, out, unseen=lambda n: n == "U")
    before = files(out)
    again = prepare(source, out, unseen=lambda n: n == "U")
    assert files(out) == before
    assert again == first
    other = prepare(source, out, ["B"])
    assert other.data_hash != first.data_hash
    assert sorted(p.name for p in out.iterdir()) == ["test_gt", "test_lmdb", "train_lmdb"]
    assert sorted(p.name for p in (out / "test_gt").iterdir()) == [MARKER, "B"]


def test_the_summary_counts(source: Path, tmp_path: Path) -> None:
    summary = prepare(source, tmp_path / "data", unseen=lambda n: n == "U")
    rows = {(s.part, s.name): s for s in summary.sequences}
    a = rows["train", "A"]
    assert [a.values[f"num_{k}"] for k in ("frames", "people", "boxes")] == [4, 3, 11]
    assert a.values["empty_frames"] == 0
    assert a.values["fraction_below_07"] == pytest.approx(4 / 11)
    assert a.values["fraction_below_03"] == 0
    assert (a.values["median_height_px"], a.values["median_track_frames"]) == (20, 4)
    u = rows["unseen", "U"]
    assert (u.values["empty_frames"], u.values["num_boxes"], u.values["boxes_per_frame"]) == (4, 1, 0.2)
    assert summary.totals["test"]["num_frames"] == 9
    assert summary.metrics()["train.num_boxes"] == 22
    lines = summary.table().splitlines()
    assert lines[0].split()[:3] == ["sequence", "part", "frames"]
    assert len(lines) == 1 + 5 + 3 + 1
    assert lines[-1].endswith("no_gt")


def test_boxes_without_visibility_give_no_share(make_sequence: Callable[..., Path], tmp_path: Path) -> None:
    make_sequence("M15", gt="1,1,-5,1,9,9,1,-1,-1,-1\n2,1,5,1,9,9,0,-1,-1,-1\n")
    (row, test) = prepare(tmp_path / "source", tmp_path / "data").sequences
    assert row.values["fraction_below_07"] is None
    assert (row.values["boxes_outside"], row.values["boxes_ignored"]) == (1, 1)
    assert (test.values["num_boxes"], test.values["median_height_px"]) == (0, None)


def test_nothing_to_train_on_is_refused(make_sequence: Callable[..., Path], tmp_path: Path) -> None:
    make_sequence("no_gt", gt=None)
    with pytest.raises(UserError, match=r"no sequence with gt/gt\.txt"):
        prepare(tmp_path / "source", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_bad_input_writes_nothing(source: Path, tmp_path: Path) -> None:
    (source / "B/img1/000007.jpg").unlink()
    with pytest.raises(UserError, match="frame 7 of 9 is missing"):
        prepare(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["train_lmdb", "test_lmdb", "test_gt", "unseen_lmdb", "unseen_gt"])
def test_only_what_it_wrote_itself_is_replaced(name: str, source: Path, tmp_path: Path) -> None:
    precious = tmp_path / "data" / name / "precious"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(UserError, match=f"data/{name}: not written by motrlab"):
        prepare(source, tmp_path / "data")
    assert files(tmp_path / "data") == {f"{name}/precious": b"mine"}
    precious.unlink()
    prepare(source, tmp_path / "data")


def test_a_damaged_store_is_not_kept(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = prepare(source, tmp_path / "data")
    file, frame = tmp_path / "data/test_lmdb/data.mdb", (source / "B/img1/000006.jpg").read_bytes()
    file.write_bytes(file.read_bytes().replace(frame, frame[:-3] + b"?" + frame[-2:]))
    assert prepare(source, tmp_path / "data") == whole
    assert "test_lmdb: frame 2 of B is damaged" in capfd.readouterr().err
    assert FrameStore(tmp_path / "data/test_lmdb").frame_bytes("B", 2) == frame


def test_grey_frames_are_packed_and_said(source: Path, tmp_path: Path) -> None:
    for file in (source / "A/img1").iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_GRAYSCALE))
    summary = prepare(source, tmp_path / "data")
    assert summary.notes == ("A: grey pictures are read as three equal channels",)
    image = FrameStore(tmp_path / "data" / "train_lmdb").image("A", 1)
    assert (image == image[:, :, :1]).all()


def test_frames_of_sixteen_bits_are_refused(source: Path, tmp_path: Path) -> None:
    """PNG: of a JPEG with more than 8 bits OpenCV reads nothing."""
    for file in sorted((source / "A/img1").iterdir()):
        deep = cv2.imread(str(file)).astype(np.uint16) << 4
        cv2.imwrite(str(file.with_suffix(".png")), deep)
        file.unlink()
    ini = source / "A/seqinfo.ini"
    ini.write_text(ini.read_text().replace(".jpg", ".png"))
    with pytest.raises(UserError, match=r"A/img1/000001\.png: 16 bits a value: scale them to 8 and write it again$"):
        prepare(source, tmp_path / "data")


def test_an_orientation_is_said(source: Path, tmp_path: Path) -> None:
    """Pictures are packed and decoded as they are stored, for boxes are of the stored pixels."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    for file in (source / "A/img1").iterdir():
        file.write_bytes(file.read_bytes()[:2] + exif + file.read_bytes()[2:])
    summary = prepare(source, tmp_path / "data")
    assert summary.notes == ("A: EXIF orientation 6 is ignored; boxes are of the stored pixels",)
    assert summary.table().splitlines()[-1] == summary.notes[0]
    assert FrameStore(tmp_path / "data" / "train_lmdb").image("A", 1).shape == (64, 96, 3)


def test_gt_is_parsed_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(
        "motrlab.data.validate.read_recognised", lambda p, info: seen.append(p) or read_recognised(p, info)
    )
    prepare(source, tmp_path / "data")
    assert [p.parts[-3] for p in seen] == ["A", "B", "U"]


def test_workers_change_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motrlab.data.workers._MEGAPIXELS_PER_WORKER", 0.01)
    assert prepare(source, tmp_path / "two", num_workers=2) == prepare(source, tmp_path / "one")


def test_a_bar_on_a_terminal_and_only_there(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "motrlab", "prepare", "--src", str(source), "--dst"]
    piped = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 100))
    shown = subprocess.run([*command, str(tmp_path / "b")], stdout=subprocess.PIPE, stderr=end, text=True, check=True)
    os.close(end)
    text = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert "validate A: 100%" in text
    assert "validate B: 100%" in text
    assert "pack: 100%" in text
    assert shown.stdout == piped.stdout
    assert "visible share of a box" in shown.stdout


def test_real_sequences(mot_root: Path, tmp_path: Path) -> None:
    summary = prepare(mot_root, tmp_path / "data", ["MOT17-09-DPM", "TUD-Campus", "MOT17-13"])
    frames = {(s.part, s.name): s.values["num_frames"] for s in summary.sequences}
    assert frames["train", "MOT17-09-DPM"] == 262
    assert frames["test", "MOT17-09-DPM"] == 263
    assert frames["train", "MOT17-13-FRCNN"] == 2
    store = FrameStore(tmp_path / "data" / "test_lmdb")
    assert store.image("TUD-Campus", 1).shape == (480, 640, 3)
    large = mot_root / "MOT17-13-FRCNN" / "img1" / "000003.jpg"
    assert store.frame_bytes("MOT17-13-FRCNN", 1) == large.read_bytes()


@pytest.mark.parametrize(("num_frames", "train", "test"), [(8, 4, 4), (525, 262, 263), (1, 0, 1), (2, 1, 1)])
def test_first_half_is_floor_of_the_length(num_frames: int, train: int, test: int) -> None:
    first, second = half_ranges(num_frames)
    assert (len(first), len(second)) == (train, test)
    assert [*first, *second] == list(range(1, num_frames + 1))


def test_the_second_half_is_renumbered_from_one() -> None:
    frames, none = np.arange(1, 8), np.zeros(7, np.int64)
    boxes = np.arange(28.0).reshape(7, 4)
    whole = Annotations(frames, none, boxes, none, none, np.ones(7), True)
    train, test = (cut(whole, part) for part in half_ranges(7))
    assert train.frame.tolist() == [1, 2, 3]
    assert test.frame.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(test.ltwh, boxes[3:])
    detections = cut(Detections(frames, boxes, boxes[:, 0]), half_ranges(7)[1])
    assert detections.frame.tolist() == [1, 2, 3, 4]
    assert detections.score.tolist() == boxes[3:, 0].tolist()
