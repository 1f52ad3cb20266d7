"""Folders of ground truth and results: what is counted, what is ignored, and what is a mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from motrlab.data.motchallenge import Annotations, format_annotations
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, evaluate, evaluate_folders
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tracks import Tracks, write_tracks

FOUR = range(1, 5)


@pytest.fixture
def gt(make_gt: Callable) -> Annotations:
    """One person in four frames, and a car."""
    return make_gt([(frame, 1, 0) for frame in FOUR] + [(frame, 2, 50, 1, 3) for frame in FOUR])


@pytest.fixture
def pred(make_pred: Callable) -> Tracks:
    """Three of the person's boxes."""
    return make_pred([(frame, 9, 0) for frame in FOUR if frame != 3])


def write_gt(root: Path, gt: Annotations, *names: str, info: str = "") -> Path:
    for name in names:
        (root / name / "gt").mkdir(parents=True)
        (root / name / "gt" / "gt.txt").write_text(format_annotations(gt))
        if info:
            (root / name / "seqinfo.ini").write_text(f"[Sequence]\n{info}")
    return root


def write_pred(root: Path, pred: Tracks, *names: str) -> Path:
    for name in names:
        write_tracks(root / name, pred)
    return root


@pytest.mark.parametrize("info", ["", "name=A\nseqLength=4\n", "seqLength=4\nimWidth=640\nimHeight=480\n"])
def test_folders_give_what_arrays_give(tmp_path: Path, gt: Annotations, pred: Tracks, info: str) -> None:
    """With or without a seqinfo.ini, which need not say more than the length."""
    folders = write_gt(tmp_path / "gt", gt, "A", "B", info=info), write_pred(tmp_path / "pred", pred, "A.txt")
    for protocol in PROTOCOLS:
        results = evaluate_folders(*folders, protocol)
        assert results == evaluate({"A": gt, "B": gt}, {"A": pred}, protocol)
        assert results["B"]["fn"] == results["B"]["num_gt"] > 0


@pytest.mark.parametrize(("layout", "sub"), [("data/A.txt", ""), ("A.TXT", ""), ("A.txt", "train")])
def test_layouts_of_other_tools(tmp_path: Path, gt: Annotations, pred: Tracks, layout: str, sub: str) -> None:
    """TrackEval's folder of a tracker, upper case, MOT17's own folder as --gt."""
    write_gt(tmp_path / "gt" / sub, gt, "A")
    assert evaluate_folders(tmp_path / "gt", write_pred(tmp_path / "pred", pred, layout))["A"]["fn"] == 1


