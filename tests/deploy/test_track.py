from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.motchallenge import SequenceInfo, format_sequence_info
from motrlab.data.preprocess import bgr_to_nv12
from motrlab.data.videos import VideoFile, open_source
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import read_tracks
from motrlab.track import track

LOADED = cache(load_artifact)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime keeps nothing of a sequence (`test_runtime.py`)."""
    monkeypatch.setattr("motrlab.track.load_artifact", LOADED)


def image_folder(folder: Path, images: Any) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / f"frame{number}.png"), image)  # frame10 comes after frame9, not after frame1
    return folder


def sequence_folder(folder: Path, images: Any, ext: str = ".png") -> Path:
    (folder / "img1").mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / "img1" / f"{number:06d}{ext}"), image)
    height, width = images[0].shape[:2]
    info = SequenceInfo(
        name=folder.name, num_frames=len(images), width=width, height=height, frame_rate=12, image_ext=ext
    )
    (folder / "seqinfo.ini").write_text(format_sequence_info(info))
    return folder


def video_file(file: Path, images: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    video = VideoFile(file, 12)
    for image in images:
        video.write(image)
    video.close()
    return file


def video_properties(file: Path) -> tuple[int, float]:
    video = cv2.VideoCapture(str(file))
    frames = 0
    while video.read()[0]:
        frames += 1
    return frames, video.get(cv2.CAP_PROP_FPS)


def shown(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


Source = Callable[[Path, Any], Path]
SOURCES = {
    "images": (image_folder, "in", 30),
    "sequence": (sequence_folder, "SEQ-01", 12),
    "video": (video_file, "in.mp4", 12),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_writes_text_and_video(kind: str, artifact: Path, images: Any, tmp_path: Path) -> None:
    make, name, fps = SOURCES[kind]
    images = images[:5]
    source = make(tmp_path / "source" / name, images)
    found = track(artifact, source, tmp_path / "out")
    assert found["frames"] == len(images)
    stem = name.removesuffix(".mp4")
    tracks = read_tracks(tmp_path / "out" / f"{stem}.txt")
    assert len(tracks) == found["boxes"] > 0
    assert video_properties(tmp_path / "out" / f"{stem}.mp4") == (len(images), fps)
    assert shown(tmp_path / "out") == [f"{stem}.mp4", f"{stem}.txt"]


def test_text_is_what_the_runtime_gives(artifact: Path, images: Any, tmp_path: Path) -> None:
    track(artifact, image_folder(tmp_path / "in", images), tmp_path / "out")
    tracks = read_tracks(tmp_path / "out" / "in.txt")
    expected = list(load_artifact(artifact).track(images))
    for number, found in enumerate(expected, 1):
        rows = tracks.frame == number
        order = np.argsort(found.track_id)
        assert tracks.track_id[rows].tolist() == found.track_id[order].tolist()
        np.testing.assert_allclose(tracks.ltwh[rows], found.ltwh[order], atol=1e-3)


def test_frames_are_written_on_request(artifact: Path, images: Any, tmp_path: Path) -> None:
    images = images[:4]
    source = image_folder(tmp_path / "in", images)
    status = main(
        ["track", "--artifact", str(artifact), "--input", str(source), "--out", str(tmp_path / "out"), "--frames"]
    )
    assert status == 0
    pictures = sorted((tmp_path / "out" / "frames").iterdir())
    assert [p.name for p in pictures] == [f"{n:06d}.png" for n in range(1, len(images) + 1)]
    drawn = cv2.imread(str(pictures[-1]))
    assert drawn is not None
    enlarged = cv2.resize(images[-1], drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert (drawn != enlarged).any()


def test_an_image_folder_is_named_after_its_sequence(images: Any, tmp_path: Path) -> None:
    folder = sequence_folder(tmp_path / "SEQ-01", images[:2])
    assert open_source(folder / "img1").name == "SEQ-01"


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _text_file(folder: Path) -> Path:
    (folder / "notes.mp4").write_text("not a video")
    return folder / "notes.mp4"


def _broken_picture(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "1.png").write_bytes(b"\x89PNG")
    return folder / "pictures"


def _two_sizes(folder: Path) -> Path:
    return image_folder(folder / "sizes", [np.zeros((90, 160, 3), np.uint8), np.zeros((90, 200, 3), np.uint8)])


_NOISE = np.random.default_rng(0).integers(0, 256, (10, 90, 160, 3), np.uint8)
BAD_INPUTS = {
    "no such path": (lambda folder: folder / "absent", "no such file or folder"),
    "no pictures": (_empty_folder, "no pictures"),
    "not a video": (_text_file, "cannot read a frame"),
    "cut MP4": (lambda folder: cut(avi(folder / "in.mp4", _NOISE, "mp4v"), 0.5), "it is cut, damaged, or no video"),
    "broken picture": (_broken_picture, "1.png: PNG file is cut short"),
    "two sizes": (_two_sizes, "frame 2 is"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line(name: str, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = BAD_INPUTS[name]
    arguments = ["track", "--artifact", str(artifact), "--input", str(make(tmp_path)), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_out_that_is_a_file_is_a_user_error(artifact: Path, images: Any, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "in", images[:1])
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out: cannot be written"):
        track(artifact, source, tmp_path / "out")


def test_no_tracks_give_an_empty_file(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import motrlab.track as module

    def strict(folder: Path, **options: Any) -> Any:
        runtime = load_artifact(folder, **options)
        return replace(runtime, tracker=replace(runtime.tracker, birth_score=1.0, output_score=1.0))

    monkeypatch.setattr(module, "load_artifact", strict)
    source = image_folder(tmp_path / "in", [np.zeros((90, 160, 3), np.uint8)] * 2)
    assert track(artifact, source, tmp_path / "out") == {"frames": 2, "boxes": 0, "tracks": 0}
    assert (tmp_path / "out" / "in.txt").read_text() == ""


def frames_of(file: Path) -> list[int]:
    """Frame numbers with a box; the artefact of these tests finds somebody in every frame but the first."""
    return sorted(set(read_tracks(file).frame.tolist()))


def avi(file: Path, images: Any, code: str = "MJPG") -> Path:
    """AVI and Matroska files, unlike MP4, can be read when they are cut: what they hold stands at their beginning."""
    file.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*code), 25, images[0].shape[1::-1])
    for image in images:
        video.write(image)
    video.release()
    return file


def cut(file: Path, share: float) -> Path:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    return file


def blanked(file: Path) -> Path:
    """The middle third of the file lost."""
    data = file.read_bytes()
    third = len(data) // 3
    file.write_bytes(data[:third] + bytes(third) + data[2 * third :])
    return file


DAMAGED = {
    "avi, cut": lambda folder, images: cut(avi(folder / "in.avi", images), 0.5),
    "avi, cut near its end": lambda folder, images: cut(avi(folder / "in.avi", images), 0.85),
    "avi, blanked": lambda folder, images: blanked(avi(folder / "in.avi", images)),
    "mkv, cut": lambda folder, images: cut(avi(folder / "in.mkv", images, "mp4v"), 0.5),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_video_with_fewer_frames_than_it_promises_is_told_and_the_rest_kept(
    kind: str, artifact: Path, images: Any, tmp_path: Path
) -> None:
    source = DAMAGED[kind](tmp_path / "source", images)
    with pytest.raises(UserError, match=r"in\....: (\d) of the 10 frames") as error:
        track(artifact, source, tmp_path / "out")
    assert "tracked frames are in" in str(error.value)
    found = video_properties(tmp_path / "out" / "in.mp4")[0]
    assert f"{found} of the 10" in str(error.value)
    assert 1 < found < 10
    assert frames_of(tmp_path / "out" / "in.txt")[-1] <= found


@pytest.mark.parametrize("name", ["in.avi", "in.mkv"])
def test_a_whole_video_is_no_mistake(
    name: str, artifact: Path, images: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = avi(tmp_path / "source" / name, images, "mp4v" if name == "in.mkv" else "MJPG")
    assert track(artifact, source, tmp_path / "out")["frames"] == len(images)
    assert capfd.readouterr().err == ""


def test_frames_lost_inside_are_said_where_the_file_promises_no_number(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a Matroska file the duration is known: 8 frames too few in 100 may be a sound that is longer."""
    source = avi(tmp_path / "in.mkv", np.resize(_NOISE, (100, 90, 160, 3)), "MJPG")
    assert len(list(open_source(source).frames)) == 100
    assert capfd.readouterr().err == ""
    cut(source, 0.92)
    number = len(list(open_source(source).frames))
    assert 80 < number < 98
    assert f"in.mkv: {number} frames were read, and its duration would hold about 100" in capfd.readouterr().err


