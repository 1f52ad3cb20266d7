"""The deployed tracker as a library: NumPy, OpenCV and ONNX Runtime, nothing else.

    from motrlab.runtime import Tracker

    tracker = Tracker("runs/demo/artifact", num_threads=2)
    for image in video:  # BGR, uint8 [H, W, 3]
        found = tracker.update(image)
        print(found.track_id, found.ltwh, found.score)
    tracker.reset()  # before the next video

What it needs is what `pip install motrlab` brings; the rest of the kit is `motrlab[kit]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.classes import Classes
from motrlab.data.pictures import check_image, image_size
from motrlab.data.preprocess import full_range
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks
from motrlab.shipped import shipped_artifact
from motrlab.tracking.sequence import FrameTracks

__all__ = ["PIXELS", "Classes", "Tracker", "Tracks", "UserError"]
PIXELS = ("bgr", "nv12", "nv12-video")  # NV12 of full range; of video range, Y from 16 to 235


class Tracker:
    """One stream at a time through an artefact, frame by frame: the tracks of `track` and of the evaluation.

    Within a sequence an id is of one person: who returns within 200 frames may get it back, nobody else does. Ids count
    from 1, again after `reset`.
    """

    def __init__(
        self,
        artifact: str | Path | None = None,
        *,
        num_threads: int = 1,
        pixels: str = "bgr",
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and load.

        Args:
            artifact: an artefact's folder; by default the one that comes with motrlab.
            num_threads: of the base graph; the small QIM has one.
            pixels: what `update` is given, one of `PIXELS`.
            providers: of ONNX Runtime, by default its CPU kernels. Only those are known to be exact.
            options: of ONNX Runtime's `SessionOptions` by name; a name with a dot is a config entry.

        Raises UserError: a file of the artefact is missing, was changed or is of another schema; ONNX Runtime does not
        have what is asked for.
        """
        if pixels not in PIXELS:
            raise UserError(f"unknown pixels {pixels!r}: one of {', '.join(PIXELS)}")
        if num_threads < 1:
            raise UserError(f"num_threads must be at least 1, not {num_threads}")
        more = dict(options or {}) | ({"providers": providers} if providers else {})
        self.pixels = pixels
        self._runtime: Runtime = load_artifact(
            Path(artifact or shipped_artifact()), num_threads=num_threads, options=more
        )
        self.reset()

    @property
    def classes(self) -> Classes:
        """What the tracks are of: names, and numbers as in `Tracks.class_id`, which is -1 where there is one class."""
        return self._runtime.classes

    def reset(self) -> None:
        """The next frame is the first of another sequence: no tracks, ids from 1."""
        self.num_frames = 0
        self._size: tuple[int, int] | None = None
        self._next: list[NDArray[np.uint8]] = []
        self._tracks: Iterator[FrameTracks] = self._runtime.track(self._frames())

    def _frames(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            yield self._next.pop()

    def update(self, frame: NDArray[np.uint8]) -> Tracks:
        """The tracks of the next frame of the sequence, boxes in its pixels; `frame` in them counts from 1.

        `frame`: BGR `uint8 [H, W, 3]` or NV12 `uint8 [3 H / 2, W]`, whatever `pixels` says, of any size, which is that
        of all frames of the sequence. Raises UserError for another, and goes on with the next call as if it had not
        been given. After any other exception, Ctrl-C for one, the sequence has ended, as with `reset`.
        """
        where = f"frame {self.num_frames + 1}"
        image = check_image(frame, where, nv12=self.pixels != "bgr")
        size = image_size(image)
        if size != (self._size or size):
            new, first = ("{1}×{0}".format(*found) for found in (size, self._size or size))
            raise UserError(f"{where}: {new} pixels, the first frame had {first}; call reset() before another video")
        self._size = size
        self._next.append(full_range(image) if self.pixels == "nv12-video" else image)
        try:
            found = next(self._tracks)
        except BaseException:  # Ctrl-C, no memory: a state half done is of no use
            self.reset()
            raise
        self.num_frames += 1
        return Tracks.from_rows(found.rows(self.num_frames, self._runtime.classes))
