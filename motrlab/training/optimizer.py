"""The optimiser: AdamW, and Muon for the weight matrices of hidden layers; its parameter groups and learning rates."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from motrlab.config import TrainConfig

# Coefficients of the quintic iteration: steep at zero, so that five rounds suffice (Jordan et al., "Muon", 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_NEVER_PRETRAINED = (".lateral.", ".smooth.")  # layers of the backbone that no published network has
_MUON_SIDE = 16  # smallest side of a matrix that Muon takes: heads and depthwise kernels stay with AdamW
_OUTPUTS = (".offsets.", ".weights.")  # of deformable attention: no hidden layers either
_TABLES = (".detect.", ".overlap.", ".extras.")  # queries and references of slots, factors of the overlap bias
_UPDATE_RMS = 0.2  # of AdamW's updates, roughly (arXiv 2502.16982, section 2.2): both then share a learning rate


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


def make_optimizer(groups: Iterable[Mapping[str, Any]], beta2: float) -> torch.optim.Optimizer:
    """The optimiser for the groups of `parameter_groups`."""
    own: list[dict[str, Any]] = [dict(group) for group in groups]
    kind = Muon if any(group.get("muon") for group in own) else torch.optim.AdamW
    return kind(own, betas=(0.9, beta2), fused=True)


class Muon(torch.optim.AdamW):
    """AdamW in which the groups with `muon` true move by orthogonalised momentum instead (Jordan et al., 2024).

    Each weight counts as a matrix with a row per output channel; the update has the singular vectors of the (Nesterov)
    momentum and singular values near one, scaled to AdamW's usual size. torch's own `Muon` takes plain matrices only,
    one by one, and in bfloat16, which processors without it emulate; here equal shapes are one batched product.
    """

    momentum = 0.95

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; `closure` is not supported."""
        assert closure is None
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("muon"):
                self._orthogonal_step(group)

    def _orthogonal_step(self, group: Mapping[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum" not in state:
                state["step"] = torch.zeros(())  # AdamW looks for it in every state it loads
                state["momentum"] = torch.zeros_like(parameter)
            state["step"] += 1
            state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
            direction = parameter.grad.lerp(state["momentum"], self.momentum).flatten(1)
            shapes.setdefault(tuple(direction.shape), []).append((parameter, direction))
        for (rows, columns), items in shapes.items():
            updates = orthogonalise(torch.stack([direction for _, direction in items]))
            rate = group["lr"] * _UPDATE_RMS * math.sqrt(max(rows, columns))
            for (parameter, _), update in zip(items, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """`[K, M, N]` → the same singular vectors, all singular values between about 0.7 and 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # the largest singular value is then at most one
    linear, cubic, quintic = _NEWTON_SCHULZ
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.mT if tall else x