def _lose(file: Path, data: bytes) -> None:
    file.unlink()


def _make_empty(file: Path, data: bytes) -> None:
    file.write_bytes(b"")


def _dangle(file: Path, data: bytes) -> None:
    file.unlink()
    file.symlink_to(file.with_name("gone"))


def _blank(file: Path, data: bytes) -> None:
    """libjpeg goes on over this, filling in grey."""
    file.write_bytes(data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :])


LOST = {
    "missing": (_lose, "frame 5 of 10 is missing"),
    "empty": (_make_empty, r"000005\.jpg: not a readable picture"),
    "dangling link": (_dangle, r"000005\.jpg: a link to .*gone, which is not there"),
    "damaged inside": (_blank, r"000005\.jpg: JPEG file is damaged inside"),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_frame_that_is_lost_leaves_the_others_their_numbers(
    kind: str, artifact: Path, images: Any, tmp_path: Path
) -> None:
    lose, message = LOST[kind]
    source = sequence_folder(tmp_path / "SEQ-01", images, ".jpg")
    file = source / "img1" / "000005.jpg"
    lose(file, file.read_bytes())
    with pytest.raises(UserError, match=message):
        track(artifact, source, tmp_path / "out", write_frames=True)
    numbers = [int(Path(name).stem) for name in shown(tmp_path / "out" / "frames")]
    assert numbers == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert set(frames_of(tmp_path / "out" / "SEQ-01.txt")) <= set(numbers)
    assert frames_of(tmp_path / "out" / "SEQ-01.txt")[-1] == 10
    assert video_properties(tmp_path / "out" / "SEQ-01.mp4")[0] == 9


def test_a_sequence_is_not_tracked_past_its_end(
    artifact: Path, images: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = sequence_folder(tmp_path / "SEQ-01", images)
    file = source / "seqinfo.ini"
    file.write_text(file.read_text().replace("seqLength=10", "seqLength=6"))
    assert track(artifact, source, tmp_path / "out")["frames"] == 6
    assert "4 files after frame 6" in capfd.readouterr().err
    opened = open_source(source / "img1")  # the same frames, given by their folder
    assert (opened.num_frames, opened.fps, opened.name) == (6, open_source(source).fps, "SEQ-01")
    assert "4 files after frame 6" in opened.note


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pictures_of_sixteen_bits_are_one_line(suffix: str, images: Any, tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"in/{number}{suffix}"), images[0].astype(np.uint16) << 4)
    told = rf"in/1{suffix}: 16 bits a value: scale them to 8 and write it again \(2 such pictures\)$"
    with pytest.raises(UserError, match=told):
        track(artifact, tmp_path / "in", tmp_path / "out")


def test_grey_pictures_are_tracked_with_a_note(images: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/1.png"), cv2.cvtColor(images[0], cv2.COLOR_BGR2GRAY))
    opened = open_source(tmp_path / "in")
    assert opened.note == f"{tmp_path}/in/1.png: grey pictures are read as three equal channels"
    assert next(opened.frames)[1].shape == images[0].shape


def test_the_pixels_are_tracked_as_they_are_stored(images: Any, tmp_path: Path) -> None:
    """An EXIF orientation asks a viewer to turn the picture; gt is of the stored one."""
    data = cv2.imencode(".jpg", images[0])[1].tobytes()
    tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn right
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(data[:2] + exif + data[2:])
    turned = cv2.imread(str(tmp_path / "in" / "1.jpg"))
    assert turned is not None
    assert turned.shape == (240, 135, 3)
    opened = open_source(tmp_path / "in")
    assert next(opened.frames)[1].shape == (135, 240, 3)
    assert "orientation" in opened.note


def test_the_source_video_is_not_replaced(artifact: Path, images: Any, tmp_path: Path) -> None:
    source = video_file(tmp_path / "in.mp4", images)
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"in\.mp4: the input itself would be replaced; choose another --out"):
        track(artifact, source, tmp_path)
    assert source.read_bytes() == before
    assert shown(tmp_path) == ["in.mp4"]


@pytest.mark.parametrize("there", ["in.txt", "in.mp4", "frames/notes.png"])
def test_what_track_did_not_write_is_not_replaced(there: str, artifact: Path, images: Any, tmp_path: Path) -> None:
    file = tmp_path / "out" / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    name = there.partition("/")[0]
    with pytest.raises(UserError, match=f"{name}: already there, not written by `track`"):
        track(artifact, image_folder(tmp_path / "in", images[:2]), tmp_path / "out", write_frames=True)
    assert file.read_text() == "mine"


def test_two_inputs_of_one_name_do_not_replace_each_other(artifact: Path, images: Any, tmp_path: Path) -> None:
    first, second = (image_folder(tmp_path / n / "in", images[:4]) for n in "ab")
    track(artifact, first, tmp_path / "out")
    before = (tmp_path / "out" / "in.txt").read_bytes()
    with pytest.raises(UserError, match=f"in.txt: already there, of {first}; move it away or choose another --out"):
        track(artifact, second, tmp_path / "out")
    assert (tmp_path / "out" / "in.txt").read_bytes() == before
    (tmp_path / "out" / "in.txt").write_text("")
    track(artifact, first, tmp_path / "out")
    assert (tmp_path / "out" / "in.txt").read_bytes() == before


def test_pictures_of_an_earlier_run_go(artifact: Path, images: Any, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "in", images[:4])
    track(artifact, source, tmp_path / "out", write_frames=True)
    (source / "frame4.png").unlink()
    (tmp_path / "out" / "frames" / "mine.png").write_text("")
    track(artifact, source, tmp_path / "out", write_frames=True)
    assert shown(tmp_path / "out" / "frames") == [*(f"{n:06d}.png" for n in range(1, 4)), "mine.png"]


def interrupted(source: Any, at: int, error: BaseException) -> Any:
    """`open_source` of a source that raises `error` instead of frame number `at`."""

    def frames() -> Any:
        for number, image in source.frames:
            if number == at:
                raise error
            yield number, image

    return replace(source, frames=frames())


def test_ctrl_c_keeps_what_was_tracked(
    artifact: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = image_folder(tmp_path / "in", images)
    track(artifact, source, tmp_path / "whole")
    opened = interrupted(open_source(source), 8, KeyboardInterrupt())
    monkeypatch.setattr("motrlab.track.open_source", lambda _: opened)
    status = main(["track", "--artifact", str(artifact), "--input", str(source), "--out", str(tmp_path / "out")])
    assert status == 1
    said = capfd.readouterr().err.strip()
    assert said == f"motrlab: interrupted; 7 tracked frames are in {tmp_path / 'out'}: in.txt, in.mp4; " + (
        "run the same command to start again"
    )
    whole = (tmp_path / "whole" / "in.txt").read_text()
    assert whole.startswith((tmp_path / "out" / "in.txt").read_text())
    assert frames_of(tmp_path / "out" / "in.txt")[-1] == 7
    assert video_properties(tmp_path / "out" / "in.mp4")[0] == 7


def test_rows_are_in_the_file_before_the_next_frame_is_read(
    artifact: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a kill, which nobody can answer, costs one frame at most."""
    opened, seen = open_source(image_folder(tmp_path / "in", images)), []

    def frames() -> Any:
        for number, image in opened.frames:
            if number > 1:
                seen.append(max(frames_of(tmp_path / "out" / "in.txt"), default=0))
            yield number, image

    watched = replace(opened, frames=frames())
    monkeypatch.setattr("motrlab.track.open_source", lambda _: watched)
    track(artifact, tmp_path / "in", tmp_path / "out")
    assert seen == [0, 2, 3, 4, 5, 6, 7, 8, 9] or seen == list(range(1, 10))


def test_what_a_kill_left_goes_with_the_next_run(artifact: Path, images: Any, tmp_path: Path) -> None:
    source = image_folder(tmp_path / "in", images[:2])
    track(artifact, source, tmp_path / "out")
    before = sorted(p.name for p in (tmp_path / "out").iterdir())
    (tmp_path / "out" / ".in.mp4.part.mp4").write_bytes(b"half a video")
    track(artifact, source, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == before


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_full_disk_is_one_line_and_keeps_whole_rows(
    share: float, artifact: Path, images: Any, tmp_path: Path
) -> None:
    """A limit on the size of files is met like a full disk: text and video cannot grow, or the video alone."""
    source = image_folder(tmp_path / "in", images)
    track(artifact, source, tmp_path / "whole")
    whole = (tmp_path / "whole" / "in.txt").read_text()
    limit = int(share * len(whole))
    assert limit < (tmp_path / "whole" / "in.mp4").stat().st_size
    (tmp_path / "out").mkdir()
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); " + (
        "from motrlab.__main__ import main; sys.exit(main())"
    )
    arguments = ["track", "--artifact", str(artifact), "--input", str(source), "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert shown(tmp_path / "out") == ["in.txt"]
    text = (tmp_path / "out" / "in.txt").read_text()
    assert whole.startswith(text)
    assert text.endswith("\n")
    assert (text == whole) == (share > 1)


@pytest.mark.parametrize("fps", [66.667, 211.222, 0.5])
def test_any_frame_rate_is_tracked(
    fps: float, artifact: Path, images: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = sequence_folder(tmp_path / "SEQ-01", images[:3])
    file = source / "seqinfo.ini"
    file.write_text(file.read_text().replace("frameRate=12", f"frameRate={fps}"))
    arguments = ["track", "--artifact", str(artifact), "--input", str(source), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert capfd.readouterr().err == ""
    assert video_properties(tmp_path / "out" / "SEQ-01.mp4") == (3, pytest.approx(fps))


def test_without_an_encoder_the_text_is_kept(
    artifact: Path, images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a PyAV that was built without libvpx."""
    monkeypatch.setattr("motrlab.data.videos._CODEC", "no such encoder")
    with pytest.raises(UserError, match=r"PyAV cannot write this video.*4 tracked frames are in .*: in.txt$"):
        track(artifact, image_folder(tmp_path / "in", images[:4]), tmp_path / "out")
    assert shown(tmp_path / "out") == ["in.txt"]


@pytest.mark.parametrize("length", [244, 251])
def test_long_names(length: int, artifact: Path, images: Any, tmp_path: Path) -> None:
    name = "ä" * (length // 2) + "a" * (length % 2)
    assert track(artifact, image_folder(tmp_path / name, images[:2]), tmp_path / "out")["frames"] == 2
    assert shown(tmp_path / "out") == [f"{name}.mp4", f"{name}.txt"]


def test_a_name_that_is_too_long_is_a_user_error(artifact: Path, images: Any, tmp_path: Path) -> None:
    source = image_folder(tmp_path / ("a" * 252), images[:2])
    with pytest.raises(UserError, match=r"File name too long.*shorter name"):
        track(artifact, source, tmp_path / "out")
    with pytest.raises(UserError, match="no such file or folder"):
        track(artifact, tmp_path / ("a" * 300), tmp_path / "out")


class Camera(BaseHTTPRequestHandler):
    """Five pictures as motion JPEG, then the line is cut."""

    images: ClassVar[Any] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for image in self.images[:5]:
            data = cv2.imencode(".jpg", image)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stream(images: Any) -> Iterator[str]:
    Camera.images = images
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}/live/1.mjpg"
        server.shutdown()


def test_a_stream_that_breaks_off_keeps_what_was_tracked(
    stream: str, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["track", "--artifact", str(artifact), "--input", stream, "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "/live/1.mjpg: the stream ended after frame 5; start again" in line
    assert line.endswith("_live_1_mjpg.mp4")
    assert "5 tracked frames are in" in line
    assert "secret" not in line + "".join(p.name + p.read_text("latin-1") for p in (tmp_path / "out").iterdir())
    (text,) = (tmp_path / "out").glob("*.txt")
    assert frames_of(text)[-1] == 5
    assert video_properties(text.with_suffix(".mp4"))[0] == 5


def test_so_many_frames_of_a_stream_and_no_more(stream: str, artifact: Path, tmp_path: Path) -> None:
    assert track(artifact, stream, tmp_path / "out", num_frames=3)["frames"] == 3


@pytest.mark.parametrize("source", ["77", "rtsp://127.0.0.1:1/none", "http://u:p@127.0.0.1:1/none"])
def test_what_does_not_open_is_one_line(source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "--input", source, "--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "OpenCV cannot open it or gets no frame" in line
    assert line.startswith("motrlab: " + {"77": "camera 77", "http": "http://127.0.0.1:1/none"}.get(source[:4], source))
    assert not (tmp_path / "out").exists()


def test_raw_frames_of_nv12(artifact: Path, images: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file with several, or a folder with a file for each; tracked like the runtime tracks the arrays."""
    even = [image[:134] for image in images[:5]]
    frames = [bgr_to_nv12(image) for image in even]
    (tmp_path / "camera").mkdir()
    for number, frame in enumerate(frames):
        (tmp_path / "camera" / f"{number:03d}.nv12").write_bytes(frame.tobytes())
    (tmp_path / "whole.yuv").write_bytes(b"".join(frame.tobytes() for frame in frames))
    texts = []
    for source in ("camera", "whole.yuv"):
        arguments = ["track", "--artifact", str(artifact), "--input", str(tmp_path / source), "--nv12", "240x134"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 0, capfd.readouterr().err
        texts.append((tmp_path / "out" / source).with_suffix(".txt").read_text())
    assert texts[0] == texts[1]
    expected = list(load_artifact(artifact).track(frames))
    rows = np.bincount(read_tracks(tmp_path / "out" / "whole.txt").frame)
    assert [len(found.track_id) for found in expected] == rows[1:].tolist()
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "whole.mp4")).read()[1]
    assert drawn is not None
    assert drawn.shape == cv2.VideoCapture(str(tmp_path / "out" / "camera.mp4")).read()[1].shape


@pytest.mark.parametrize(
    ("size", "content", "message"),
    [
        ("64x48", b"", "empty; give raw NV12 frames of 64×48"),
        (
            "64x48",
            bytes(64 * 48 * 3 // 2 + 7),
            "the last 7 bytes are no whole frame of 64×48 .4608 bytes.; check the size",
        ),
        ("63x48", bytes(10), "NV12 of 63×48 pixels; both sides must be even"),
    ],
    ids=["empty", "cut", "odd"],
)
def test_bad_raw_frames(
    size: str, content: bytes, message: str, artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw.nv12").write_bytes(content)
    arguments = ["track", "--artifact", str(artifact), "--input", str(tmp_path / "raw.nv12"), "--nv12", size]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nv12", "big"], "argument --nv12: 'big' is not WIDTHxHEIGHT, as 1920x1080"),
        (["--video-range"], "track: --video-range is of raw frames: give their size, --nv12 WxH"),
    ],
)
def test_options_of_raw_frames(
    options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["track", "--input", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    assert capfd.readouterr().err.strip().endswith(message)


def exit_code(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as stopped:
        return stopped.code


def test_a_frame_of_another_size_ends_the_video(artifact: Path, images: Any, tmp_path: Path) -> None:
    """With the sizes of the pictures, and what came before is kept."""
    folder = tmp_path / "sizes"
    folder.mkdir()
    for number, image in enumerate((images[0], images[1], images[2][:50]), 1):
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    height, width = images[0].shape[:2]
    told = (
        rf"frame 3 is {width}×50 pixels, the first {width}×{height}; give frames of one size; 2 tracked frames are in"
    )
    with pytest.raises(UserError, match=told):
        track(artifact, folder, tmp_path / "out")


def test_a_folder_without_raw_frames(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no raw frames \(.nv12, .yuv, .raw\)"):
        track(artifact, tmp_path, tmp_path / "out", nv12=(48, 64))
