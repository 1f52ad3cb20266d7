"""A tiny quantised model, calibrated on noise in closed loop, and a batch of clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.data.clips import ClipBatch
from motrlab.data.transforms import FrameObjects
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from tests.tiny import tiny

Inputs = tuple[Tensor, ...]


def noise(config: Config, num_frames: int, seed: int = 0) -> Iterator[Tensor]:
    """Network inputs `[1, 3, H, W]` on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, config.model.height, config.model.width)
    for _ in range(num_frames):
        yield torch.randint(-128, 128, shape, generator=generator) / 128


def lively(config: Config) -> Motr:
    """Random weights whose slots score around 0.5, so that tracks live, and whose boxes move."""
    model = build_motr(config.model, seed=3)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (h.weight for h in model.base.class_heads):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        for parameter in (h.out.weight for h in model.base.box_heads):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.03)
        for layer in model.base.decoder:
            weight = layer.cross_attention.offsets.weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        for head in model.base.class_heads:
            head.bias.zero_()
    return folded_copy(model)


@pytest.fixture(scope="session")
def config() -> Config:
    base = tiny()
    tracker = replace(base.tracker, birth_score=0.55, miss_score=0.4, reset_score=0.5, suppress_iou=None)
    calibration = replace(base.calibration, num_frames=6, num_sequences=2, adaptive_rounding=False)
    return replace(base, tracker=tracker, calibration=calibration)  # rounding to nearest leaves the float weights


@pytest.fixture(scope="session")
def float_model(config: Config) -> Motr:
    return lively(config)


@pytest.fixture(scope="session")
def calibrated_state(config: Config, float_model: Motr) -> tuple[QuantizedMotr, dict[str, Tensor]]:
    quantised = QuantizedMotr(lively(config))
    calibrate(quantised, [noise(config, 4, seed) for seed in (1, 2)], config)
    return quantised, {name: value.clone() for name, value in quantised.state_dict().items()}


@pytest.fixture
def quantised(calibrated_state: tuple[QuantizedMotr, dict[str, Tensor]]) -> QuantizedMotr:
    """Calibrated, in mode `evaluate`; every test gets the same state."""
    model, state = calibrated_state
    model.load_state_dict(state)
    model.mode("evaluate")
    return model


@pytest.fixture(scope="session")
def base_inputs(config: Config) -> Inputs:
    """Two images with half of the track slots live."""
    generator = torch.Generator().manual_seed(7)
    model = config.model
    state = (2, model.d_model, model.num_track // model.slot_columns, model.slot_columns)
    mask = torch.zeros(2, 1, 1, model.num_track)
    mask[..., : model.num_track // 2] = 1
    images = torch.cat(list(noise(config, 2, seed=9)))
    query = torch.randn(state, generator=generator) * mask.reshape(2, 1, *state[2:])
    reference = torch.rand((2, 4, *state[2:]), generator=generator) * 0.5 + 0.2
    return images, query, mask, reference


@pytest.fixture(scope="session")
def clip_batch(config: Config) -> ClipBatch:
    """Two clips of two frames, two people in each frame."""
    frames = torch.cat(list(noise(config, 4, seed=11)))
    boxes = np.array([[0.3, 0.4, 0.1, 0.3], [0.7, 0.6, 0.1, 0.3]], np.float32)
    people = [FrameObjects(boxes + t * np.float32(0.01), np.array([1, 2]), np.ones(2, np.float32)) for t in range(2)]
    return ClipBatch(images=frames.reshape(2, 2, *frames.shape[1:]), objects=[[frame] * 2 for frame in people])
