"""Learning rates by step, and the parameter groups of the reference recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from motrlab.config import TrainConfig

_NEVER_PRETRAINED = (".lateral.", ".smooth.")  # layers of the backbone that no published network has
_MUON_SIDE = 16  # smallest side of a matrix that Muon takes: heads and depthwise kernels stay with AdamW
_OUTPUTS = (".offsets.", ".weights.")  # of deformable attention: no hidden layers either
_TABLES = (".detect.", ".overlap.", ".extras.")  # queries and references of slots, factors of the overlap bias


def lr_factor(config: TrainConfig, step: int) -> float:
    """Factor on every group's learning rate at `step` (from 0).

    `step`: ×0.1 at each milestone. `cosine`: half a cosine down to 0 (arXiv 1608.03983, without restarts). `one_cycle`:
    up from a 25th and down to a thousandth. `constant`: 1. All with a linear warm-up over the first `warmup` of the
    steps, by default none.
    """
    progress = step / config.steps
    if config.warmup and progress < config.warmup:
        ramp = (step + 1) / (config.warmup * config.steps)
        # One-cycle starts at a 25th, plain warm-up at nothing.
        return min(1.0, 0.04 + 0.96 * ramp) if config.schedule == "one_cycle" else min(1.0, ramp)
    if config.schedule in ("one_cycle", "cosine"):
        rest = (progress - config.warmup) / max(1 - config.warmup, 1e-9)
        return max(0.5 * (1 + math.cos(math.pi * rest)), 1e-3 if config.schedule == "one_cycle" else 0.0)
    if config.schedule == "step":
        return float(0.1 ** sum(progress >= m for m in config.step_milestones))
    return 1.0


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups: backbone and sampling offsets at their own rates; no weight decay on vectors and slot tables.

    With `config.optimizer` "muon", the weights of hidden layers are groups with `muon` true.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        pretrained = ".backbone." in name and not any(part in name for part in _NEVER_PRETRAINED)
        factor = config.backbone_lr_factor if pretrained else 1.0
        factor = config.offset_lr_factor if ".offsets." in name else factor
        plain = parameter.ndim <= 1 or any(part in f".{name}" for part in _TABLES)
        initialised = pretrained and bool(config.init)  # Muon would turn all of its directions alike, learned or not
        muon = config.optimizer == "muon" and not (plain or initialised) and _is_hidden(name, parameter)
        factor *= config.muon_lr_factor if muon else 1.0
        groups.setdefault((factor, 0.0 if plain else config.weight_decay, muon), []).append(parameter)
    return [
        {"params": params, "lr": config.lr * factor, "initial_lr": config.lr * factor, "weight_decay": decay}
        | ({"muon": True} if muon else {})
        for (factor, decay, muon), params in sorted(groups.items(), key=lambda item: item[0])
    ]


def _is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether a weight is a matrix between hidden layers, the kernels of a convolution side by side."""
    smaller = min(weight.shape[0], weight[0].numel())
    return smaller >= _MUON_SIDE and not any(part in name for part in _OUTPUTS)


def set_lr(param_groups: Iterable[dict[str, Any]], factor: float) -> None:
    """Apply a factor to each group's own rate."""
    for group in param_groups:
        group["lr"] = group["initial_lr"] * factor
