"""Small configurations with every option of the network on or off, and inputs for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from motrlab.config import BackboneStage, ModelConfig
from motrlab.model.motr import Motr, build_motr
from tests.tiny import tiny


def reference_in_small() -> ModelConfig:
    """As `mot17` in all that is not size: no overlap bias, boxes in logit space, random first references."""
    stages = (
        BackboneStage(kernel=3, blocks=2, channels=8, stride=1, expansion=1),
        BackboneStage(kernel=5, blocks=2, channels=16, stride=2, expansion=6),
    )
    return ModelConfig(
        height=32, width=44, stem_channels=8, stages=stages, d_model=32, num_heads=4, ffn_channels=48,
        encoder_layers=2, decoder_layers=2, num_detect=16, num_track=8, slot_columns=8,
    )  # fmt: skip


def departures_in_small() -> ModelConfig:
    """As `street` in all that is not size."""
    return replace(tiny().model, height=40, width=56)


CONFIGS = {"reference": reference_in_small(), "departures": departures_in_small()}


@dataclass(frozen=True)
class Frame:
    """Inputs of the base graph; `mask` has live and empty slots."""

    image: Tensor
    query: Tensor
    mask: Tensor
    reference: Tensor

    def as_tuple(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.image, self.query, self.mask, self.reference


def random_frame(config: ModelConfig, batch: int = 1, seed: int = 0) -> Frame:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = config.num_track // config.slot_columns, config.slot_columns
    mask = (torch.rand(batch, 1, 1, config.num_track, generator=generator) < 0.5).float()
    mask[..., 0], mask[..., 1] = 1, 0
    return Frame(
        image=torch.rand(batch, 3, config.height, config.width, generator=generator) * 2 - 1,
        query=torch.randn(batch, config.d_model, rows, columns, generator=generator),
        mask=mask,
        reference=torch.rand(batch, 4, rows, columns, generator=generator) * 0.5 + 0.2,
    )


def trained_looking(config: ModelConfig, seed: int = 0) -> Motr:
    """In eval mode; weights that start at zero and statistics of BatchNorm are random, so that nothing is trivial."""
    model = build_motr(config, seed).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += torch.randn(buffer.shape, generator=generator) * 0.2
            elif name.endswith("running_var"):
                buffer *= torch.rand(buffer.shape, generator=generator) + 0.5
    return model


@pytest.fixture(params=CONFIGS, scope="session")
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


@pytest.fixture(scope="session")
def model(config: ModelConfig) -> Motr:
    """Shared and read-only."""
    return trained_looking(config)


@pytest.fixture(scope="session")
def frame(config: ModelConfig) -> Frame:
    """One frame, batch 1."""
    return random_frame(config)


@pytest.fixture(scope="session")
def two_frames(config: ModelConfig) -> Frame:
    """Two unlike frames as a batch."""
    return random_frame(config, batch=2, seed=4)
