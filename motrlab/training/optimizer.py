"""The optimiser: AdamW, and Muon for the weight matrices of hidden layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration: steep at zero, so that five rounds suffice (Jordan et al., "Muon", 2024).
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_UPDATE_RMS = 0.2  # of AdamW's updates, roughly (arXiv 2502.16982, section 2.2): both then share a learning rate


def make_optimizer(groups: Iterable[Mapping[str, Any]], beta2: float) -> torch.optim.Optimizer:
    """The optimiser for the groups of `schedule.parameter_groups`."""
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
