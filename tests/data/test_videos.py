from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

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
    write(tmp_path / "tracks.mp4", *[(48, 64)] * 7)
    video = cv2.VideoCapture(str(tmp_path / "tracks.mp4"))
    levels = []
    while (read := video.read())[0]:
        levels.append(float(read[1].mean()))
    assert len(levels) == 7
    assert levels == sorted(levels)
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(15)
    assert [p.name for p in tmp_path.iterdir()] == ["tracks.mp4"]


@pytest.mark.parametrize("fps", [66.667, 211.222, 999.99, 0.0001, 1e6, 30000 / 1001, 12.5])
def test_any_frame_rate(fps: float, tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", (48, 64), (48, 64), fps=fps)
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=1e-6)


@pytest.mark.parametrize("shape", [(16, 9000), (20000, 32), (9, 33), (1, 1)])
def test_any_size(shape: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", shape, shape)
    frame = cv2.VideoCapture(str(tmp_path / "a.mp4")).read()[1]
    assert frame is not None
    assert frame.shape[:2] == shape


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


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.3])
def test_ctrl_c_at_any_moment_leaves_a_video(seconds: float, tmp_path: Path) -> None:
    """A frame may be in the file that was not yet counted."""
    video, random = VideoFile(tmp_path / "x.mp4", 15), np.random.default_rng(0)
    frame = random.integers(0, 255, (96, 128, 3)).astype(np.uint8)
    video.write(frame)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        for _ in iter(int, 1):  # for ever
            video.write(frame)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGALRM, before)
    video.close()
    reader = cv2.VideoCapture(str(tmp_path / "x.mp4"))
    found = 0
    while reader.read()[0]:
        found += 1
    assert 0 <= found - video.num_frames <= 1


@pytest.mark.parametrize(("name", "shape"), [("x.notavideo", (48, 64)), ("x.mp4", (1, 70000))])
def test_what_cannot_be_written_is_a_user_error_at_the_end(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name}: PyAV cannot write this video"):
        write(tmp_path / name, shape, shape)
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
        print("needs a name in UTF-8; rename it" in str(error))
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
    assert "x.mp4: cannot be written (File too large); free some space and run again" in result.stderr
    assert list(tmp_path.iterdir()) == []
