"""The embedded videos."""

from __future__ import annotations

from dataclasses import dataclass

from motrlab.config.checks import check


@dataclass(frozen=True, kw_only=True)
class StreetConfig:
    """The embedded synthetic data set: size and seed; its difficulty is described in `motrlab.data.street`."""

    num_videos: int = 12  # split in halves like MOT17
    num_unseen: int = 2  # whole videos, never trained on
    num_frames: int = 240
    width: int = 480
    height: int = 270
    frame_rate: int = 15
    seed: int = 17

    def __post_init__(self) -> None:
        check(self.num_videos >= 1 and self.num_frames >= 4, "street: needs a video of at least four frames")
