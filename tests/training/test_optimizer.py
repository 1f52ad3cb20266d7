"""Learning rates, parameter groups; Muon: its updates, what it leaves to AdamW, its state that can be saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from motrlab.config import Config, TrainConfig, street
from motrlab.errors import UserError
from motrlab.model.motr import Motr, build_motr
from motrlab.training.checkpoint import load_optimizer, optimizer_tensors
from motrlab.training.optimizer import Muon, lr_factor, make_optimizer, orthogonalise, parameter_groups, set_lr
from motrlab.training.trainee import ClipModel
from tests.tiny import tiny

MUON = replace(tiny().train, optimizer="muon", lr=0.01, weight_decay=0.0)
BASE = replace(tiny().train, steps=1000, warmup=0.0, step_milestones=(0.5, 0.8))
STEP = replace(BASE, schedule="step")
CYCLE = replace(BASE, schedule="one_cycle", warmup=0.1)
CONSTANT = replace(BASE, schedule="constant")
COSINE = replace(BASE, schedule="cosine", warmup=0.1)

VALUES = {
    "step, start": (STEP, 0, 1.0),
    "step, before the drop": (STEP, 499, 1.0),
    "step, at the drop": (STEP, 500, 0.1),
    "step, second drop": (STEP, 800, 0.01),
    "step, end": (STEP, 999, 0.01),
    "step, warm-up": (replace(STEP, warmup=0.1), 49, 0.5),
    "step, warmed up": (replace(STEP, warmup=0.1), 100, 1.0),
    "one cycle, start": (CYCLE, 0, 0.04 + 0.96 / 100),
    "one cycle, half warm": (CYCLE, 49, 0.52),
    "one cycle, last of the warm-up": (CYCLE, 99, 1.0),
    "one cycle, top": (CYCLE, 100, 1.0),
    "one cycle, half way down": (CYCLE, 550, 0.5),
    "one cycle, end": (CYCLE, 1000, 1e-3),
    "one cycle without warm-up": (replace(CYCLE, warmup=0.0), 0, 1.0),
    "cosine, start": (COSINE, 0, 1 / 100),
    "cosine, half warm": (COSINE, 49, 0.5),
    "cosine, top": (COSINE, 100, 1.0),
    "cosine, a third down": (COSINE, 400, 0.75),
    "cosine, half way down": (COSINE, 550, 0.5),
    "cosine, end": (COSINE, 1000, 0.0),
    "cosine without warm-up": (replace(COSINE, warmup=0.0), 0, 1.0),
    "constant, start": (CONSTANT, 0, 1.0),
    "constant, end": (CONSTANT, 999, 1.0),
    "constant, warm-up": (replace(CONSTANT, warmup=0.2), 0, 1 / 200),
}


@pytest.mark.parametrize(("config", "step", "factor"), VALUES.values(), ids=VALUES)
def test_lr_factor(config: TrainConfig, step: int, factor: float) -> None:
    assert lr_factor(config, step) == pytest.approx(factor)


def test_one_cycle_goes_up_then_down() -> None:
    factors = [lr_factor(CYCLE, step) for step in range(1000)]
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert min(factors) >= 1e-3
    assert max(factors) == 1.0


@pytest.fixture
def model(config: Config) -> Motr:
    return build_motr(config.model)


@pytest.fixture
def rates() -> TrainConfig:
    rates = {"lr": 1e-3, "backbone_lr_factor": 0.1, "offset_lr_factor": 0.3, "weight_decay": 0.02}
    return replace(BASE, optimizer="adamw", **rates)


def test_every_parameter_is_in_one_group_with_its_rate(model: Motr, rates: TrainConfig) -> None:
    groups = parameter_groups(model, rates)
    torch.optim.AdamW(groups)  # refuses a parameter that stands twice
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    seen = set()
    for name, parameter in model.named_parameters():
        lr, decay = found[id(parameter)]
        new = "lateral" in name or "smooth" in name  # no published network has them: they learn at the full rate
        kind = "backbone" if "backbone" in name and not new else "offsets" if "offsets" in name else "other"
        assert lr == pytest.approx({"backbone": 1e-4, "offsets": 3e-4, "other": 1e-3}[kind]), name
        vector = parameter.ndim <= 1 or "detect" in name or "overlap" in name
        assert decay == (0.0 if vector else 0.02), name
        seen.add((kind, vector))
    assert seen == {(kind, vector) for kind in ("backbone", "offsets", "other") for vector in (True, False)}


def test_muon_has_its_own_factor_and_leaves_initialised_weights_alone(model: Motr, rates: TrainConfig) -> None:
    names = {id(p): name for name, p in model.named_parameters()}
    for init, backbone in (("", True), ("efficientnet-lite0", False)):
        muon = replace(rates, optimizer="muon", muon_lr_factor=3.0, init=init)
        groups = [group for group in parameter_groups(model, muon) if group.get("muon")]
        taken = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
        assert taken["base.decoder.0.ffn.expand.weight"] == pytest.approx(3e-3)
        assert ("base.backbone.stages.1.0.layers.0.0.weight" in taken) == backbone


def test_what_only_training_has_is_in_the_groups(model: Motr, rates: TrainConfig) -> None:
    """The query of denoising is a table like the detect queries."""
    rates = replace(rates, denoising_groups=1)
    clips = ClipModel(model, rates)
    found = {id(p): group["weight_decay"] for group in parameter_groups(clips, rates) for p in group["params"]}
    own = [parameter for name, parameter in clips.named_parameters() if not name.startswith("motr.")]
    assert [found[id(parameter)] for parameter in own] == [0.0]


def test_frozen_parameters_are_left_out(model: Motr, rates: TrainConfig) -> None:
    for parameter in model.base.backbone.parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(model, rates)
    assert 1e-4 not in [pytest.approx(group["lr"]) for group in groups]
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in model.parameters())


def test_set_lr_scales_every_groups_own_rate(model: Motr, rates: TrainConfig) -> None:
    groups = parameter_groups(model, rates)
    for factor in (0.5, 0.1):  # not on top of each other
        set_lr(groups, factor)
        assert [g["lr"] for g in groups] == pytest.approx([g["initial_lr"] * factor for g in groups])


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
    with pytest.raises(UserError, match="optimizer must be one of adamw, muon"):
        TrainConfig(steps=1, optimizer="sgd")


def test_muon_config_is_used() -> None:
    model = build_motr(tiny().model)
    assert isinstance(make_optimizer(parameter_groups(model, MUON), 0.99), Muon)
