"""The library: one frame after another, in a process that has NumPy, OpenCV and ONNX Runtime only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.data.preprocess import bgr_to_nv12
from motrlab.deploy.measuring import street_frames
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.runtime import PIXELS, Tracker, Tracks
from motrlab.shipped import shipped_artifact
from motrlab.tracking import identity

ALONE = """
import sys
class Block:  # what is neither of Python nor of these is not installed; google: protobuf, which ONNX Runtime brings
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"motrlab", "numpy", "cv2", "onnxruntime", "google", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
LIBRARY = (
    ALONE
    + """
import json, time
from motrlab.runtime import Tracker
import motrlab.deploy.kernels as kernels
import numpy as np
frames, found = np.load(sys.argv[1]), []
for saturates in (False, True):  # the form for processors without VNNI needs no package onnx either
    kernels.may_saturate = lambda: saturates
    tracker = Tracker()
    found.append([[int(i) for i in tracker.update(frame).track_id] for frame in frames])
print(json.dumps(found))
"""
)
VERB = (
    ALONE
    + """
from motrlab.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
)


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    return street_frames(24)


@pytest.fixture(scope="module")
def expected(frames: list[Any]) -> list[Any]:
    return list(load_artifact(shipped_artifact()).track(frames))


@pytest.fixture(scope="module")
def shared() -> Tracker:
    """Some tests have only a few frames for it; they begin with a reset."""
    return Tracker()


def alone(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def assert_same(found: Tracks, expected: Any) -> None:
    for field in ("track_id", "ltwh", "score"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_frame_by_frame_is_what_the_whole_sequence_gives(frames: list[Any], expected: list[Any]) -> None:
    tracker = Tracker(num_threads=2)
    for _ in range(2):  # a reset leaves nothing
        for number, (frame, tracks) in enumerate(zip(frames, expected, strict=True), 1):
            found = tracker.update(frame)
            assert_same(found, tracks)
            assert set(found.frame.tolist()) <= {number}
        tracker.reset()
    assert sum(len(tracks.track_id) for tracks in expected) > 50


def test_it_runs_where_nothing_else_is_installed(frames: list[Any], expected: list[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.stack(frames))
    done = alone(LIBRARY, tmp_path / "frames.npy")
    assert done.returncode == 0, done.stderr
    ids = [tracks.track_id.tolist() for tracks in expected]
    assert json.loads(done.stdout) == [ids, ids]


def test_so_does_the_verb(frames: list[Any], expected: list[Any], tmp_path: Path) -> None:
    raw = tmp_path / "camera.nv12"
    raw.write_bytes(b"".join(bgr_to_nv12(frame).tobytes() for frame in frames[:5]))
    done = alone(VERB, "track", "--input", raw, "--nv12", "480x270", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    where = f"motrlab: {tmp_path}/out/camera.mp4"
    assert done.stderr == f"{where}: not written, because PyAV is not installed; pip install av\n"
    assert sorted(p.name for p in (tmp_path / "out").glob("*")) == [".motrlab_track", "camera.txt"]
    assert done.stdout.startswith("5 frames, ")


def test_a_folder_of_pictures_is_tracked_and_the_missing_check_is_said(frames: list[Any], tmp_path: Path) -> None:
    for number, frame in enumerate(frames[:3]):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), frame)
    done = alone(VERB, "track", "--input", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 frames, ")
    line, _ = done.stderr.splitlines()  # the other is on the video
    assert line.endswith("pictures are not checked for damage inside; this needs pip install 'motrlab[kit]'")


def test_a_verb_that_needs_more_says_so(tmp_path: Path) -> None:
    done = alone(VERB, "perf", "--artifact", shipped_artifact())
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().endswith("pip install 'motrlab[kit]'")
    assert len(done.stderr.splitlines()) == 1


def test_ids_are_never_used_again(frames: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is lost again and again, too long to be remembered."""
    remembered = 30
    monkeypatch.setattr(identity, "REMEMBERED", remembered)
    tracker, last = Tracker(), 0
    gone: set[int] = set()
    present: set[int] = set()
    blank = np.zeros_like(frames[0])
    cycle = 10 + remembered + 30
    for index in range(3 * cycle):
        ids = set(tracker.update(frames[index % 8] if index % cycle < 10 else blank).track_id.tolist())
        assert not ids & gone
        gone |= present - ids if index % cycle == cycle - 1 else set()
        present = ids or present
        last = max(ids | {last})
    assert last > 10


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((270, 480), np.uint8), r"frame 3: 270×480 is grey .*BGR, uint8 \[H, W, 3\]"),
        (np.zeros((270, 480, 1), np.uint8), "frame 3: 270×480×1 is grey"),
        (np.zeros((270, 480, 4), np.uint8), "frame 3: an array 270×480×4; give BGR"),
        (np.zeros((270, 480, 3), np.uint16), "frame 3: 16 bits a value: scale them to 8; give BGR"),
        (np.zeros((270, 480, 3), np.float32), "frame 3: values are float32; give BGR"),
        (np.zeros((0, 480, 3), np.uint8), "frame 3: an empty picture"),
        (None, "frame 3: NoneType, no picture; give BGR"),
        (np.zeros((480, 270, 3), np.uint8), r"frame 3: 270×480 pixels, the first frame had 480×270; call reset\(\)"),
    ],
    ids=["grey", "one channel", "alpha", "16 bits", "float", "empty", "none", "another size"],
)
def test_a_bad_frame_is_one_line_and_costs_nothing(
    frame: Any, message: str, shared: Tracker, frames: list[Any], expected: list[Any]
) -> None:
    shared.reset()
    for good in frames[:2]:
        shared.update(good)
    with pytest.raises(UserError, match=message):
        shared.update(frame)
    assert_same(shared.update(frames[2]), expected[2])


