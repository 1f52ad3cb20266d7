"""Raw pictures through the deployed tracker against the evaluation from packed ones."""

from __future__ import annotations

import json
import shutil
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.run import Run
from motrlab.stages import alignment
from motrlab.stages.data import open_store


@pytest.fixture
def run(converted: Run) -> Run:
    return converted


def aligned(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    try:
        status = main(["align", "--run", "tiny", *more])
    except SystemExit as ended:
        status = int(str(ended.code))
    return status, json.loads(capsys.readouterr().out)


def test_the_originals_give_the_tracks_of_the_evaluation(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = aligned(capsys)
    assert (status, found["source"], found["pixels"]) == (0, "files", "bgr")
    assert found["num_files"] == found["equal_files"] == 2
    assert found["num_frames"] == 24
    record = json.loads((run.path / "records.jsonl").read_text().splitlines()[-1])
    assert (record["stage"], record["kind"], record["metrics"]) == ("fixed_point", "alignment", found)
    assert sum(len(p.read_text().splitlines()) for p in run.tracks("fixed_point").glob("*.txt")) > 20


def test_without_the_originals_the_packed_bytes_are_written_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run.data / "street")
    status, found = aligned(capsys)
    assert (status, found["source"], found["equal_files"]) == (0, "packed", 2)


def test_another_picture_is_found(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    name = open_store(run).sequences[1].name
    file = run.data / "street" / name / "img1" / "000017.jpg"  # frame 5 of the test half
    image = cv2.imread(str(file))
    assert image is not None
    cv2.imwrite(str(file), 255 - image)
    status, found = aligned(capsys)
    assert (status, found["equal_files"]) == (1, 1)
    assert (found["sequence"], found["frame"], found["what"]) == (name, 5, "pixels")
    assert 0 <= found["slot"] < run.config.model.num_slots
    assert found["pixels_different"] > 1000
    assert 0 < found["idf1"] <= 1  # of random weights


def test_stored_tracks_that_were_made_otherwise_are_found(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "require_tracks", lambda run, stage: None)
    file = sorted(run.tracks("fixed_point").glob("*.txt"))[0]
    lines = file.read_text().splitlines()
    frame = lines[7].split(",")[0]
    lines[7] = f"{frame},999,1.000,1.000,5.000,5.000,0.90000,-1,-1,-1"
    file.write_text("\n".join(lines) + "\n")
    status, found = aligned(capsys)
    assert (status, found["what"], found["slot"]) == (1, "tracks", -1)
    assert found["sequence"] == file.stem
    assert str(found["frame"]) == frame
    assert found["stored"] == lines[7] != found["raw"]


def test_frames_of_a_camera(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its chroma is halved, so the tracks are others, and how far is said."""
    status, found = aligned(capsys, "--nv12")
    assert found["pixels"] == "nv12"
    if status:
        assert found["what"] == "pixels"
        assert 0 <= found["idf1"] <= 1
        assert np.isfinite(found["mota"])
