from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.data.videos import VideoFile
from motrlab.errors import UserError


def write(path: Path, *shapes: tuple[int, int], fps: float = 15) -> VideoFile:
    """Frames from black to bright."""
    video = VideoFile(path, fps)
    for number, shape in enumerate(shapes):
        video.write(np.full((*shape, 3), 20 * number, np.uint8))
    video.close()
    return video


def test_a_video_can_be_read_back(tmp_path: Path) -> None:
    assert write(tmp_path / "tracks.mp4", *[(48, 64)] * 7).notes == []
    video = cv2.VideoCapture(str(tmp_path / "tracks.mp4"))
    levels = []
    while (read := video.read())[0]:
        levels.append(float(read[1].mean()))
    assert len(levels) == 7
    assert levels == sorted(levels)
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(15)
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.mp4"]


@pytest.mark.parametrize(
    ("fps", "written"),
    [
        (66.667, 66.67),
        (211.222, 211.22),
        (999.99, 1000),
        (0.0001, 0.01),
        (1e6, 65535),
        (29.97002997, 29.97),
        (12.5, 12.5),
    ],
)
def test_a_rate_that_mpeg4_does_not_take_gives_way_to_the_nearest(fps: float, written: float, tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", (48, 64), (48, 64), fps=fps)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(written)
    assert bool(video.notes) == (abs(fps - written) > 1e-3)
    assert all(f"{written:g} frames a second; MPEG-4 does not take {fps:g}" in note for note in video.notes)


@pytest.mark.parametrize(
    ("shape", "written"), [((16, 9000), (14, 8190)), ((20000, 32), (8190, 13)), ((9, 33), (8, 32))]
)
def test_a_size_that_mpeg4_does_not_take_is_made_smaller(
    shape: tuple[int, int], written: tuple[int, int], tmp_path: Path
) -> None:
    video = write(tmp_path / "a.mp4", shape, shape)
    frame = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[1]
    assert frame is not None
    assert np.abs(np.subtract(frame.shape[:2], written)).max() <= 1  # the encoder leaves an odd row or column out
    assert [f"MPEG-4 does not take {shape[1]}×{shape[0]}" in note for note in video.notes] == [True] * (
        max(shape) > 8190
    )


def test_frames_of_another_size_are_a_user_error_and_the_others_are_kept(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "x.mp4", 15)
    video.write(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(UserError, match=r"frame 2 is \(66, 48\), the first \(64, 48\)"):
        video.write(np.zeros((48, 66, 3), np.uint8))
    video.close()
    assert cv2.VideoCapture(str(tmp_path / "x.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 1


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    write(tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


OPENCV_WRITER = cv2.VideoWriter


class InterruptedWriter:
    """Python answers a signal when the encoder has returned: a frame is in the file, but not yet counted."""

    fourcc = cv2.VideoWriter.fourcc

    def __init__(self, *arguments: Any) -> None:
        self._writer = OPENCV_WRITER(*arguments)
        self.isOpened, self.release = self._writer.isOpened, self._writer.release

    def write(self, image: Any) -> None:
        self._writer.write(image)
        if image.max() > 50:
            raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_frame_leaves_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoWriter", InterruptedWriter)
    video = VideoFile(tmp_path / "x.mp4", 15)
    for level in (0, 20, 40):
        video.write(np.full((48, 64, 3), level, np.uint8))
    with pytest.raises(KeyboardInterrupt):
        video.write(np.full((48, 64, 3), 60, np.uint8))
    video.close()
    assert cv2.VideoCapture(str(tmp_path / "x.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


def test_without_an_encoder_it_is_a_user_error_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.notavideo: OpenCV cannot write this video"):
        write(tmp_path / "x.notavideo", (48, 64), (48, 64))
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_utf8_is_a_user_error(tmp_path: Path) -> None:
    """In a process of its own: OpenCV crashes on it."""
    code = f"""
from pathlib import Path
from motrlab.data.videos import VideoFile, open_source
from motrlab.errors import UserError
file = Path({str(tmp_path)!r}) / "x\\udcff.mp4"
file.touch()
for use in (open_source, lambda path: VideoFile(path, 15)):
    try:
        use(file)
    except UserError as error:
        print("not UTF-8; rename it" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["True", "True"], result


def test_a_video_that_the_disk_cuts_is_removed(tmp_path: Path) -> None:
    code = f"""
import resource
import numpy as np
from pathlib import Path
from motrlab.data.videos import VideoFile
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
video, random = VideoFile(Path({str(tmp_path / "x.mp4")!r}), 15), np.random.default_rng(0)
for _ in range(30):
    video.write(random.integers(0, 255, (96, 128, 3)).astype(np.uint8))
video.close()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError" in result.stderr
    assert "x.mp4: the video could not be written whole; is the disk full?" in result.stderr
    assert list(tmp_path.iterdir()) == []
