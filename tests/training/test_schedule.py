from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motrlab.config import Config, TrainConfig
from motrlab.model.motr import Motr, build_motr
from motrlab.training.schedule import lr_factor, parameter_groups, set_lr
from motrlab.training.trainee import ClipModel
from tests.tiny import tiny

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
