"""Checkpoints: safetensors with their facts in the header. Nothing is pickled.

A training's file holds the weights (`model.…`), the optimiser's moments (`optimizer.INDEX.NAME`), the average of the
weights (`ema.…`) and a JSON text (step, identity of the training); it is moved into place in one go, so
that a kill leaves the file before or the file after.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.files import atomic_path
from motrlab.model.motr import Motr

_FACTS = "motrlab"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to one safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={_FACTS: json.dumps(dict(facts), sort_keys=True)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `save_tensors`. Raises UserError if the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: run the stage that writes it first")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged checkpoint ({error}); delete it and run the stage again") from error


def save_model(path: Path, model: nn.Module, config: Config, **facts: Any) -> None:
    """Weights only, with the config they belong to."""
    save_tensors(path, state_tensors("model", model), {"config": config.to_dict(), **facts})


def load_model(path: Path, config: Config) -> Motr:
    """A model in eval mode. Raises UserError if the checkpoint is of another architecture."""
    tensors, facts = load_tensors(path)
    if "config" in facts:
        # The shapes are all that matters, and fields younger than the file have their defaults.
        stored = Config.from_dict({**config.to_dict(), "model": facts["config"]["model"]})
        if stored.model != config.model:
            raise UserError(
                f"{path}: a checkpoint of preset {facts['config']['preset']!r} with other shapes than this run's"
            )
    model = Motr(config.model)
    model.load_state_dict(part(tensors, "model"))
    return model.eval()


def save_training(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
) -> None:
    """All that a training needs to go on, modules under their names. `facts`: `step` (updates done), `identity`, ..."""
    tensors = optimizer_tensors(optimizer)
    for name, module in modules.items():
        tensors |= state_tensors(name, module)
    save_tensors(path, tensors, facts)


def load_training(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, identity: str
) -> dict[str, Any]:
    """Restore modules and optimiser in place; the file's facts.

    Raises UserError if the file is of a training with another identity (config, data, start).
    """
    tensors, facts = load_tensors(path)
    if facts.get("identity") != identity:
        raise UserError(f"{path}: of a training with other settings; delete it to start again, or restore the settings")
    for name, module in modules.items():
        module.load_state_dict(part(tensors, name))
    load_optimizer(optimizer, part(tensors, "optimizer"))
    return facts


def state_hash(model: nn.Module) -> str:
    """First 12 hex digits of the SHA-256 of a model's state: what a training started from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def state_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's state as `NAME.…`; `part` is the inverse."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names start with `NAME.`, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `optimizer.INDEX.NAME`."""
    return {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state from tensors named `INDEX.NAME`; the parameter groups stay as they are."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
