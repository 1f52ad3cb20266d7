"""Backbones by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.errors import UserError
from motrlab.model.backbone import BACKBONES, build_backbone
from motrlab.model.motr import build_motr
from motrlab.model.operations import FLOAT, Operations
from tests.tiny import tiny


class Patches(nn.Module):
    """One convolution on patches of 16 pixels."""

    out_channels, stride = 12, 16

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, self.out_channels, self.stride, self.stride)
        self.stages = nn.ModuleList()

    def forward(self, images: Any, net: Operations = FLOAT) -> Tensor:
        found: Tensor = self.stem(images)
        return found


def test_a_backbone_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "patches", Patches)
    config = replace(tiny().model, backbone="patches")
    model = build_motr(config)
    assert isinstance(model.base.backbone, Patches)
    memory = model.base.encode(torch.zeros(2, 3, config.height, config.width))
    assert memory.shape == (2, config.d_model, config.height // 16, config.width // 16)


def test_an_unknown_backbone_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="unknown backbone 'resnet'; one of efficientnet"):
        build_backbone(replace(tiny().model, backbone="resnet"))
