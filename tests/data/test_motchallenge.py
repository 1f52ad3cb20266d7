from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.data.motchallenge import (
    SequenceInfo,
    find_sequences,
    format_annotations,
    format_detections,
    format_sequence_info,
    read_annotations,
    read_detections,
    read_sequence_info,
)
from motrlab.data.validate import validate_sequence
from motrlab.errors import UserError

INFO = SequenceInfo(name="A", num_frames=10, width=100, height=50, frame_rate=30.0)
ROW = "1,1,5,6,7,8,1,1,0.5\n"
ROW15 = "1,1,5,6,7,8,1,-1,-1,-1\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


REFUSED = {
    "letters": (ROW + "2,1,5,x,7,8,1,1,1\n", ":2: could not convert"),
    "NaN": ("1,1,5,nan,7,8,1,1,1\n", ":1: NaN"),
    "infinity": ("1,1,5,6,inf,8,1,1,1\n", ":1: NaN or infinity"),
    "negative width": ("1,1,5,6,-7,8,1,1,1\n", ":1: width -7"),
    "zero height": ("1,1,5,6,7,0,1,1,1\n", ":1: width 7 and height 0"),
    "id twice in a frame": (ROW + "2,1,5,6,7,8,1,1,1\n" + ROW, ":3: id 1 twice in frame 1 (first in line 1)"),
    "frame 0": ("0,1,5,6,7,8,1,1,1\n", ":1: frame 0; frames count from 1"),
    "frame past the end": (ROW + "\n11,1,5,6,7,8,1,1,1\n", ":3: frame 11 is past the end (10 frames"),
    "half a frame": ("1.5,1,5,6,7,8,1,1,1\n", ":1: frame and id must be whole"),
    "too few columns": ("1,1,5,6,7,8\n", ":1: 6 columns, at least 9"),
    "a row cut short": (ROW15 + "2,1,5,6,7,8,1,-1,-1\n", ":2: 9 columns, 10 expected"),
    "too many columns": ("1,1,5,6,7,8,1,1,1,1,1\n", ":1: 11 columns, 9 or 10"),
    "visibility above one": ("1,1,5,6,7,8,1,1,1.5\n", ":1: class 1, visibility 1.5"),
    "half a class": ("1,1,5,6,7,8,1,1.5,1\n", ":1: class 1.5"),
    "half a flag": ("1,1,5,6,7,8,0.5,1,1\n", ":1: the flag"),
    "not text": (b"\xff\xfe1\x00", "not UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_gt_is_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    file = write(tmp_path / "gt.txt", text)
    with pytest.raises(UserError) as caught:
        read_annotations(file, INFO)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ACCEPTED = {
    "empty": ("", 0),
    "blank lines": ("\n" + ROW + "\n\n", 1),
    "CRLF": (ROW.replace("\n", "\r\n") * 1, 1),
    "byte-order mark": (b"\xef\xbb\xbf" + ROW.encode(), 1),
    "unsorted": ("3,2,5,6,7,8,1,1,1\n" + ROW + "3,1,5,6,7,8,1,1,1\n", 3),
    "outside the image": ("1,1,-50,-60,7,8,1,1,1\n2,1,500,60,7,8,1,1,1\n", 2),
    "whole numbers as decimals": ("1.0,2.0,5,6,7,8,1.0,1.0,1\n", 1),
    "spaces": ("1, 1, 5, 6, 7, 8, 1, 1, 1\n", 1),
    "MOT15": (ROW15, 1),
    "MOT15 with world coordinates": ("1,9,499,158,31.03,75.17,1,-4.1554,-7.3591,0\n", 1),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_gt_of_every_allowed_form_is_read(case: str, tmp_path: Path) -> None:
    text, rows = ACCEPTED[case]
    found = read_annotations(write(tmp_path / "gt.txt", text), INFO)
    assert len(found) == rows
    assert found.ltwh.shape == (rows, 4)
    order = found.frame * 1000 + found.track_id
    assert (np.diff(order) > 0).all()


def test_class_and_visibility_come_only_from_nine_columns(tmp_path: Path) -> None:
    nine = read_annotations(write(tmp_path / "9.txt", "1,1,5,6,7,8,1,7,0.25\n2,1,5,6,7,8,1,1,1\n"), INFO)
    ten = read_annotations(write(tmp_path / "10.txt", "1,1,5,6,7,8,0,7,0.25,3\n"), INFO)
    assert nine.has_class
    assert nine.class_id.tolist() == [7, 1]
    assert nine.visibility.tolist() == [0.25, 1]
    assert nine.people.frame.tolist() == [2]
    assert not ten.has_class
    assert (ten.class_id[0], ten.visibility[0], ten.flag[0]) == (1, 1.0, 0)
    assert len(ten.people) == 0


def test_every_flag_but_0_counts(tmp_path: Path) -> None:
    text = "".join(f"1,{i},5,6,7,8,{flag},1,1\n" for i, flag in enumerate((-1, 0, 1, 2), 1))
    assert read_annotations(write(tmp_path / "gt.txt", text), INFO).people.track_id.tolist() == [1, 3, 4]


@pytest.mark.parametrize("text", [ROW + "2,3,-1.25,6,7,8.5,0,12,0.12345\n", ROW15], ids=["9 columns", "10 columns"])
def test_written_gt_reads_back_the_same(text: str, tmp_path: Path) -> None:
    first = read_annotations(write(tmp_path / "gt.txt", text), INFO)
    written = format_annotations(first)
    second = read_annotations(write(tmp_path / "again.txt", written), INFO)
    assert written == text
    np.testing.assert_array_equal(first.ltwh, second.ltwh)
    assert first.has_class == second.has_class


def test_detections(tmp_path: Path) -> None:
    file = write(tmp_path / "det.txt", "2,-1,5,6,7,8,-0.5,-1,-1,-1\n1,-1,1.5,2,3,4,24.256\n")
    found = read_detections(file, INFO)
    assert found.frame.tolist() == [1, 2]
    assert found.score.tolist() == [24.256, -0.5]
    assert format_detections(found).splitlines()[0] == "1,-1,1.5,2,3,4,24.256,-1,-1,-1"
    with pytest.raises(UserError, match=r"det\.txt:1: 6 columns"):
        read_detections(write(file, "1,-1,5,6,7,8\n"))
    with pytest.raises(UserError, match=r"det\.txt:1: frame 11 is past"):
        read_detections(write(file, "11,-1,5,6,7,8,1\n"), INFO)


def test_seqinfo_is_read_by_key(tmp_path: Path) -> None:
    text = "[Sequence]\nimHeight=50\nIMWIDTH = 100\nimExt=.jpg\nseqLength=10\nname=other\n"
    write(tmp_path / "seqinfo.ini", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    info = read_sequence_info(tmp_path)
    assert info == SequenceInfo(name=tmp_path.name, num_frames=10, width=100, height=50, frame_rate=30.0)
    write(tmp_path / "seqinfo.ini", format_sequence_info(info))
    assert read_sequence_info(tmp_path) == info


WHOLE = "[Sequence]\nseqLength=10\nimWidth=100\nimHeight=50\n"
LENIENT = {  # text, what is read
    "length only": ("[Sequence]\nname=B\nseqLength=10\n", {"width": 0, "height": 0}),
    "section in lower case": (WHOLE.replace("Seq", "seq", 1), {}),
    "comments": (WHOLE.replace("=100", "=100 ; wide") + "# end\nframeRate=25 # of the camera\n", {"frame_rate": 25}),
    "extension without a dot": (WHOLE + "imExt=jpg\n", {"image_ext": ".jpg"}),
    "quotes and an empty value": (WHOLE + 'imDir="frames"\nframeRate=\n', {"image_dir": "frames"}),
}


@pytest.mark.parametrize("case", LENIENT)
def test_seqinfo_may_be_written_in_many_ways(case: str, tmp_path: Path) -> None:
    text, said = LENIENT[case]
    write(tmp_path / "seqinfo.ini", text)
    expected = replace(INFO, **{"name": tmp_path.name, "image_ext": "", **said})  # type: ignore[arg-type]
    assert read_sequence_info(tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "missing; a sequence needs"),
        ("name=A\n", "not an ini file"),
        ("[Other]\nseqLength=3\n", "no section"),
        ("[Sequence]\nimWidth=4\nimHeight=4\n", "no seqLength"),
        ("[Sequence]\nseqLength=0\nimWidth=4\nimHeight=4\n", "seqLength must be a positive"),
        ("[Sequence]\nseqLength=3\nimWidth=wide\nimHeight=4\n", "imWidth must be a positive"),
        ("[Sequence]\nseqLength=3.5\nimWidth=4\nimHeight=4\n", "seqLength must be a positive"),
    ],
    ids=["missing", "no ini", "no section", "no length", "no frames", "letters", "fraction"],
)
def test_bad_seqinfo_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        write(tmp_path / "seqinfo.ini", text)
    with pytest.raises(UserError, match=message) as caught:
        read_sequence_info(tmp_path)
    assert str(tmp_path / "seqinfo.ini") in str(caught.value)


NAMES = ("MOT17-02-DPM", "MOT17-02-FRCNN", "MOT17-02-SDP", "MOT17-04-DPM", "MOT17-04-SDP", "TUD-Campus")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), ["MOT17-02-FRCNN", "MOT17-04-SDP", "TUD-Campus"]),
        (("MOT17-02-DPM",), ["MOT17-02-DPM"]),
        (("MOT17-04", "MOT17-02"), ["MOT17-02-FRCNN", "MOT17-04-SDP"]),
        (("TUD-Campus", "TUD-Campus"), ["TUD-Campus"]),
    ],
    ids=["one copy each", "a copy by name", "by video", "named twice"],
)
@pytest.mark.parametrize("inside", [".", "train"])
def test_one_detector_copy_of_each_video(
    wanted: tuple[str, ...], expected: list[str], inside: str, tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / inside / name / "img1").mkdir(parents=True)
    (tmp_path / inside / "notes").mkdir()
    assert [f.name for f in find_sequences(tmp_path, wanted)] == expected


