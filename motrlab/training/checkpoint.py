"""Checkpoints: safetensors with their facts in the header. Nothing is pickled.

One file holds the weights (`model.…`), the optimiser's moments (`optimizer.INDEX.NAME`) and a JSON text (step, identity
of the training); it is moved into place in one go, so that a kill leaves the file before or the file after.
"""

from __future__ import annotations

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
from motrlab.model.motr import Motr
from motrlab.run import atomic_path

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
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, {"config": config.to_dict(), **facts})


def load_model(path: Path, config: Config) -> Motr:
    """A model in eval mode. Raises UserError if the checkpoint is of another architecture."""
    tensors, facts = load_tensors(path)
    stored = facts.get("config", {}).get("model")
    if stored is not None and stored != config.to_dict()["model"]:
        raise UserError(
            f"{path}: a checkpoint of preset {facts['config']['preset']!r} with other shapes than this run's"
        )
    model = Motr(config.model)
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    return model.eval()


def save_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, identity: str, seconds: float = 0.0
) -> None:
    """All that a training needs to go on after `step` updates, which took `seconds`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"step": step, "identity": identity, "seconds": seconds})


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> tuple[int, float]:
    """Restore model and optimiser in place; the number of updates done and the seconds they took.

    Raises UserError if the file is of a training with another identity (config, data, start).
    """
    tensors, facts = load_tensors(path)
    if facts.get("identity") != identity:
        raise UserError(f"{path}: left by a training with other settings; delete it to start anew, or restore them")
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(facts["step"]), float(facts["seconds"])
