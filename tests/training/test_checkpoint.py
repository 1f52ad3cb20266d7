from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.model.motr import Motr, build_motr
from motrlab.training.checkpoint import load_model, load_tensors, load_training, save_model, save_tensors, save_training
from motrlab.training.optimizer import parameter_groups


def assert_same_weights(a: Motr, b: Motr) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def optimizer_of(model: Motr, config: Config) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, config.train))


def step(model: Motr, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_model_round_trip(tmp_path: Path, config: Config) -> None:
    model = build_motr(config.model, seed=3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.25
    save_model(tmp_path / "m.safetensors", model, config, step=7)
    found = load_model(tmp_path / "m.safetensors", config)
    assert_same_weights(found, model)
    assert not found.training
    assert load_tensors(tmp_path / "m.safetensors")[1]["step"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]  # nothing temporary is left


def test_training_goes_on_as_if_never_interrupted(tmp_path: Path, config: Config) -> None:
    model = build_motr(config.model)
    optimizer = optimizer_of(model, config)
    for seed in range(2):
        step(model, optimizer, seed)
    save_training(
        tmp_path / "t.safetensors", {"model": model}, optimizer, {"step": 2, "identity": "abc", "seconds": 1.5}
    )
    step(model, optimizer, 2)

    again = build_motr(config.model, seed=9)
    restored = optimizer_of(again, config)
    facts = load_training(tmp_path / "t.safetensors", {"model": again}, restored, "abc")
    assert (facts["step"], facts["seconds"]) == (2, 1.5)
    step(again, restored, 2)
    assert_same_weights(again, model)
    expected, found = optimizer.state_dict(), restored.state_dict()
    assert expected["param_groups"] == found["param_groups"]
    for index, state in expected["state"].items():
        for name, value in state.items():
            assert torch.equal(value, found["state"][index][name]), (index, name)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "last byte gone": lambda data: data[:-1],
    "header cut": lambda data: data[:100],
    "empty": lambda data: b"",
    "other bytes": lambda data: bytes(range(256)) * 8,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused_by_name(tmp_path: Path, config: Config, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "m.safetensors"
    save_model(file, build_motr(config.model), config)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"m\.safetensors: damaged checkpoint .*; delete it"):
        load_model(file, config)


def test_missing_file(tmp_path: Path, config: Config) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*m\.safetensors"):
        load_model(tmp_path / "m.safetensors", config)


def test_weights_of_another_preset_are_refused(tmp_path: Path, config: Config) -> None:
    file = tmp_path / "m.safetensors"
    save_model(file, build_motr(config.model), config)
    load_model(file, replace(config, train=replace(config.train, lr=1.0)))  # how it was trained does not matter
    with pytest.raises(UserError, match=r"m\.safetensors: a checkpoint of preset 'tiny' with other shapes"):
        load_model(file, replace(config, model=replace(config.model, d_model=32)))


def test_training_with_other_settings_is_refused(tmp_path: Path, config: Config) -> None:
    file = tmp_path / "t.safetensors"
    model = build_motr(config.model)
    save_training(file, {"model": model}, optimizer_of(model, config), {"step": 2, "identity": "abc"})
    with pytest.raises(UserError, match=r"t\.safetensors: of a training with other settings"):
        load_training(file, {"model": model}, optimizer_of(model, config), "abd")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    save_tensors(file, {"x": torch.ones(2)}, {})
    with pytest.raises(TypeError):
        save_tensors(file, {"x": torch.zeros(2)}, {"not": object()})
    assert load_tensors(file)[0]["x"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
