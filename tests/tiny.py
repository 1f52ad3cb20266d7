"""A config for tests that run something: every stage in seconds, far too small to be accurate. No preset."""

from __future__ import annotations

from dataclasses import replace

from motrlab.config import CalibrationConfig, Config, QatConfig, street


def tiny() -> Config:
    """`street` at a quarter of its pixels, with a third of its channels, trained for sixty steps from nothing."""
    base = street()
    stages = tuple(replace(s, channels=c) for s, c in zip(base.model.stages, (16, 24, 32), strict=True))
    model = replace(
        base.model, height=96, width=160, stem_channels=8, stages=stages, d_model=32, num_heads=4, ffn_channels=64,
        decoder_layers=2, num_detect=24, num_track=16, anchor_grid=(4, 6),
    )  # fmt: skip
    return replace(
        base,
        preset="tiny",
        model=model,
        train=replace(base.train, steps=60, frames_per_step=6, clip_frames=(2, 3), clip_milestones=(0.5,)),
        calibration=CalibrationConfig(num_frames=8, num_sequences=2),
        qat=QatConfig(steps=6, clip_frames=2),
        street=replace(base.street, num_videos=2, num_unseen=1, num_frames=32, width=240, height=135),
        num_workers=0,
    )
