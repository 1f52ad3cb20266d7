"""Verb `track`: an artefact over a video, a folder of images or a MOTChallenge sequence → text and overlay video."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from motrlab.data.frames import FrameFiles, list_frames
from motrlab.data.motchallenge import read_sequence_info
from motrlab.data.pictures import Image, orientation, read_image
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, format_tracks
from motrlab.files import writing
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import TrailHistory, draw_frame, write_image
from motrlab.viz.video import VideoFile

_DEFAULT_FPS = 30.0  # of a folder that does not say
_OWNERS = ".motrlab_track"  # in an output folder: which input each result is of, a line `name, tab, input` for each
_CONTAINERS_THAT_COUNT = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # first boxes of MP4 and MOV
# Both are read at their first use; a bad video is to be told in one line, which is ours.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class FrameSource:
    """Frames of one sequence, named `name`, read from `origin`, a video or a folder of pictures.

    `frames` reads number (from 1) and image of each; it ends with a UserError where some were missing. `note` is a line
    on what a user may not expect, or "".
    """

    name: str
    fps: float
    origin: Path
    frames: Iterator[tuple[int, Image]]
    note: str = ""


def track(
    artifact: Path, source: Path, out: Path, *, write_frames: bool = False, num_threads: int = 1
) -> dict[str, int]:
    """Track `source` with `artifact`; write `out/NAME.txt` (MOTChallenge) and `out/NAME.mp4`.

    The text grows as frames come. Whatever ends the work early, it has every frame until then, and so has the video,
    unless the process is killed.

    Args:
        artifact: an artefact's folder.
        source: a video, a folder of images, or a MOTChallenge sequence folder.
        out: folder, made if need be. Results of another input that are there are not written over.
        write_frames: also write `out/frames/%06d.png`.
        num_threads: of the inference runtime.

    Returns:
        Numbers of `frames`, `boxes` and `tracks`. Raises UserError for anything that cannot be read or written, also if
        frames are missing that the video or `seqinfo.ini` promises; the others are tracked first.
    """
    opened = open_source(Path(source))
    runtime = load_artifact(Path(artifact), num_threads=num_threads)
    with _Results(opened, Path(out), write_frames) as results:
        for number, image, found in _track_images(runtime, opened.frames):
            results.add(number, image, found)
    for note in filter(None, (opened.note, *results.video.notes)):
        print(f"motrlab: {note}", file=sys.stderr)
    return {"frames": results.num_frames, "boxes": results.num_boxes, "tracks": len(results.track_ids)}


def _track_images(runtime: Runtime, frames: Iterable[tuple[int, Image]]) -> Iterator[tuple[int, Image, FrameTracks]]:
    """Each frame's number, image and tracks; one image at a time is held in memory."""
    current: list[tuple[int, Image]] = []

    def feed() -> Iterator[Image]:
        for numbered in frames:
            current[:] = [numbered]
            yield numbered[1]

    for found in runtime.track(feed()):
        yield *current[0], found


