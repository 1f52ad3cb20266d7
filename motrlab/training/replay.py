"""When a loss or a gradient is not finite: where it began, and the step saved so that it can be repeated.

`python -m motrlab train --replay FILE` takes the step again from such a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.data.clips import ClipBatch, ClipDataset, ClipKey
from motrlab.training.checkpoint import load_tensors, optimizer_tensors, part, save_tensors
from motrlab.training.criterion import ClipLoss
from motrlab.training.distributed import make_accelerator
from motrlab.training.trainee import Trainee

_SHOWN = 3  # names in a message
_PLAIN = (bool, int, float, str)  # fields of a batch that are facts rather than tensors


@dataclass(frozen=True)
class NonFinite:
    """Names of what is not finite, in the order in which a step makes them; at most one kind need be looked at.

    `modules` stand in the order of their calls: the first is where it began.
    """

    weights: list[str]
    inputs: list[str]
    modules: list[str]
    terms: list[str]
    gradients: list[str]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in dataclasses.fields(self))

    def text(self) -> str:
        """The first of them, for a message."""
        for kind, names in (
            ("weight", self.weights),
            ("input", self.inputs),
            ("output of", self.modules),
            ("", self.terms),
            ("gradient of", self.gradients),
        ):
            if names:
                rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                return f"{kind} {', '.join(names[:_SHOWN])}{rest}".strip()
        return ""


def clip_generators(seed: int, keys: Sequence[ClipKey]) -> list[np.random.Generator]:
    """The random generators of clips: (seed, step, index of the clip) decides, nothing else."""
    return [np.random.default_rng((seed, step, index, 1)) for step, index, _ in keys]


def find_non_finite(
    clips: nn.Module,
    batches: Sequence[ClipBatch],
    seed: int,
    keys: Sequence[Sequence[ClipKey]],
    buffers: Mapping[str, Tensor],
) -> NonFinite:
    """Take a step of micro-batches again, forward and backward, and watch every module.

    `clips(batch, generators)` gives a `ClipLoss`. `buffers` are those before the step (statistics move with a forward
    pass): the model has them in the end, and no gradients.
    """
    _restore(clips, buffers)
    weights = [name for name, p in clips.named_parameters() if not _finite(p)]
    images = [image for batch in batches for image in batch.images.unbind(1)]
    inputs = [f"images of clip {number}" for number, image in enumerate(images) if not _finite(image)]
    modules: dict[str, None] = {}
    terms: list[str] = []
    clips.zero_grad(set_to_none=True)
    with _watched(clips, modules):
        for batch, own in zip(batches, keys, strict=True):
            loss: ClipLoss = clips(batch, clip_generators(seed, own))
            terms += [name for name, value in loss.named().items() if not np.isfinite(value)]
            loss.total.backward()
    gradients = [name for name, p in clips.named_parameters() if p.grad is not None and not _finite(p.grad)]
    clips.zero_grad(set_to_none=True)
    _restore(clips, buffers)
    return NonFinite(weights, inputs, list(modules), terms, gradients)


def clip_names(dataset: ClipDataset, keys: Sequence[ClipKey]) -> list[str]:
    """Sequence and frames of clips, `street-03 frames 7 9 11`."""
    names = []
    for step, index, num_frames in keys:
        name, frames = dataset.draw_frames(np.random.default_rng((dataset.seed, step, index)), num_frames)
        names.append(f"{name} frames {' '.join(map(str, frames))}")
    return names


def save_step(
    path: Path,
    clips: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[ClipBatch],
    keys: Sequence[Sequence[ClipKey]],
    facts: Mapping[str, Any],
) -> None:
    """Weights, optimiser and micro-batches before an update; `facts` must tell how the model is made."""
    tensors = {f"model.{name}": value for name, value in clips.state_dict().items()} | optimizer_tensors(optimizer)
    plain: list[dict[str, Any]] = []
    for number, batch in enumerate(batches):
        values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        plain.append({name: value for name, value in values.items() if isinstance(value, _PLAIN)})
        for name in values.keys() - plain[-1].keys():
            tensors |= _pack(f"batch.{number}.{name}", values[name])
    save_tensors(path, tensors, {**facts, "keys": [list(own) for own in keys], "plain": plain})


def load_step(path: Path) -> tuple[dict[str, Tensor], list[ClipBatch], list[list[ClipKey]], dict[str, Any]]:
    """The tensors of `save_step`, its micro-batches, their keys and its facts. Raises UserError if it is damaged."""
    tensors, facts = load_tensors(path)
    names = {field.name for field in dataclasses.fields(ClipBatch)}
    batches = [
        ClipBatch(**plain, **{name: _unpack(f"batch.{number}.{name}", tensors) for name in names - plain.keys()})
        for number, plain in enumerate(facts["plain"])
    ]
    keys: list[list[ClipKey]] = [[(step, index, n) for step, index, n in own] for own in facts["keys"]]
    return tensors, batches, keys, facts


def replay_step(path: Path, trainee: Trainee, config: Config) -> str:
    """Take a saved step again with `trainee`, made as the file's facts say; what is not finite, in a few lines."""
    accelerator = make_accelerator(config.train.bf16)
    tensors, batches, keys, facts = load_step(path)
    trainee.prepare(facts["step"])
    accelerator.prepare_model(trainee.clips)
    trainee.clips.load_state_dict(part(tensors, "model"))
    buffers = {name: value.clone() for name, value in trainee.clips.named_buffers()}
    found = find_non_finite(trainee.clips, [b.to(accelerator.device) for b in batches], config.seed, keys, buffers)
    lines = [f"step {facts['step']}, clips {facts['clips']}"]
    for field in dataclasses.fields(found):
        names = getattr(found, field.name)
        if names:
            lines.append(f"{field.name} that are not finite ({len(names)}): {', '.join(names[:10])}")
    return "\n".join(lines if found else [*lines, f"all finite here; it was: {facts['found']}"])


def _restore(clips: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    for name, value in clips.named_buffers():
        value.copy_(buffers[name])


def _pack(name: str, value: Any) -> dict[str, Tensor]:
    """A tensor under its name, or a table `[frame][clip]` of tensors as one and their lengths."""
    if isinstance(value, Tensor):
        return {name: value}
    counts = torch.tensor([[len(cell) for cell in row] for row in value])
    return {name: torch.cat([cell for row in value for cell in row]), f"{name}.counts": counts}


def _unpack(name: str, tensors: Mapping[str, Tensor]) -> Any:
    if f"{name}.counts" not in tensors:
        return tensors[name]
    counts: list[list[int]] = tensors[f"{name}.counts"].tolist()
    cells = iter(tensors[name].split([n for row in counts for n in row]))
    return [[next(cells) for _ in row] for row in counts]


@contextmanager
def _watched(model: nn.Module, found: dict[str, None]) -> Iterator[None]:
    """Inside the block, names of modules whose output is not finite are noted; the inner ones come first."""

    def note(name: str, output: Any) -> None:
        if not all(_finite(tensor) for tensor in _tensors(output)):
            found.setdefault(name)

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for inner in value for tensor in _tensors(inner)]
    return []


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
