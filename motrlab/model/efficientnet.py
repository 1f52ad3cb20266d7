"""EfficientNet feature extractor without squeeze-excitation, with ReLU or ReLU6 (arXiv 1905.11946).

Shapes: images `[B, 3, H, W]` → one map `[B, C, H / s, W / s]`, where s is the product of the strides, halved once
more by the optional upsampling.
"""

from typing import Any

import torch
from torch import nn

from motrlab.config import BackboneStage, ModelConfig
from motrlab.model.operations import FLOAT, Operations

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel on its own. Where a CPU trains in bfloat16 it is computed in float32: its gradients
    take three to five times as long in bfloat16 (torch 2.13, docs/LOG.md).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trained = x.requires_grad or self.weight.requires_grad
        if x.device.type != "cpu" or not (trained and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(torch.get_autocast_dtype("cpu"))


class ConvBN(nn.Sequential):
    """Convolution without bias, BatchNorm, and the activation (`relu`, `relu6` or "": none)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, activation: str = "relu"
    ) -> None:
        depthwise = 1 < groups == inputs == outputs
        kind = DepthwiseConv if depthwise else nn.Conv2d
        conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([_ACTIVATIONS[activation]()] if activation else []))


class MBConv(nn.Module):
    """Mobile inverted bottleneck, or its fused form (`BackboneStage.fused`); residual where the shape allows it."""

    def __init__(self, in_channels: int, stage: BackboneStage, stride: int, *, activation: str = "relu") -> None:
        super().__init__()
        kernel, hidden, out = stage.kernel, in_channels * stage.expansion, stage.channels
        wider = stage.expansion > 1
        if stage.fused:  # one full convolution
            layers = [ConvBN(in_channels, hidden if wider else out, kernel, stride, activation=activation)]
        else:
            layers = [ConvBN(in_channels, hidden, 1, activation=activation)] if wider else []
            layers.append(ConvBN(hidden, hidden, kernel, stride, hidden, activation=activation))
        if wider or not stage.fused:
            layers.append(ConvBN(hidden, out, 1, activation=""))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out

    def forward(self, x: Any, net: Operations = FLOAT) -> Any:
        y = x
        for layer in self.layers:
            y = net.conv(layer, y)
        return net.add(self, x, y) if self.residual else y


class EfficientNet(nn.Module):
    """Stem and stages of `config`; `out_channels` and `stride` describe the map that `forward` returns."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        act, channels, stride = config.activation, config.stem_channels, 2
        self.stem = ConvBN(3, channels, 3, 2, activation=act)
        self.stages = nn.ModuleList()
        before = 0  # channels of the last map of twice the final resolution
        for stage in config.stages:
            if stage.stride == 2:
                before = channels
            blocks = nn.ModuleList([MBConv(channels, stage, stage.stride, activation=act)])
            channels, stride = stage.channels, stride * stage.stride
            blocks.extend(MBConv(channels, stage, 1, activation=act) for _ in range(stage.blocks - 1))
            self.stages.append(blocks)
        # Index of the stage whose stride is the last one: its input is the finer map of the upsampling.
        self.last_strided = max((i for i, s in enumerate(config.stages) if s.stride == 2), default=0)
        self.upsample = config.upsample
        if config.upsample:
            self.lateral = ConvBN(before, channels, 1, activation="")
            self.smooth = ConvBN(channels, channels, 3, activation=act)
            stride //= 2
        self.out_channels = channels
        self.stride = stride

    def forward(self, images: Any, net: Operations = FLOAT) -> Any:
        """`[B, 3, H, W]` → `[B, out_channels, H / stride, W / stride]`."""
        x = net.conv(self.stem, images)
        finer = x
        for index, stage in enumerate(self.stages):
            if index == self.last_strided:
                finer = x
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, net)
        if self.upsample:
            side = net.conv(self.lateral, finer)
            x = net.conv(self.smooth, net.add(self, side, net.upsample(x, side)))
        return x


def freeze_stages(backbone: EfficientNet, num_stages: int) -> None:
    """Take the stem and the first `num_stages` stages out of the training; 0 takes out nothing, not even the stem.

    Their maps are the largest: without gradients they cost no backward pass and no memory.
    """
    if num_stages:
        for part in (backbone.stem, *backbone.stages[:num_stages]):
            part.requires_grad_(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep BatchNorm statistics as they are while training (`TrainConfig.freeze_bn`)."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()


def fold_batch_norm(module: nn.Module) -> None:
    """Fold every BatchNorm of `module` into the convolution before it, in place; the module must be in eval mode.

    Quantisation starts from the folded network.
    """
    for child in module.modules():
        if isinstance(child, ConvBN) and isinstance(child[1], nn.BatchNorm2d):
            conv = child[0]
            assert isinstance(conv, nn.Conv2d)
            child[0] = torch.nn.utils.fuse_conv_bn_eval(conv.eval(), child[1].eval())
            child[1] = nn.Identity()
