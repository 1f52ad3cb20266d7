"""The trainer: clips, updates, checkpoints, resume, on one process or many. Float training and QAT share `fit`.

A step is one update on clips that are dealt over processes and micro-batches. What happens to a clip is drawn from
(seed, step, index of the clip), and the gradient is divided by the objects of the whole step: so neither the dealing
nor an interruption changes what is learned.
"""

import contextlib
import functools
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from motrlab.config import Config, TrainConfig
from motrlab.data.clips import ClipBatch, ClipKey, LoadedClips, StepSampler, collate, keep_freed_memory, make_loader
from motrlab.data.store import FrameStore
from motrlab.errors import UserError, tell
from motrlab.lineage import config_hash
from motrlab.model.motr import Motr, build_motr
from motrlab.training.checkpoint import load_training, save_model, save_training, state_hash
from motrlab.training.criterion import ClipLoss
from motrlab.training.curve import Rows, final_means, read_rows, write_rows
from motrlab.training.distributed import make_accelerator, synchronise_batch_norm
from motrlab.training.ema import Ema
from motrlab.training.memory import MemoryEstimate, estimate_memory
from motrlab.training.optimizer import lr_factor, make_optimizer, parameter_groups, set_lr
from motrlab.training.replay import clip_generators, clip_names, find_non_finite, first_of, save_step
from motrlab.training.trainee import Trainee, float_trainee

Validate = Callable[[int], Mapping[str, float | None]]  # updates done → metrics


@dataclass(frozen=True)
class FitResult:
    """`final`: means over the last tenth of the steps (`loss` and its terms); `curve`: CSV file.

    `seconds` counts the parts before an interruption too.
    """

    steps: int
    final: dict[str, float]
    curve: Path
    seconds: float
    memory: MemoryEstimate
    is_main: bool


def train_float(
    store: FrameStore,
    config: Config,
    folder: Path,
    *,
    start: Motr | None = None,
    validate: Callable[[Motr, int], Mapping[str, float | None]] | None = None,
) -> tuple[Motr, FitResult]:
    """Train from scratch, or from `start`, on the clips of `store`.

    `folder` gets `model.safetensors` at the end, and on the way what `fit` writes. The model comes back in eval mode:
    the last one, or its average (`ema_decay`).
    """
    model = start or build_motr(config.model, config.seed)
    check = functools.partial(validate, model) if validate is not None else None
    origin = state_hash(model) if start is not None else ""
    result = fit(float_trainee(model, config), store, config, folder, validate=check, origin=origin)
    model.eval()
    if result.is_main:
        save_model(folder / "model.safetensors", model, config)
    return model, result


def fit(
    trainee: Trainee,
    store: FrameStore,
    config: Config,
    folder: Path,
    *,
    validate: Validate | None = None,
    origin: str = "",
) -> FitResult:
    """Minimise the loss over the clips of `store` for `config.train.steps` updates; the model's result stays in place.

    `folder` gets, with IDENTITY made from the config's fields for training, data and `origin` (whatever else the start
    depends on), so that a rerun goes on from its own checkpoint, and one with other settings starts again without
    losing the first:
    `training-IDENTITY.safetensors` and `loss-IDENTITY.csv` every `checkpoint_every` steps,
    `step-N-IDENTITY.safetensors` every `keep_every`. No model is chosen by a validation: those look at test frames.

    Raises UserError when the data are too short, when a step's clips are fewer than what they are dealt to, when a GPU
    is too small, and when a loss or a gradient is not finite.
    """
    return _Training(trainee, store, config, folder, validate, origin).run()


