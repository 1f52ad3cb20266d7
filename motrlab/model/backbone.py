"""Backbones by name (`ModelConfig.backbone`): a new one is a file of its own and an entry in `BACKBONES`."""

from collections.abc import Callable
from typing import Any

from motrlab.config import ModelConfig
from motrlab.errors import UserError
from motrlab.model.efficientnet import EfficientNet

BACKBONES: dict[str, Callable[[ModelConfig], Any]] = {"efficientnet": EfficientNet}


def build_backbone(config: ModelConfig) -> Any:
    """The `nn.Module` that `config.backbone` names. Raises UserError if there is none.

    Its `module(images, net)`, written against `Operations`, takes `[B, 3, H, W]` to one map
    `[B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]`. It has `out_channels`, `stride` (of its map, pixels), and for
    `frozen_stages` `stem` and `stages`, its parts from the image on.
    """
    if config.backbone not in BACKBONES:
        raise UserError(f"model: unknown backbone {config.backbone!r}; one of {', '.join(BACKBONES)}")
    return BACKBONES[config.backbone](config)