def test_what_is_no_result_is_passed_over(
    tmp_path: Path, gt: Annotations, pred: Tracks, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gt(tmp_path / "gt", gt, "A", "._A")
    folder = write_pred(tmp_path / "pred", pred, "A.txt")
    (folder / "._A.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "README.txt").write_text("made on a Monday\n")
    (folder / "latin.txt").write_bytes(b"fran\xe7ais")
    (folder / "pedestrian_summary.txt").write_text("HOTA DetA AssA DetRe DetPr AssRe\n60 60 60 60 60 60\n")
    (folder / "A.csv").write_text("1,2,3")
    assert list(evaluate_folders(tmp_path / "gt", folder)) == ["A", OVERALL]
    told = capsys.readouterr().err
    assert all(word in told for word in ("README", "latin", "summary"))
    assert not any(word in told for word in ("._A", "csv"))


def test_copies_without_results_are_left_out(
    tmp_path: Path, gt: Annotations, pred: Tracks, capsys: pytest.CaptureFixture[str]
) -> None:
    """MOT17/train has each video three times. One that no copy has results of is missed once, not three times."""
    names = [f"MOT17-{video}-{detector}" for video in ("02", "04") for detector in ("DPM", "FRCNN", "SDP")]
    root = write_gt(tmp_path / "gt", gt, *names, "STREET-01")
    results = evaluate_folders(root, write_pred(tmp_path / "pred", pred, "MOT17-02-SDP.txt"))
    assert list(results) == ["MOT17-02-SDP", "MOT17-04-SDP", "STREET-01", OVERALL]
    assert (results[OVERALL]["num_gt"], results[OVERALL]["fn"]) == (12, 9)
    assert "left out" in (told := capsys.readouterr().err)
    assert "MOT17-02-DPM" in told
    assert "no results, so all of it counts as missed: MOT17-04-SDP, STREET-01" in told
    write_pred(tmp_path / "pred", pred, "MOT17-02-DPM.txt")
    assert list(evaluate_folders(root, tmp_path / "pred"))[:2] == ["MOT17-02-DPM", "MOT17-02-SDP"]


def test_nobody_who_counts_is_said(tmp_path: Path, pred: Tracks, capsys: pytest.CaptureFixture[str],
                                   make_gt: Callable) -> None:  # fmt: skip
    write_gt(tmp_path / "gt", make_gt([(frame, 1, 0, 1, 0) for frame in FOUR]), "A")
    results = evaluate_folders(tmp_path / "gt", write_pred(tmp_path / "pred", pred, "A.txt"))
    assert (results[OVERALL]["num_gt"], results[OVERALL]["mota"]) == (0, -3)
    assert "no box of the ground truth counts under motchallenge" in (told := capsys.readouterr().err)
    assert "class 0 with flag 1 (4 boxes)" in told
    (tmp_path / "gt/A/gt/gt.txt").write_text("")
    evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    assert "no box of the ground truth counts under motchallenge; it has none at all" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["B", "B/gt", "B/gt/gt.txt", "B/seqinfo.ini"])
def test_a_link_that_leads_nowhere_is_not_left_out(tmp_path: Path, gt: Annotations, pred: Tracks, lost: str) -> None:
    root = write_gt(tmp_path / "gt", gt, "A", "B", info="seqLength=4\n")
    (root / lost).rename(tmp_path / "old")
    (root / lost).symlink_to("gone")
    (root / "README.md").symlink_to("gone")
    with pytest.raises(UserError, match=f"{lost}.* a link to gone, which is not there"):
        evaluate_folders(root, write_pred(tmp_path / "pred", pred, "A.txt"))


MISTAKES = {  # what lies in the result folder: what the message says
    "nothing": ((), r"pred: no results; .*A\.txt"),
    "only a subfolder": (("tracker/A.txt",), r"pred: no results"),
    "an unknown sequence": (("A.txt", "B.txt"), r"B\.txt: predictions of 'B', but no ground truth of it; there is A"),
    "two of one sequence": (("A.TXT", "A.txt"), r"A\.TXT and A\.txt: two results"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_the_result_folder(tmp_path: Path, gt: Annotations, pred: Tracks, name: str) -> None:
    files, message = MISTAKES[name]
    (tmp_path / "pred").mkdir()
    write_pred(tmp_path / "pred", pred, *files)
    with pytest.raises(UserError, match=message):
        evaluate_folders(write_gt(tmp_path / "gt", gt, "A"), tmp_path / "pred")


def test_missing_folders_and_frames_past_the_end(tmp_path: Path, gt: Annotations, pred: Tracks) -> None:
    write_gt(tmp_path / "gt", gt, "A", info="seqLength=4\nimWidth=640\nimHeight=480\n")
    with pytest.raises(UserError, match=r"pred: no such folder"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    write_pred(tmp_path / "pred", Tracks(pred.frame + 1, pred.track_id, pred.ltwh, pred.score), "A.txt")
    with pytest.raises(UserError, match=r"A\.txt: a box in frame 5, but A has 4 frames"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    with pytest.raises(UserError, match=r"no SEQ/gt/gt\.txt"):
        evaluate_folders(tmp_path / "pred", tmp_path / "pred")