class _Training:
    """The state of one `fit`."""

    def __init__(
        self, trainee: Trainee, store: FrameStore, config: Config, folder: Path, validate: Validate | None, origin: str
    ) -> None:
        train = config.train
        self.trainee, self.config, self.train, self.folder, self.validate = trainee, config, train, folder, validate
        # The QIM has no gradient from a clip of one frame.
        self.accelerator = make_accelerator(train.bf16, find_unused=min(train.clip_frames) == 1)
        self.world, self.is_main = self.accelerator.num_processes, self.accelerator.is_main_process
        self.clips = trainee.clips if train.freeze_bn else synchronise_batch_norm(trainee.clips, self.accelerator)
        depends_on = f"{config_hash(config, 'float', 'training')} {store.data_hash} {origin}"
        self.identity = hashlib.sha256(depends_on.encode()).hexdigest()[:12]
        self.checkpoint = folder / f"training-{self.identity}.safetensors"
        self.curve = folder / f"loss-{self.identity}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        self.module = self.accelerator.prepare_model(self.clips)
        groups = parameter_groups(self.clips, train)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = make_optimizer(groups, train.beta2)
        self.ema = Ema(self.clips, train.ema_decay) if train.ema_decay else None
        self.states = {"model": self.clips} | ({"ema": self.ema} if self.ema else {})
        self.done, self.spent, self.rows = self._resume()
        self.loader = make_loader(store, config, self.done, self.accelerator.process_index, self.world)
        assert isinstance(self.loader.batch_sampler, StepSampler)
        self.sampler = self.loader.batch_sampler
        self.dataset: Any = self.loader.dataset
        self.began = time.time() - self.spent

    def _resume(self) -> tuple[int, float, Rows]:
        if not (self.checkpoint.is_file() and self.curve.is_file()):
            return 0, 0.0, []
        facts = load_training(self.checkpoint, self.states, self.optimizer, self.identity)
        return facts["step"], facts["seconds"], read_rows(self.curve, facts["step"])

    def run(self) -> FitResult:
        """All updates that are left."""
        train = self.train
        self.dataset.lengths(max(train.clip_frames))  # too long for all? Said now
        keep_freed_memory()
        memory = self._estimate()
        hidden = not (self.is_main and sys.stderr.isatty())
        bar = tqdm(total=train.steps, initial=self.done, desc="training", disable=hidden, unit="step")
        batches = _batches(self.loader)
        for step in range(self.done, train.steps):
            self.rows.append(self._update(step, [next(batches) for _ in range(train.accumulate)]))
            bar.update()
            bar.set_postfix(loss=f"{self.rows[-1]['loss']:.3f}", refresh=False)
            self._after(step + 1)
        bar.close()
        if self.ema is not None:
            self.clips.load_state_dict(self.ema.average)
        seconds = time.time() - self.began if self.done < train.steps else self.spent
        return FitResult(train.steps, final_means(self.rows), self.curve, seconds, memory, self.is_main)

    def _update(self, step: int, loaded: list[LoadedClips]) -> dict[str, float]:
        """One step; its row of the curve."""
        keys = self.sampler.micro_batches(step)
        self.trainee.prepare(step)
        statistics = {name: value.clone() for name, value in self.clips.named_buffers()}
        set_lr(self.optimizer.param_groups, lr_factor(self.train, step))
        self.optimizer.zero_grad(set_to_none=True)
        batches = [clips.to(self.accelerator.device, non_blocking=True) for clips in loaded]
        losses = []
        for number, (batch, own) in enumerate(zip(batches, keys, strict=True)):
            last = number + 1 == len(batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.module):
                loss = self.module(batch, clip_generators(self.config.seed, own))
                self.accelerator.backward(loss.total)
            losses.append(loss)
        means, num_objects = self._means(losses)
        norm = self._scale_gradients(self.world / num_objects)  # DDP has averaged over the processes
        if not (math.isfinite(norm) and math.isfinite(means["loss"])):
            self._stop(step, batches, keys, statistics)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.clips)
        return {"step": step, "lr": self.optimizer.param_groups[-1]["lr"], **means, "grad_norm": norm}

    def _means(self, losses: Sequence[ClipLoss]) -> tuple[dict[str, float], float]:
        """Per object, over all micro-batches and processes: loss, its kinds, and these by decoder layer; the number of
        objects, at least 1.
        """
        terms = losses[0].terms
        names = ["loss", *terms, *(f"layer_{i}.{kind}" for kind, table in terms.items() for i in range(table.shape[1]))]
        sums_of = [
            [x.total, *(t.sum() for t in x.terms.values()), *(t.sum(0) for t in x.terms.values())] for x in losses
        ]
        parts = [torch.cat([value.detach().reshape(-1) for value in values]) for values in sums_of]
        objects = torch.tensor([float(sum(x.num_objects for x in losses))], device=parts[0].device)
        sums = self.accelerator.reduce(torch.cat((objects, torch.stack(parts).sum(0))))
        found, *values = sums.tolist()
        num_objects = max(found, 1.0)
        return {k: v / num_objects for k, v in zip(names, values, strict=True)}, num_objects

    def _scale_gradients(self, scale: float) -> float:
        """Multiply the gradients by `scale` and clip their norm; the norm before clipping."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients)) * scale
        torch._foreach_mul_(gradients, scale * min(1.0, self.train.clip_norm / (norm + 1e-6)))
        return norm

    def _after(self, step: int) -> None:
        """What is due after `step` updates: validation, the copy that stays, the checkpoint."""
        train, last = self.train, step == self.train.steps
        validates = self.validate is not None and _due(step, train.validate_every, last)
        if self.is_main and (validates or _due(step, train.keep_every)):
            with self.ema.applied(self.clips) if self.ema else contextlib.nullcontext():
                if validates and self.validate is not None:
                    self.trainee.model.eval()
                    self.validate(step)
                if _due(step, train.keep_every):
                    self.trainee.save(self.folder / f"step-{step:06d}-{self.identity}.safetensors")
        if self.is_main and _due(step, train.checkpoint_every, last):
            write_rows(self.curve, self.rows)
            facts = {"step": step, "identity": self.identity, "seconds": time.time() - self.began}
            save_training(self.checkpoint, self.states, self.optimizer, facts)
        if validates or last:
            self.accelerator.wait_for_everyone()

    def _estimate(self) -> MemoryEstimate:
        """Memory of a step, said before the first one. Raises UserError where a GPU has less."""
        length = min(self.train.clip_frames)
        sizes = _batch_sizes(self.sampler, self.world, self.train)
        self.trainee.prepare(self.done)
        batch = collate([self.dataset[0, 0, length]]).to(self.accelerator.device)
        generators = clip_generators(self.config.seed, [(0, 0, length)])
        average = self.ema is not None
        estimate = estimate_memory(self.clips, lambda: self.clips(batch, generators), length, sizes, average=average)
        estimate.check(self.accelerator.device)
        if self.is_main and self.done < self.train.steps:
            tell(estimate.text())
        return estimate

    def _stop(
        self, step: int, batches: list[ClipBatch], keys: list[list[ClipKey]], statistics: Mapping[str, Tensor]
    ) -> None:
        """Find what is not finite, save the step, end the training. Raises UserError."""
        found = find_non_finite(self.clips, batches, self.config.seed, keys, statistics)
        clips = "; ".join(clip_names(self.dataset, [key for own in keys for key in own]))
        rank = f"-process-{self.accelerator.process_index}" if self.world > 1 else ""
        file = self.folder / f"replay-{step:06d}-{self.identity}{rank}.safetensors"
        if found or self.is_main:
            facts = {**self.trainee.facts, "step": step, "clips": clips, "found": first_of(found)}
            save_step(file, self.clips, self.optimizer, batches, keys, facts)
        self.accelerator.wait_for_everyone()  # or the first to end would end the others while they write
        where = first_of(found) or "the loss or the gradient, summed over the step,"
        raise UserError(
            f"training stopped at step {step}: {where} is not finite; lower lr or clip_norm; clips: {clips}; "
            f"see `python -m motrlab train --replay {file}`"
        )


def _due(step: int, every: int, last: bool = False) -> bool:
    return bool(every) and (last or step % every == 0)


def _batch_sizes(sampler: StepSampler, world: int, train: TrainConfig) -> set[tuple[int, int]]:
    """Frames and clips of the largest micro-batch at every clip length. Raises UserError if one would be empty."""
    sizes = set()
    for first in (0, *sampler.milestones):
        step = min(math.ceil(first), train.steps - 1)
        clips = len(sampler.keys(step))
        if clips < world * train.accumulate:
            raise UserError(
                f"a step has {clips} clips of {sampler.clip_frames(step)} frames, too few for {world} processes × "
                f"{train.accumulate} micro-batches: raise clips_per_step or frames_per_step"
            )
        sizes.add((sampler.clip_frames(step), math.ceil(clips / (world * train.accumulate))))
    return sizes


def _batches(loader: Iterable[LoadedClips]) -> Iterator[LoadedClips]:
    """The loader's batches; a user's mistake found in a worker process becomes one line again."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("motrlab.errors.UserError: ")) from error
