"""When a loss or a gradient is not finite: where it began, and the step saved so that it can be repeated.

`python -m motrlab train --replay FILE` takes the step again from such a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.data.clips import ClipBatch, ClipDataset, ClipKey
from motrlab.data.transforms import FrameObjects
from motrlab.training.checkpoint import load_tensors, optimizer_tensors, part, save_tensors, state_tensors
from motrlab.training.criterion import ClipLoss
from motrlab.training.distributed import make_accelerator
from motrlab.training.memory import tensors_in
from motrlab.training.trainee import Trainee

_SHOWN, _LISTED = 3, 10  # names in a message, and in a replay's answer
_COLUMNS = ("boxes", "ids", "visibility", "kinds")  # of people
_WORDS = {"weights": "weight ", "inputs": "input ", "modules": "output of ", "terms": "", "gradients": "gradient of "}
# Kind, one of `_WORDS` → names of what is not finite, none without any; kinds in the order in which a step makes them.
Found = dict[str, list[str]]


def first_of(found: Found) -> str:
    """Where it began, for a message; empty where all is finite."""
    for kind, names in found.items():
        rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"{_WORDS[kind]}{', '.join(names[:_SHOWN])}{rest}"
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
) -> Found:
    """Take a step of micro-batches again, forward and backward, and watch every module.

    `clips(batch, generators)` gives a `ClipLoss`. `buffers` are those before the step (statistics move with a forward
    pass): the model has them in the end, and no gradients.
    """
    _restore(clips, buffers)
    found: Found = {kind: [] for kind in _WORDS}
    found["weights"] = [name for name, p in clips.named_parameters() if not _finite(p)]
    images = [image for batch in batches for image in batch.images.unbind(1)]
    found["inputs"] = [f"images of clip {number}" for number, image in enumerate(images) if not _finite(image)]
    clips.zero_grad(set_to_none=True)
    with _watched(clips, found["modules"]):
        for batch, own in zip(batches, keys, strict=True):
            loss: ClipLoss = clips(batch, clip_generators(seed, own))
            found["terms"] += [name for name, value in loss.named().items() if not np.isfinite(value)]
            loss.total.backward()
    found["gradients"] = [n for n, p in clips.named_parameters() if p.grad is not None and not _finite(p.grad)]
    clips.zero_grad(set_to_none=True)
    _restore(clips, buffers)
    return {kind: names for kind, names in found.items() if names}


def clip_names(dataset: ClipDataset, keys: Sequence[ClipKey]) -> list[str]:
    """Sequence and frames of clips, `street-03 frames 7 9 11`."""
    names = []
    for step, index, num_frames in keys:
        name, frames, _ = dataset.draw_frames(np.random.default_rng((dataset.seed, step, index)), num_frames)
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
    tensors = state_tensors("model", clips) | optimizer_tensors(optimizer)
    for number, batch in enumerate(batches):
        people = [frame for row in batch.objects for frame in row]  # the rows of all frames and clips, joined
        joined = {name: np.concatenate([getattr(frame, name) for frame in people]) for name in _COLUMNS}
        joined["counts"] = np.array([[len(frame.ids) for frame in row] for row in batch.objects])
        tensors |= {f"batch.{number}.{name}": torch.from_numpy(values) for name, values in joined.items()}
        tensors[f"batch.{number}.images"] = batch.images
    save_tensors(path, tensors, {**facts, "keys": [list(own) for own in keys]})


def load_step(path: Path) -> tuple[dict[str, Tensor], list[ClipBatch], list[list[ClipKey]], dict[str, Any]]:
    """The tensors of `save_step`, its micro-batches, their keys and its facts. Raises UserError if it is damaged."""
    tensors, facts = load_tensors(path)
    keys: list[list[ClipKey]] = [[(step, index, n) for step, index, n in own] for own in facts["keys"]]
    batches = []
    for number in range(len(keys)):
        saved = part(tensors, f"batch.{number}")
        counts = saved["counts"].numpy()
        columns = [np.split(saved[name].numpy(), counts.cumsum()[:-1]) for name in _COLUMNS]
        people = map(FrameObjects, *columns)
        objects = [[next(people) for _ in row] for row in counts]
        batches.append(ClipBatch(images=saved["images"], objects=objects))
    return tensors, batches, keys, facts


def replay_step(path: Path, trainee: Trainee, config: Config) -> str:
    """Take a saved step again with `trainee`, made as the file's facts say; what is not finite, in a few lines."""
    accelerator = make_accelerator(config.train.bf16)
    tensors, batches, keys, facts = load_step(path)
    trainee.prepare(facts["step"])
    accelerator.prepare_model(trainee.clips)
    trainee.clips.load_state_dict(part(tensors, "model"))
    buffers = {name: value.clone() for name, value in trainee.clips.named_buffers()}
    batches = [replace(batch, images=batch.images.to(accelerator.device)) for batch in batches]
    found = find_non_finite(trainee.clips, batches, config.seed, keys, buffers)
    lines = [f"step {facts['step']}, clips {facts['clips']}"]
    for kind, names in found.items():
        lines.append(f"{kind} that are not finite ({len(names)}): {', '.join(names[:_LISTED])}")
    return "\n".join(lines if found else [*lines, f"all finite here; it was: {facts['found']}"])


def _restore(clips: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    for name, value in clips.named_buffers():
        value.copy_(buffers[name])


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Inside the block, names of modules whose output is not finite are noted once; the inner ones come first."""

    def note(name: str, output: Any) -> None:
        if name not in found and not all(map(_finite, tensors_in(output))):
            found.append(name)

    with ExitStack() as hooks:
        for name, module in list(model.named_modules())[1:]:
            hook = module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
            hooks.enter_context(hook)
        yield


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
