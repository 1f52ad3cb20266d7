"""Verb `track`: an artefact over a video, pictures, a camera or a stream → MOTChallenge text and overlay video."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from motrlab.classes import PEOPLE, Classes
from motrlab.data.pictures import Image, image_size
from motrlab.data.preprocess import full_range, nv12_to_bgr
from motrlab.data.videos import FrameSource, VideoFile, open_source
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, format_tracks
from motrlab.files import locked, writing
from motrlab.shipped import shipped_artifact
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import TRAIL_FRAMES, draw_frame, trails_of, write_image

_OWNERS = ".motrlab_track"  # in an output folder: whose each result is, a line "name, tab, input" for each


def track(
    artifact: Path | None,
    source: Path | str,
    out: Path,
    *,
    write_frames: bool = False,
    num_threads: int = 1,
    num_frames: int | None = None,
    nv12: tuple[int, int] | None = None,
    video_range: bool = False,
) -> dict[str, int]:
    """Track `source` with `artifact`; write `out/NAME.txt` (MOTChallenge) and `out/NAME.mp4`.

    The text grows as frames come. Whatever ends the work early, it has every frame until then, and so has the video,
    unless the process is killed. Where PyAV is not installed there is no video, and a line on stderr says so.

    Args:
        artifact: an artefact's folder; None: the one that comes with motrlab.
        source: a video, a folder of images, a MOTChallenge sequence folder, the number of a camera, or a URL.
        out: folder, made if need be. What is there and is not of the same input is not replaced.
        write_frames: also write `out/frames/%06d.png`; those of an earlier call go.
        num_threads: of the inference runtime.
        num_frames: stop after so many.
        nv12: height and width of raw NV12 frames, where `source` holds such; `video_range`: their Y from 16 to 235.

    Returns:
        Numbers of `frames`, `boxes` and `tracks`. Raises UserError for anything that cannot be read or written, also if
        frames are missing that the video or `seqinfo.ini` promises, or a stream breaks off; the others are tracked
        first.
    """
    if video_range and not nv12:
        raise UserError("track: --video-range is of raw frames: give their size, --nv12 WxH")
    runtime = load_artifact(Path(artifact or shipped_artifact()), num_threads=num_threads)
    opened = open_source(source, nv12) if nv12 else open_source(source)
    frames: Iterator[tuple[int, Image]] = itertools.islice(_of_one_size(opened), num_frames)
    if video_range:
        frames = ((number, full_range(image)) for number, image in frames)
    numbered, fed = itertools.tee(frames)  # in step: one image at a time is held in memory
    total = min((n for n in (opened.num_frames, num_frames) if n is not None), default=None)
    with _Results(opened, Path(out), write_frames, runtime.classes) as results, _progress(total) as advance:
        for (number, image), found in zip(numbered, runtime.track(image for _, image in fed), strict=False):
            results.add(number, image, found)
            advance()
    for note in filter(None, (opened.note, *results.notes)):
        print(f"motrlab: {note}", file=sys.stderr)
    return {"frames": results.num_frames, "boxes": results.num_boxes, "tracks": len(results.track_ids)}


def _of_one_size(source: FrameSource) -> Iterator[tuple[int, Image]]:
    """Its frames; the place of a track in one of another size would mean nothing."""
    first = None
    for number, image in source.frames:
        size = image_size(image)
        first = first or size
        if size != first:
            told = " pixels, the first ".join("{1}×{0}".format(*found) for found in (size, first))
            raise UserError(f"{source.origin}: frame {number} is {told}; give frames of one size")
        yield number, image


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[..., object]]:
    """What to call after each frame: it moves a bar, on a terminal, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda: None
        return
    with tqdm(total=total, desc="track", unit="frame", disable=None) as bar:
        yield bar.update


class _Results:
    """What `track` leaves in a folder; it grows frame by frame, and at the end, good or bad, the video is finished."""

    def __init__(self, source: FrameSource, out: Path, write_frames: bool, classes: Classes = PEOPLE) -> None:
        self._classes = classes
        self.num_frames, self.num_boxes, self.track_ids = 0, 0, set[int]()
        self._recent: deque[FrameTracks] = deque(maxlen=TRAIL_FRAMES)
        self.text = out / f"{source.name}.txt"
        self.overlay, self.notes = out / f"{source.name}.mp4", list[str]()
        self._videos: list[VideoFile] = []
        try:
            self._videos.append(VideoFile(self.overlay, source.fps))
        except ModuleNotFoundError:
            self.notes.append(f"{self.overlay}: not written, because PyAV is not installed; pip install av")
        self._pictures = [out / "frames"] * write_frames
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            _claim([self.text, self.overlay, *self._pictures], source.origin)
            pictures = [file for folder in self._pictures for file in folder.glob("*.png") if file.stem.isdecimal()]
            if self.text.exists():
                with locked(self.text, "writing"):
                    pass  # a UserError while another process tracks the same
            for old in (self.text, self.overlay, *pictures):
                old.unlink(missing_ok=True)
            self._stream, self._alone = self.text.open("wb", buffering=0), contextlib.ExitStack()
            self._alone.enter_context(locked(self.text, "writing"))

    def add(self, number: int, image: Image, found: FrameTracks) -> None:
        """The frame's rows first, then its overlay."""
        self._append(format_tracks(Tracks.from_rows(found.rows(number, self._classes))).encode())
        self.num_frames += 1
        self.num_boxes += len(found.track_id)
        self.track_ids.update(found.track_id.tolist())
        self._recent.append(found)
        if not self._videos and not self._pictures:
            return
        overlay = draw_frame(
            nv12_to_bgr(image) if image.ndim == 2 else image, found, trails_of(self._recent), classes=self._classes
        )
        for video in self._videos:
            video.write(overlay)
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

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        """Finish the files, and tell what is there if not all is well."""
        self._stream.close()
        self._alone.close()
        problems = [str(error)] if isinstance(error, UserError) else []
        try:
            for video in self._videos:
                video.close()
        except UserError as failed:
            problems.append(str(failed))
        kept = ", ".join(path.name for path in (self.text, self.overlay) if path.exists())
        there = f"{self.num_frames} tracked frames are in {self.text.parent}: {kept}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"{'; '.join([*problems, there])}; run the same command to start again") from error
        if problems and (error is None or isinstance(error, UserError)):
            raise UserError(f"{'; '.join(problems)}; {there}") from error


def _claim(results: Sequence[Path], origin: Path | str) -> None:
    """Note in their folder whose results these are. Raises UserError for one that is there already and is not."""
    file = results[0].with_name(_OWNERS)
    lines = file.read_text("utf-8", "surrogateescape").split("\n") if file.is_file() else []
    owners = dict(line.split("\t", 1) for line in lines if "\t" in line)
    for path in results:
        owner = owners.get(path.name)
        if path.resolve() == origin:
            raise UserError(f"{path}: the input itself would be replaced; choose another --out")
        if owner != str(origin) and path.exists() and not (path.is_dir() and not any(path.iterdir())):
            whose = f"of {owner}" if owner else "not written by `track`"
            raise UserError(f"{path}: already there, {whose}; move it away or choose another --out")
    with file.open("a", encoding="utf-8", errors="surrogateescape") as stream:
        stream.writelines(f"{path.name}\t{origin}\n" for path in results if owners.get(path.name) != str(origin))
