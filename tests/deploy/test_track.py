from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.motchallenge import SequenceInfo, format_sequence_info
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import read_tracks
from motrlab.track import open_source, track
from motrlab.viz.overlay import write_video


def image_folder(folder: Path, images: Any) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / f"frame{number}.png"), image)  # frame10 comes after frame9, not after frame1
    return folder


def sequence_folder(folder: Path, images: Any) -> Path:
    (folder / "img1").mkdir(parents=True)
    for number, image in enumerate(images, 1):
        cv2.imwrite(str(folder / "img1" / f"{number:06d}.png"), image)
    height, width = images[0].shape[:2]
    info = SequenceInfo(
        name=folder.name, num_frames=len(images), width=width, height=height, frame_rate=12, image_ext=".png"
    )
    (folder / "seqinfo.ini").write_text(format_sequence_info(info))
    return folder


def video_file(file: Path, images: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_video(file, images, 12)
    return file


def video_properties(file: Path) -> tuple[int, float]:
    video = cv2.VideoCapture(str(file))
    frames = 0
    while video.read()[0]:
        frames += 1
    return frames, video.get(cv2.CAP_PROP_FPS)


Source = Callable[[Path, Any], Path]
SOURCES = {
    "images": (image_folder, "in", 30),
    "sequence": (sequence_folder, "SEQ-01", 12),
    "video": (video_file, "in.mp4", 12),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_writes_text_and_video(kind: str, artifact: Path, images: Any, tmp_path: Path) -> None:
    make, name, fps = SOURCES[kind]
    source = make(tmp_path / "source" / name, images)
    found = track(artifact, source, tmp_path / "out")
    assert found["frames"] == len(images)
    stem = name.removesuffix(".mp4")
    tracks = read_tracks(tmp_path / "out" / f"{stem}.txt")
    assert len(tracks) == found["boxes"] > 0
    assert video_properties(tmp_path / "out" / f"{stem}.mp4") == (len(images), fps)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{stem}.txt", f"{stem}.mp4"}


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


BAD_INPUTS = {
    "no such path": (lambda folder: folder / "absent", "no such file or folder"),
    "no images": (_empty_folder, "no images"),
    "not a video": (_text_file, "cannot read a frame"),
    "broken picture": (_broken_picture, "1.png: not a readable picture"),
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
    with pytest.raises(UserError, match="out: cannot write there"):
        track(artifact, source, tmp_path / "out")


def test_no_tracks_give_an_empty_file(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import motrlab.track as module

    def strict(folder: Path, **options: Any) -> Any:
        runtime = load_artifact(folder, **options)
        return replace(runtime, tracker=replace(runtime.tracker, birth_score=1.0, output_score=1.0))

    monkeypatch.setattr(module, "load_artifact", strict)
    source = image_folder(tmp_path / "in", [np.zeros((90, 160, 3), np.uint8)] * 2)
    assert track(artifact, source, tmp_path / "out") == {"frames": 2, "boxes": 0, "tracks": 0}
    assert (tmp_path / "out" / "in.txt").read_text() == ""