class _Results:
    """What `track` leaves in a folder; it grows frame by frame, and at the end, good or bad, the video is finished."""

    def __init__(self, source: FrameSource, out: Path, write_frames: bool) -> None:
        self.num_frames, self.num_boxes, self.track_ids, self._trails = 0, 0, set[int](), TrailHistory()
        self.text = out / f"{source.name}.txt"
        self.video = VideoFile(out / f"{source.name}.mp4", source.fps)
        self._pictures = [out / "frames"] * write_frames
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            _claim(out, [self.text, self.video.path, *self._pictures], source.origin)
            pictures = (file for folder in self._pictures for file in folder.glob("[0-9]*.png"))
            for old in (self.text, self.video.path, *pictures):
                old.unlink(missing_ok=True)
            self._stream = self.text.open("wb", buffering=0)

    def add(self, number: int, image: Image, found: FrameTracks) -> None:
        """The frame's rows first, then its overlay."""
        self._append(format_tracks(Tracks.from_rows(found.rows(number))).encode())
        self.num_frames += 1
        self.num_boxes += len(found.track_id)
        self.track_ids.update(found.track_id.tolist())
        overlay = draw_frame(image, found, self._trails.update(found))
        self.video.write(overlay)
        for folder in self._pictures:
            write_image(folder / f"{number:06d}.png", overlay)

    def _append(self, lines: bytes) -> None:
        """All of a frame's rows or none: a full disk may have room for half of them."""
        with writing(self.text):
            start = self._stream.tell()
            try:
                while lines:
                    lines = lines[self._stream.write(lines) :]
            except OSError:
                self._stream.truncate(start)
                raise

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish the files, and tell what is there if not all is well."""
        self._stream.close()
        problems = [str(error)] if isinstance(error, UserError) else []
        try:
            self.video.close()
        except UserError as failed:
            problems.append(str(failed))
        kept = ", ".join(path.name for path in (self.text, self.video.path) if path.exists())
        there = f"{self.num_frames} tracked frames are in {self.text.parent}: {kept}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{there}; the same command starts again") from error
        if problems and (error is None or isinstance(error, UserError)):
            raise UserError(f"{'; '.join(problems)}; {there}") from error


def _claim(out: Path, results: Sequence[Path], origin: Path) -> None:
    """Note whose results these are. Raises UserError for one that is there and is not of the same input."""
    file = out / _OWNERS
    lines = file.read_text(errors="surrogateescape").split("\n") if file.is_file() else []
    owners = dict(line.split("\t", 1) for line in lines if "\t" in line)
    for path in results:
        owner = owners.get(path.name)
        empty = path.is_dir() and not any(path.iterdir())
        if owner != str(origin) and path.exists() and not empty:
            own = "the input itself" if path.resolve() == origin else "not written by `track`"
            whose = f"of {owner}" if owner else own
            raise UserError(f"{path}: already there, {whose}; move it away or choose another --out")
    with file.open("a", errors="surrogateescape") as stream:
        stream.writelines(f"{p.name}\t{origin}\n" for p in results if owners.get(p.name) != str(origin))


def open_source(path: Path) -> FrameSource:
    """What to read frames from. Raises UserError: no such path, no images in the folder, not a readable video."""
    if not os.path.exists(path):  # also where Path.exists raises an error, for a name that is too long
        raise UserError(f"{path}: no such file or folder; give a video, a folder of images or a sequence folder")
    source = _open_folder(path) if path.is_dir() else _open_video(path)
    first = next(source.frames)  # a UserError where there is none
    return replace(source, frames=itertools.chain((first,), source.frames))


def _open_folder(path: Path) -> FrameSource:
    fps, images, info = _DEFAULT_FPS, path, None
    if (path / "seqinfo.ini").is_file():
        info = read_sequence_info(path)
        fps, images = info.frame_rate, path / info.image_dir
    elif (path / "img1").is_dir():
        images = path / "img1"
    listed = list_frames(images, info)
    folder = path.resolve()
    name = folder.parent.name if folder.name == "img1" else folder.name
    notes = [listed.note, _orientation_note(next(iter(listed.files.values())))]
    return FrameSource(name, fps, images.resolve(), _read_pictures(listed), "; ".join(filter(None, notes)))


def _orientation_note(file: Path) -> str:
    turned = file.is_file() and orientation(file.read_bytes()) != 1
    return f"{file}: its EXIF orientation is ignored, boxes are of the pixels as they are stored" if turned else ""


def _read_pictures(listed: FrameFiles) -> Iterator[tuple[int, Image]]:
    """The pictures that are there and can be read; at the end a UserError on the others."""
    unreadable = []
    for number, file in listed.files.items():
        try:
            image = read_image(file)
        except UserError as error:
            unreadable.append(str(error))
        else:
            yield number, image
    if unreadable:
        more = f" ({len(unreadable)} such pictures)" if len(unreadable) > 1 else ""
        raise UserError("; ".join(filter(None, (unreadable[0] + more, listed.fault))))
    if listed.fault:
        raise UserError(listed.fault)


def _open_video(path: Path) -> FrameSource:
    video = cv2.VideoCapture(str(path))
    fps = video.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps <= 1000 else _DEFAULT_FPS
    return FrameSource(path.stem, fps, path.resolve(), _read_video(path, video, fps))


def _read_video(path: Path, video: cv2.VideoCapture, fps: float) -> Iterator[tuple[int, Image]]:
    """Frames to the last that OpenCV can read; then a UserError if the file promises more."""
    number = 0
    while (image := video.read()[1]) is not None:
        number += 1
        yield number, np.asarray(image, np.uint8)
    promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if number == 0:
        raise UserError(f"{path}: OpenCV cannot read a frame of it; give a video such as .mp4 or a folder of images")
    with path.open("rb") as stream:
        start = stream.read(8)
    # Other containers know their duration only: a sound that goes on for longer, or a varying frame rate, is no loss.
    exact = start[:4] == b"RIFF" or start[4:] in _CONTAINERS_THAT_COUNT
    if number < promised - (0 if exact else min(fps, promised / 4)):
        raise UserError(f"{path}: {number} of {promised} frames can be read, the file is cut or damaged; copy it anew")