def test_an_interrupted_frame_ends_the_sequence(
    frames: list[Any], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker()
    tracker.update(frames[3])
    with monkeypatch.context() as patch:
        patch.setattr("motrlab.tracking.tracker.Tracker.update", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tracker.update(frames[4])
    assert_same(tracker.update(frames[0]), expected[0])


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_is_no_nv12() -> None:
    tracker = Tracker(pixels="nv12")
    for shape in ((406, 480), (405, 481), (405, 480, 3)):
        with pytest.raises(UserError, match="is no NV12 picture; give NV12"):
            tracker.update(np.zeros(shape, np.uint8))


def test_a_camera_of_nv12(frames: list[Any]) -> None:
    """Boxes are in pixels of the picture, whose height is two thirds of the array's. Video range is stretched."""
    full, video, bgr = (Tracker(pixels=pixels) for pixels in ("nv12", "nv12-video", "bgr"))
    assert {t.pixels for t in (full, video, bgr)} == set(PIXELS)
    for frame in frames[:12]:
        nv12 = bgr_to_nv12(frame)
        limited = np.concatenate((nv12[:270] * (219 / 255) + 16, (nv12[270:] - 128.0) * (224 / 255) + 128))
        found = full.update(nv12), video.update(np.rint(limited).astype(np.uint8)), bgr.update(frame)
    assert len(found[2]) > 5
    for other in found[:2]:
        off = np.abs(found[2].ltwh[:, None] - other.ltwh).max(-1).min(1)  # of each box to the nearest
        assert (off < 6).mean() > 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"artifact": "no/such"}, "no/such: no such artefact folder"),
        ({"pixels": "rgb"}, "unknown pixels 'rgb': one of bgr, nv12, nv12-video"),
        ({"num_threads": 0}, "num_threads must be at least 1"),
        ({"options": {"spin": 1}}, "no session option 'spin'"),
        ({"providers": ["NoSuchExecutionProvider"]}, "has no NoSuchExecutionProvider; it has .*CPUExecutionProvider"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tracker(**arguments)


def test_options_reach_onnxruntime(frames: list[Any], expected: list[Any]) -> None:
    options = {"session.intra_op.allow_spinning": "0", "enable_mem_pattern": False}
    tracker = Tracker(options=options, providers=["CPUExecutionProvider"])
    assert_same(tracker.update(frames[0]), expected[0])
