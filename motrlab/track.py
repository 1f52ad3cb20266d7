"""Verb `track`: an artefact over a video, a folder of images or a MOTChallenge sequence → text and overlay video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.data.motchallenge import read_sequence_info
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, write_tracks
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import TrailHistory, draw_frame, write_image, write_video

Image = NDArray[np.uint8]
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_DEFAULT_FPS = 30.0  # of a folder that does not say
# FFmpeg reads it at its first use; a bad video is to be told in one line, which is ours.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True)
class FrameSource:
    """Frames of one sequence: `name`, `fps`, and `frames`, an iterable that reads them one by one."""

    name: str
    fps: float
    frames: Iterable[Image]


def track(
    artifact: Path, source: Path, out: Path, *, write_frames: bool = False, num_threads: int = 1
) -> dict[str, int]:
    """Track `source` with `artifact`; write `out/NAME.txt` (MOTChallenge) and `out/NAME.mp4`.

    Args:
        artifact: an artefact's folder.
        source: a video, a folder of images, or a MOTChallenge sequence folder.
        out: folder, made if need be.
        write_frames: also write `out/frames/%06d.png`.
        num_threads: of the inference runtime.

    Returns:
        Numbers of `frames`, `boxes` and `tracks`. Raises UserError for anything that cannot be read or written.
    """
    opened = open_source(Path(source))
    runtime = load_artifact(Path(artifact), num_threads=num_threads)
    out = _writable_folder(Path(out))
    rows: list[NDArray[np.float64]] = []
    frames_folder = out / "frames" if write_frames else None
    drawn = _draw(runtime, opened.frames, rows, frames_folder)
    num_frames = write_video(out / f"{opened.name}.mp4", drawn, opened.fps)
    tracks = Tracks.from_rows(np.concatenate(rows))
    write_tracks(out / f"{opened.name}.txt", tracks)
    return {"frames": num_frames, "boxes": len(tracks), "tracks": len(np.unique(tracks.track_id))}


def _draw(
    runtime: Runtime, frames: Iterable[Image], rows: list[NDArray[np.float64]], folder: Path | None
) -> Iterator[Image]:
    """Overlays of the tracked frames; collects the rows of the text file and writes pictures on the way."""
    trails = TrailHistory()
    for number, (image, found) in enumerate(_track_images(runtime, frames), 1):
        rows.append(found.rows(number))
        overlay = draw_frame(image, found, trails.update(found))
        if folder is not None:
            write_image(folder / f"{number:06d}.png", overlay)
        yield overlay


def _track_images(runtime: Runtime, frames: Iterable[Image]) -> Iterator[tuple[Image, FrameTracks]]:
    """Each image with its boxes; one image at a time is held in memory."""
    current: list[Image] = []

    def feed() -> Iterator[Image]:
        for image in frames:
            current[:] = [image]
            yield image

    for found in runtime.track(feed()):
        yield current[0], found


def open_source(path: Path) -> FrameSource:
    """What to read frames from. Raises UserError: no such path, no images in the folder, not a readable video."""
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; give a video, a folder of images or a sequence folder")
    return _open_video(path)


def _open_folder(path: Path) -> FrameSource:
    fps, images = _DEFAULT_FPS, path
    if (path / "seqinfo.ini").is_file():
        info = read_sequence_info(path)
        fps, images = info.frame_rate, path / info.image_dir
    elif (path / "img1").is_dir():
        images = path / "img1"
    files = sorted((f for f in _files(images) if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural_order)
    if not files:
        raise UserError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)}); give the folder that holds the frames")
    folder = path.resolve()
    name = folder.parent.name if folder.name == "img1" else folder.name
    return FrameSource(name, fps, map(_read_image, files))


def _files(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if f.is_file()] if folder.is_dir() else []


def _natural_order(file: Path) -> list[tuple[int, str]]:
    """`frame2` before `frame10`."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _read_image(file: Path) -> Image:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{file}: not a readable picture; copy it anew or remove it")
    return np.asarray(image, np.uint8)


def _open_video(path: Path) -> FrameSource:
    video = cv2.VideoCapture(str(path))
    done, first = video.read()
    if not done:
        raise UserError(f"{path}: OpenCV cannot read a frame of it; give a video such as .mp4 or a folder of images")
    fps = video.get(cv2.CAP_PROP_FPS)

    def frames() -> Iterator[Image]:
        image = first
        while image is not None:
            yield np.asarray(image, np.uint8)
            image = video.read()[1]
        video.release()

    return FrameSource(path.stem, fps if 0 < fps <= 1000 else _DEFAULT_FPS, frames())


def _writable_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".motrlab_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot write there ({error.strerror}); choose another --out") from error
    return path
