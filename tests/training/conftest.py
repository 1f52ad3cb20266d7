"""A tiny street data set, a tiny configuration, and outputs of the base graph made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.config import Config, ModelConfig, StreetConfig, TrainConfig
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.tracking.step import FrameOutput
from tests.tiny import tiny

MakeOutput = Callable[..., FrameOutput]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Train halves of two street videos of 16 frames, 160×90 pixels."""
    folder = tmp_path_factory.mktemp("street")
    street = StreetConfig(num_videos=2, num_unseen=0, num_frames=16, width=160, height=90)
    generate_street(street, folder / "street", num_workers=1)
    prepare(folder / "street", folder / "data", num_workers=1, unseen=is_unseen)
    return FrameStore(folder / "data" / "train_lmdb")


@pytest.fixture
def config() -> Config:
    """Float32, no workers, six steps of two clips on small pictures."""
    base = tiny()
    model = replace(base.model, height=48, width=80, d_model=16, ffn_channels=24)
    train = replace(
        base.train, steps=6, frames_per_step=4, bf16=False, checkpoint_every=3, validate_every=0, denoising_groups=0
    )  # fmt: skip
    return replace(base, model=model, train=train, num_workers=0)


@pytest.fixture
def slots() -> ModelConfig:
    """Four detect and four track slots."""
    return replace(tiny().model, num_detect=4, num_track=4, slot_columns=4, anchor_grid=None)


@pytest.fixture
def quiet() -> TrainConfig:
    """No chance in the assignment: no drops, no false positives, no clones, no jitter."""
    return replace(
        tiny().train,
        drop_probability=0.0,
        heavy_drop_fraction=0.0,
        false_positive_ratio=0.0,
        clone_probability=0.0,
        reference_jitter=0.0,
        min_visibility=0.2,
        track_min_visibility=0.2,
        keep_iou=0.5,
    )


@pytest.fixture
def make_output() -> MakeOutput:
    """`make_output(scores [L, B, N], boxes [L, B, N, 4], columns)` → tensors of that many layers."""

    def make(scores: np.ndarray, boxes: np.ndarray, columns: int = 4) -> FrameOutput:
        logits = torch.logit(torch.tensor(np.asarray(scores), dtype=torch.float32))
        corners = torch.tensor(np.asarray(boxes), dtype=torch.float32).transpose(2, 3)
        batch, num_slots = logits.shape[1:]
        rows = num_slots // columns
        return FrameOutput(
            tuple(x.reshape(batch, 1, rows, columns).clone().requires_grad_() for x in logits),
            tuple(x.reshape(batch, 4, rows, columns).clone().requires_grad_() for x in corners),
            torch.zeros(batch, 8, rows, columns),
        )

    return make
