from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from motrlab.config import BackboneStage, ModelConfig, mot17, mot17_small, street
from motrlab.model.efficientnet import (
    ConvBN,
    DepthwiseConv,
    EfficientNet,
    MBConv,
    fold_batch_norm,
    freeze_batch_norm,
    freeze_stages,
)
from tests.tiny import tiny


def stage(**changes: Any) -> BackboneStage:
    return replace(BackboneStage(kernel=3, blocks=1, channels=8, stride=1, expansion=6), **changes)


BLOCKS = {
    "expanded": (stage(), 8, 3),
    "without expansion": (stage(expansion=1), 8, 2),
    "fused": (stage(fused=True), 8, 2),
    "fused without expansion": (stage(fused=True, expansion=1), 8, 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    config, channels, num_layers = BLOCKS[name]
    block = MBConv(channels, config, 1).eval()
    assert len(block.layers) == num_layers
    x = torch.randn(1, channels, 6, 10)
    torch.testing.assert_close(block(x), x + block.layers(x))  # stride 1 and equal channels: residual
    wider, strided = MBConv(channels, replace(config, channels=12), 1), MBConv(channels, config, 2)
    assert wider(x).shape == (1, 12, 6, 10)
    assert strided(x).shape == (1, channels, 3, 5)
    assert not wider.residual
    assert not strided.residual


PRESETS = {
    "mot17": (mot17().model, 384, 32),
    "mot17_small": (mot17_small().model, 96, 8),
    "street": (street().model, 96, 8),
    "tiny": (tiny().model, 32, 8),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_map_has_the_stride_it_says(name: str) -> None:
    config, channels, stride = PRESETS[name]
    with torch.device("meta"):
        backbone = EfficientNet(config)
        features = backbone(torch.empty(2, 3, config.height, config.width))
    assert (backbone.out_channels, backbone.stride) == (channels, stride)
    assert features.shape == (2, channels, -(-config.height // stride), -(-config.width // stride))


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (95, 161)], ids=str)
def test_upsampling_takes_any_size(size: tuple[int, int]) -> None:
    backbone = EfficientNet(tiny().model).eval()
    assert backbone(torch.zeros(1, 3, *size)).shape == (1, 32, -(-size[0] // 8), -(-size[1] // 8))


def test_no_squeeze_excitation_and_only_relu() -> None:
    kinds = {type(m) for m in EfficientNet(mot17().model).modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, DepthwiseConv, nn.BatchNorm2d, nn.ReLU}


def test_relu6_clips_at_six_everywhere() -> None:
    config = replace(tiny().model, activation="relu6")
    kinds = {type(m) for m in EfficientNet(config).modules() if not list(m.children())}
    assert kinds <= {nn.Conv2d, DepthwiseConv, nn.BatchNorm2d, nn.ReLU6}
    layer = ConvBN(3, 4, 1, activation="relu6").eval()
    x = torch.randn(1, 3, 5, 5) * 50
    torch.testing.assert_close(layer(x), layer[1](layer[0](x)).clamp(0, 6))
    assert layer(x).max() == 6


def test_frozen_stages_take_no_part_in_training() -> None:
    backbone = EfficientNet(tiny().model)
    freeze_stages(backbone, 2)
    backbone(torch.randn(2, 3, 32, 48)).sum().backward()
    moved = {name.split(".")[0] + name.split(".")[1] for name, p in backbone.named_parameters() if p.grad is not None}
    assert {n for n in moved if n.startswith(("stem", "stages"))} == {"stages2"}
    assert any(n.startswith("lateral") for n in moved)
    backbone = EfficientNet(tiny().model)
    freeze_stages(backbone, 0)
    assert all(p.requires_grad for p in backbone.parameters())


def with_statistics(config: ModelConfig) -> EfficientNet:
    torch.manual_seed(0)
    backbone = EfficientNet(config).train()
    for _ in range(3):
        backbone(torch.randn(4, 3, 32, 48) * 2 + 1)
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return backbone.eval()


def test_folding_keeps_outputs_and_leaves_no_batch_norm() -> None:
    stages = (stage(), stage(fused=True, stride=2, channels=16), stage(expansion=1, channels=16))
    backbone = with_statistics(replace(tiny().model, stages=stages))
    folded = copy.deepcopy(backbone)
    fold_batch_norm(folded)
    x = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(folded(x), backbone(x), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(m[0].bias is not None for m in folded.modules() if isinstance(m, ConvBN))


def test_frozen_statistics_do_not_move() -> None:
    backbone = with_statistics(tiny().model).train()
    before = copy.deepcopy(backbone.state_dict())
    freeze_batch_norm(backbone)
    backbone(torch.randn(2, 3, 32, 48))
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    backbone.train()
    backbone(torch.randn(2, 3, 32, 48))  # the control: without freezing they do
    assert (backbone.state_dict()["stem.1.running_mean"] != before["stem.1.running_mean"]).any()


def test_depthwise_gradients_are_those_of_float32() -> None:
    torch.manual_seed(0)
    layer, x = DepthwiseConv(8, 8, 5, padding=2, groups=8, bias=False), torch.randn(2, 8, 9, 9).bfloat16()
    layer(x.float()).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16  # what follows stays cheap
    y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected)
