"""Muon: what its updates are, what it leaves to AdamW, and that its state can be saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from motrlab.config import street
from motrlab.config.training import TrainConfig
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.training.checkpoint import load_optimizer, optimizer_tensors
from motrlab.training.optimizer import Muon, make_optimizer, orthogonalise
from motrlab.training.schedule import parameter_groups
from tests.tiny import tiny

MUON = replace(tiny().train, optimizer="muon", lr=0.01, weight_decay=0.0)


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24)])
def test_orthogonalise_keeps_singular_vectors_and_levels_their_values(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    found = left.mT @ orthogonalise(x) @ right.mT  # diagonal where the singular vectors are the same
    levels = torch.diagonal(found, dim1=1, dim2=2)
    assert (levels > 0.3).all()
    assert (levels < 1.3).all()
    assert ((levels > 0.6).double().mean()) > 0.9
    torch.testing.assert_close(found, torch.diag_embed(levels), rtol=0, atol=1e-6)


def test_first_update_is_the_orthogonalised_gradient() -> None:
    weight = nn.Parameter(torch.zeros(16, 4, 3, 3))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "muon": True}], 0.99)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    size = 0.2 * 36**0.5 * 0.1  # the larger side of 16 × 36
    expected = -size * orthogonalise(weight.grad.flatten(1)[None])[0].reshape(weight.shape)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)


def test_momentum_and_decay_of_two_updates() -> None:
    weight = nn.Parameter(torch.ones(16, 20))
    optimizer = make_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.5, "muon": True}], 0.99)
    gradients = [torch.randn(16, 20, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    expected, momentum = weight.detach().clone(), torch.zeros(16, 20)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonalise((0.05 * gradient + 0.95 * momentum)[None])[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 20**0.5 * update
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_only_hidden_matrices_are_muons() -> None:
    model = build_motr(street().model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, street().train)
    taken = {names[id(p)] for group in groups if group.get("muon") for p in group["params"]}
    assert {"base.backbone.stem.0.weight", "base.decoder.0.ffn.expand.weight", "qim.attention.query.weight"} <= taken
    others = ("offsets", "weights.", "class_heads", ".out.weight_", "detect", "overlap", "norm", "bias")
    assert not [name for name in taken if any(part in name for part in others)]
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_adamw_is_untouched_by_muon_groups() -> None:
    """Beside a Muon group, AdamW's parameters move as they do alone."""
    one, two = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    matrix = nn.Parameter(torch.zeros(16, 16))
    plain = {"lr": 0.1, "weight_decay": 0.1}
    mixed = make_optimizer([{"params": [one], **plain}, {"params": [matrix], **plain, "muon": True}], 0.99)
    alone = make_optimizer([{"params": [two], **plain}], 0.99)
    assert not isinstance(alone, Muon)
    matrix.grad = torch.eye(16)
    for _ in range(3):
        one.grad, two.grad = torch.arange(5.0), torch.arange(5.0)
        mixed.step()
        alone.step()
    assert torch.equal(one, two)
    assert len(mixed.param_groups) == 2


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        weight = nn.Parameter(torch.ones(16, 16))
        return weight, make_optimizer([{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "muon": True}], 0.99)

    def step(weight: nn.Parameter, optimizer: torch.optim.Optimizer, seed: int) -> None:
        weight.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    weight, optimizer = fresh()
    for seed in range(3):
        step(weight, optimizer, seed)
    again, restored = fresh()
    again.data.copy_(weight.data)
    state = optimizer_tensors(optimizer)
    tensors = {name.removeprefix("optimizer."): value.clone() for name, value in state.items()}
    load_optimizer(restored, tensors)
    step(weight, optimizer, 9)
    step(again, restored, 9)
    assert torch.equal(weight, again)


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="adamw or muon"):
        TrainConfig(steps=1, optimizer="sgd")


def test_muon_config_is_used() -> None:
    model = build_motr(tiny().model)
    assert isinstance(make_optimizer(parameter_groups(model, MUON), 0.99), Muon)
