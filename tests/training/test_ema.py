"""The average of the weights against its definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from motrlab.config import Config
from motrlab.data.store import FrameStore
from motrlab.training.checkpoint import load_tensors, part
from motrlab.training.ema import Ema
from motrlab.training.trainer import train_float


def changed(model: nn.Module, seed: int) -> None:
    """Another state: weights, statistics, and the counter of batches."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator))
        else:
            value += 1


def test_it_is_the_weighted_mean_of_what_came() -> None:
    """Σ dⁿ⁻ⁱ xᵢ / Σ dⁿ⁻ⁱ: the state before the first update has no part in it."""
    model, decay, states = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), 0.8, []
    ema = Ema(model, decay)
    for seed in range(5):
        changed(model, seed)
        ema.update_parameters(model)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    weights = torch.tensor([decay ** (4 - i) for i in range(5)])
    for name, average in ema.average.items():
        if average.is_floating_point():
            stacked = torch.stack([state[name] for state in states])
            expected = torch.einsum("n...,n->...", stacked, weights) / weights.sum()
            torch.testing.assert_close(average, expected, msg=name)
    assert ema.average["1.num_batches_tracked"] == 5
    assert not torch.equal(ema.average["1.running_mean"], states[-1]["1.running_mean"])  # statistics are averaged too


def test_after_one_update_it_is_the_model() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.999)
    changed(model, 1)
    ema.update_parameters(model)
    torch.testing.assert_close(ema.average["weight"], model.weight.detach())


def test_applied_and_given_back() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.5)
    for seed in range(2):
        changed(model, seed)
        ema.update_parameters(model)
    own = model.weight.detach().clone()
    with ema.applied(model):
        assert torch.equal(model.weight, ema.average["weight"])
    assert torch.equal(model.weight, own)
    with pytest.raises(ZeroDivisionError), ema.applied(model):
        raise ZeroDivisionError
    assert torch.equal(model.weight, own)


def test_the_average_is_validated_and_saved(store: FrameStore, config: Config, tmp_path: Path) -> None:
    train = replace(config.train, steps=4, ema_decay=0.6, validate_every=2, keep_every=2)
    seen = []

    def validate(model: nn.Module, step: int) -> dict[str, float | None]:
        assert not model.training
        seen.append((step, {name: value.clone() for name, value in model.state_dict().items()}))
        return {}

    model, _ = train_float(store, replace(config, train=train), tmp_path, validate=validate)
    tensors, _ = load_tensors(next(tmp_path.glob("training-*.safetensors")))
    average, last = part(tensors, "ema"), part(tensors, "model")
    saved = part(load_tensors(tmp_path / "model.safetensors")[0], "model")
    kept = part(load_tensors(next(tmp_path.glob("step-000002-*.safetensors")))[0], "model")
    assert [step for step, _ in seen] == [2, 4]
    for name, value in model.state_dict().items():
        assert torch.equal(value, average[f"module.motr.{name}"]), name
        assert torch.equal(value, saved[name]), name
        assert torch.equal(value, seen[1][1][name]), name
        assert torch.equal(seen[0][1][name], kept[name]), name
    assert not torch.equal(saved["base.detect.query"], last["motr.base.detect.query"])
