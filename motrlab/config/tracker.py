"""The tracker's rules at run time."""

from __future__ import annotations

from dataclasses import dataclass

from motrlab.config.checks import check, check_at_least, check_fractions, later

SCORES = ("birth_score", "miss_score", "reset_score", "output_score")


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Life and death of a track at run time; scores are fractions from 0 to 1."""

    birth_score: float = 0.7  # a detect slot at or above becomes a track
    miss_score: float = 0.6  # a track below counts a miss
    reset_score: float = 0.7  # a track at or above has its misses set to zero
    max_misses: int = 5  # so many misses end the track
    output_score: float = 0.7  # a box is written above this score...
    min_area_px: float = 100.0  # ...and above this area in the original image
    suppress_iou: float | None = None  # two tracks that overlap more are duplicates; None: nothing is suppressed
    # What becomes of a duplicate. False: the younger track ends. True: tracks coast, see `Tracker`.
    coast: bool = False
    velocity_gain: float = 0.15  # weight of the newest displacement in a coasting track's velocity
    coast_written: int = 0  # boxes of coasting tracks are written for so many frames
    camera_motion: bool = later(False)  # a coasting track moves with the picture, see `motrlab.tracking.camera`
    appearance: bool = later(False)  # only with coast: colours correct ids, see `motrlab.tracking.identity`
    # With several classes, each score's value for every one of them, in their order; empty: the value above for all
    birth_scores: tuple[float, ...] = later(())
    miss_scores: tuple[float, ...] = later(())
    reset_scores: tuple[float, ...] = later(())
    output_scores: tuple[float, ...] = later(())

    def __post_init__(self) -> None:
        check_fractions(self, "tracker", "birth_score", "miss_score", "reset_score", "output_score")
        check(self.miss_score <= self.reset_score, "tracker: miss_score must not exceed reset_score")
        for name in SCORES:
            values = getattr(self, f"{name}s")
            check(all(0 <= value <= 1 for value in values), f"tracker: {name}s must be fractions from 0 to 1")
        check_at_least(self, "tracker", 1, "max_misses")
        check(self.coast or not self.camera_motion, "tracker: camera_motion is of coasting tracks; set coast, too")
        num_classes = max(len(self.miss_scores), len(self.reset_scores), 1)
        pairs = zip(*(self.per_class(name, num_classes) for name in ("miss_score", "reset_score")), strict=False)
        check(all(miss <= reset for miss, reset in pairs), "tracker: miss_scores must not exceed reset_scores")
        check(0 < self.velocity_gain <= 1, "tracker: velocity_gain must be above 0 and at most 1")

    def per_class(self, name: str, num_classes: int = 1) -> tuple[float, ...]:
        """One of `SCORES` for every class."""
        own: tuple[float, ...] = getattr(self, f"{name}s")
        return own or (getattr(self, name),) * num_classes

    def check_classes(self, num_classes: int) -> None:
        """Raises UserError where scores are given for another number of classes."""
        for name in SCORES:
            values = getattr(self, f"{name}s")
            check(
                len(values) in (0, num_classes),
                f"tracker: {name}s has {len(values)} values, but model.num_classes is {num_classes}",
            )
