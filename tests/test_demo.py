"""A first try: the demo video, tracked, played in a browser."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.videos import VideoFile, open_source
from motrlab.demo import track_demo, write_demo_video
from motrlab.errors import UserError
from motrlab.evaluation.tracks import read_tracks
from motrlab.track import track

PAGE = """<!doctype html><video id=v muted autoplay src=VIDEO></video><script>
const tell = (what) => {
  const paper = Object.assign(document.createElement('canvas'), {width: v.videoWidth, height: v.videoHeight});
  paper.getContext('2d').drawImage(v, 0, 0);
  const pixel = v.videoWidth ? [...paper.getContext('2d').getImageData(9, 9, 1, 1).data].slice(0, 3) : [];
  fetch('/told?' + new URLSearchParams({what, ready: v.readyState, width: v.videoWidth, height: v.videoHeight,
    seconds: v.duration, frames: v.getVideoPlaybackQuality().totalVideoFrames, rgb: pixel}));
};
v.onerror = () => tell('error: ' + v.error.message);
v.onended = () => tell('ended');
</script>"""


class Server(SimpleHTTPRequestHandler):
    """The files of a folder; what a page tells is kept."""

    def do_GET(self) -> None:
        if self.path.startswith("/told?"):
            self.server.told = {k: v[0] for k, v in parse_qs(urlparse(self.path).query).items()}  # type: ignore[attr-defined]
            self.server.has_told.set()  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def played(chromium: str, video: Path, profile: Path) -> dict[str, str]:
    """What a browser says when it has played the video to its end."""
    (video.parent / "page.html").write_text(PAGE.replace("VIDEO", video.name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(video.parent))) as server:
        server.has_told = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        page = f"http://127.0.0.1:{server.server_port}/page.html"
        browser = subprocess.Popen([chromium, *flags, page], stderr=subprocess.DEVNULL)
        try:
            assert server.has_told.wait(120), "the browser did not come to the end"  # type: ignore[attr-defined]
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
        return server.told  # type: ignore[attr-defined, no-any-return]


@pytest.mark.browser
@pytest.mark.parametrize("size", [(65, 49), (1920, 1080)], ids=str)
def test_a_browser_plays_what_is_written(size: tuple[int, int], chromium: str, tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "a.mp4", 20)
    for _ in range(10):
        video.write(np.full((size[1], size[0], 3), (40, 120, 200), np.uint8))
    video.close()
    told = played(chromium, tmp_path / "a.mp4", tmp_path / "profile")
    assert told["what"] == "ended"
    assert (int(told["width"]), int(told["height"]), float(told["seconds"])) == (*size, pytest.approx(0.5, abs=0.06))
    assert np.abs(np.subtract([int(v) for v in told["rgb"].split(",")], (200, 120, 40))).max() < 12


@pytest.mark.browser
def test_a_browser_plays_the_tracked_demo(chromium: str, tmp_path: Path) -> None:
    write_demo_video(tmp_path / "street.mp4", num_frames=20)
    track(None, tmp_path / "street.mp4", tmp_path / "out")
    told = played(chromium, tmp_path / "out" / "street.mp4", tmp_path / "profile")
    assert (told["what"], told["width"], told["height"]) == ("ended", "960", "540")
    assert int(told["ready"]) >= 2


def test_a_new_user_gets_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The command that `demo-video` prints is the next one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(write_demo_video.__kwdefaults__, "num_frames", 40)
    assert main(["demo-video", "my street.mp4"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "my street.mp4: 40 frames of 480×270, 15 a second"
    assert last == "now: python -m motrlab track --input 'my street.mp4' --out tracked"
    assert main(["track", "--input", "my street.mp4", "--out", "tracked"]) == 0
    assert capsys.readouterr().out.startswith("40 frames, ")
    tracks = read_tracks(tmp_path / "tracked" / "my street.txt")
    assert np.unique(tracks.track_id).size >= 5
    assert cv2.VideoCapture("tracked/my street.mp4").get(cv2.CAP_PROP_FRAME_COUNT) == 40


def test_the_demo_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_demo_video(tmp_path / "new" / f"{name}.mp4", seed=seed, num_frames=4)
    a, b, c = (np.stack([image for _, image in open_source(tmp_path / "new" / f"{n}.mp4").frames]) for n in "abc")
    assert a.shape == (4, 270, 480, 3)
    np.testing.assert_array_equal(a, b)
    assert (a != c).mean() > 0.1


def test_the_demo_is_tracked_at_once() -> None:
    """The first picture of notebook 01: what the weights that come with motrlab can do, without any training."""
    pictures, scores = track_demo(16)
    assert [picture.shape for picture in pictures] == [(540, 960, 3)] * 16
    assert scores["num_gt"] > 50
    assert scores["mota"] > 0.6


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(UserError, match=r"a\.mp4: already there; remove it, or give another name"):
        write_demo_video(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_text() == "mine"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_only(terminal: bool, tmp_path: Path) -> None:
    write_demo_video(tmp_path / "a.mp4", num_frames=6)
    arguments = ["track", "--input", str(tmp_path / "a.mp4"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "motrlab", *arguments]
    if not terminal:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    subprocess.run(command, stderr=follower, stdout=subprocess.DEVNULL, check=True)
    os.close(follower)
    said = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert "track:" in said
    assert "6/6" in said