def test_sequences_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_sequences(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no sequences"):
        find_sequences(tmp_path)
    for name in NAMES:
        (tmp_path / name / "img1").mkdir(parents=True)
    with pytest.raises(UserError, match="no sequence 'MOT17-03'; there are MOT17-02-FRCNN"):
        find_sequences(tmp_path, ["MOT17-03"])
    with pytest.raises(UserError, match="copies of one video"):
        find_sequences(tmp_path, ["MOT17-02-DPM", "MOT17-02-SDP"])
    (tmp_path / "TUD-Campus" / "seqinfo.ini").touch()
    with pytest.raises(UserError, match=f"did you mean {tmp_path}"):
        find_sequences(tmp_path / "TUD-Campus")


REAL = {  # shared/data/README.md: frames, boxes that count
    "KITTI-17": (145, 683), "MOT17-09-DPM": (525, 5325), "PETS09-S2L1": (795, 4476), "TUD-Campus": (71, 359),
    "MOT17-02-FRCNN": (4, None), "MOT17-04-FRCNN": (8, None), "MOT17-05-FRCNN": (6, None),
    "MOT17-10-FRCNN": (5, None), "MOT17-13-FRCNN": (5, None),
}  # fmt: skip


def test_real_sequences_read_and_validate(mot_root: Path) -> None:
    folders = find_sequences(mot_root)
    assert {f.name for f in folders} == set(REAL)
    for folder in folders:
        info = validate_sequence(folder).info
        found = read_annotations(folder / "gt" / "gt.txt", info)
        frames, boxes = REAL[folder.name]
        assert info.num_frames == frames
        assert found.has_class == folder.name.startswith("MOT17")
        assert boxes is None or len(found.people) == boxes
        assert format_annotations(found).count("\n") == len(found)
