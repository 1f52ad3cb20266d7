"""Calibration and quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass

from motrlab.config.checks import check, check_at_least, check_fractions


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Observers watch the closed loop over the train halves."""

    num_frames: int = 64  # in all
    num_sequences: int = 8  # spread over so many sequences, the first frames of each
    stride: int = 1  # every so many frames of a sequence; the loop runs over those
    sequences: tuple[str, ...] = ()  # over these, all of them; empty: over the first num_sequences
    closed_loop: bool = True  # False: every frame alone, with empty track slots, as single images would be
    equalise: bool = False  # before: cross-layer equalisation (arXiv 1906.04721, section 4.1)
    adaptive_rounding: bool = True  # after: of weights, for the least error of each product (arXiv 2210.17323)

    def __post_init__(self) -> None:
        check_at_least(self, "calibration", 1, "num_frames", "num_sequences", "stride")


@dataclass(frozen=True, kw_only=True)
class QatConfig:
    """Quantisation-aware training; `quantization.qat.qat_config` says what else differs from the float training."""

    steps: int = 200
    lr: float = 1e-4
    lr_milestones: tuple[float, ...] = (0.5,)  # ×0.1 at these fractions
    weight_decay: float = 1e-4
    clip_frames: int = 3
    freeze_observers: float = 0.5  # fraction of the steps after which ranges stay
    learn_scales: bool = False  # scales of activations are trained too (LSQ, arXiv 1902.08153); ranges do not move then

    def __post_init__(self) -> None:
        check_at_least(self, "qat", 1, "steps")
        check(self.lr > 0, f"qat: lr must be positive, not {self.lr}")
        check_fractions(self, "qat", "freeze_observers")
