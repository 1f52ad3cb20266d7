"""Calibration and quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from motrlab.config.checks import check


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Observers watch the closed loop over the train halves."""

    num_frames: int = 64  # in all
    num_sequences: int = 8  # spread over so many sequences

    def __post_init__(self) -> None:
        check(self.num_frames >= 1 and self.num_sequences >= 1, "calibration: needs at least one frame")


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """Quantisation-aware training from the calibrated state; everything not named here is the float training's."""

    steps: int = 200
    lr: float = 1e-4
    lr_milestones: tuple[float, ...] = (0.5,)  # ×0.1 at these fractions
    weight_decay: float = 1e-4
    clip_frames: int = 3
    freeze_observers: float = 0.5  # fraction of the steps after which ranges stay

    def __post_init__(self) -> None:
        check(self.steps >= 1, "qat: steps must be at least 1")
        check(self.lr > 0, f"qat: lr must be positive, not {self.lr}")
