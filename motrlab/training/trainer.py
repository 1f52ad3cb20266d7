"""The trainer: batches of clips, AdamW, checkpoints, resume. Float training and QAT share `fit`.

Every step draws its randomness from (seed, step), so a resumed training sees what an uninterrupted one sees.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from motrlab.config import Config, TrainConfig
from motrlab.data.clips import ClipBatch, make_loader
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.model.efficientnet import freeze_batch_norm
from motrlab.model.motr import Motr, MotrGraphs, build_motr
from motrlab.run import atomic_path
from motrlab.training.assignment import FrameObjects
from motrlab.training.checkpoint import load_training, save_model, save_training
from motrlab.training.clip_loop import clip_loss
from motrlab.training.criterion import ClipLoss
from motrlab.training.schedule import lr_factor, parameter_groups, set_lr


@dataclass(frozen=True)
class FitResult:
    """`final`: means over the last tenth of the steps (`loss`, `class`, `l1`, `giou`); `curve`: CSV file.

    `seconds` counts the parts before an interruption too.
    """

    steps: int
    final: dict[str, float]
    curve: Path
    seconds: float


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere bf16 is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_accelerator(bf16: bool) -> Accelerator:
    """One process or many, whatever launched us; bf16 where the hardware has it."""
    AcceleratorState._reset_state()  # or a process could not train again with another precision
    supported = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else cpu_has_bf16()
    return Accelerator(mixed_precision="bf16" if bf16 and supported else "no")


def clip_objects(batch: ClipBatch) -> list[list[FrameObjects]]:
    """Ground truth of a batch as the assignment wants it: `[frame][clip]`."""
    return [
        [FrameObjects(b.cpu().numpy(), i.cpu().numpy(), v.cpu().numpy()) for b, i, v in zip(*frame, strict=True)]
        for frame in zip(batch.boxes, batch.ids, batch.visibility, strict=True)
    ]


def train_float(
    store: FrameStore,
    config: Config,
    folder: Path,
    *,
    start: Motr | None = None,
    validate: Callable[[Motr, int], None] | None = None,
) -> tuple[Motr, FitResult]:
    """Train from scratch, or from `start`, on the clips of `store`.

    `folder` gets `model.safetensors` at the end, and on the way what `fit` writes. The model comes back in eval mode.
    """
    model = start or build_motr(config.model, config.seed)
    train = config.train

    def loss(batch: ClipBatch, rng: np.random.Generator) -> ClipLoss:
        clips = batch.images.shape[1]
        memory: Tensor = model.base.encode(batch.images.flatten(0, 1)).float()
        graphs = MotrGraphs(model, encoded=True)
        # The decoder's tensors are small: casting them costs more than bf16 saves, and boxes want float32.
        with torch.autocast(memory.device.type, enabled=False):
            return clip_loss(graphs, memory.split(clips), clip_objects(batch), config.model, train, rng)

    def prepare_mode() -> None:
        model.train()
        if train.freeze_bn:
            freeze_batch_norm(model)

    result = fit(model, loss, store, config, folder, prepare_mode=prepare_mode, validate=validate)
    model.eval()
    save_model(folder / "model.safetensors", model, config)
    return model, result


def fit(
    model: nn.Module,
    loss_function: Callable[[ClipBatch, np.random.Generator], ClipLoss],
    store: FrameStore,
    config: Config,
    folder: Path,
    *,
    prepare_mode: Callable[[], None],
    before_step: Callable[[int], None] | None = None,
    validate: Callable[[Any, int], None] | None = None,
    origin: str = "",
) -> FitResult:
    """Minimise `loss_function` over the clips of `store` for `config.train.steps` updates.

    `folder` gets `training-IDENTITY.safetensors` and `loss-IDENTITY.csv` every `checkpoint_every` steps. It is
    made from config, data and `origin` (whatever else the start depends on), so that a rerun goes on from its own
    checkpoint, and one with other settings starts anew without losing the first.
    """
    train = config.train
    accelerator = make_accelerator(train.bf16)
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, train), betas=(0.9, train.beta2), fused=True)
    identity = hashlib.sha256(f"{config.hash} {store.data_hash} {origin}".encode()).hexdigest()[:12]
    checkpoint, curve = folder / f"training-{identity}.safetensors", folder / f"loss-{identity}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    resumes = checkpoint.is_file() and curve.is_file()
    done, spent = load_training(checkpoint, model, optimizer, identity) if resumes else (0, 0.0)
    began = time.time() - spent
    rows = _kept_rows(curve, done)
    _check_lengths(store, train)
    loader = _batches(make_loader(store, config, start_step=done))
    bar = tqdm(total=train.steps, initial=done, desc="training", disable=not sys.stderr.isatty(), unit="step")
    for step, batch in zip(range(done, train.steps), loader, strict=False):
        prepare_mode()
        if before_step is not None:
            before_step(step)
        set_lr(optimizer.param_groups, lr_factor(train, step))
        with accelerator.autocast():
            loss = loss_function(batch.to(accelerator.device), np.random.default_rng((config.seed, step, 0, 1)))
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss.total)
        norm = float(accelerator.clip_grad_norm_(model.parameters(), train.clip_norm))
        _check_finite(loss, norm, step)
        optimizer.step()
        rows.append({"step": step, "lr": optimizer.param_groups[-1]["lr"], **loss.summary(), "grad_norm": norm})
        bar.update()
        bar.set_postfix(loss=f"{rows[-1]['loss']:.3f}")
        last = step + 1 == train.steps
        if last or (step + 1) % train.checkpoint_every == 0:
            _write_rows(curve, rows)
            save_training(checkpoint, model, optimizer, step + 1, identity, time.time() - began)
        if validate is not None and train.validate_every and (step + 1) % train.validate_every == 0 and not last:
            validate(model, step + 1)
    bar.close()
    seconds = time.time() - began if done < train.steps else spent
    return FitResult(train.steps, _final(rows), curve, seconds)


def _check_lengths(store: FrameStore, train: TrainConfig) -> None:
    """Say before the training, not at the end of its curriculum, that no video is long enough."""
    longest = max((info.num_frames for info in store.sequences), default=0)
    if longest < max(train.clip_frames):
        raise UserError(
            f"{store.path}: clips of {max(train.clip_frames)} frames, but no sequence has more than {longest}"
        )


def _batches(loader: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
    """The loader's batches; a user's mistake found in a worker process becomes one line again."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).strip().splitlines()[-1].removeprefix("motrlab.errors.UserError: ")) from error


def _check_finite(loss: ClipLoss, norm: float, step: int) -> None:
    if np.isfinite(norm) and bool(torch.isfinite(loss.total)):
        return
    bad = [name for name, value in loss.named().items() if not np.isfinite(value)] or ["the gradient"]
    raise UserError(f"training stopped at step {step}: {bad[0]} is not finite; lower lr or clip_norm")


def _kept_rows(curve: Path, done: int) -> list[dict[str, float]]:
    """The loss curve up to a resumed step."""
    if not done or not curve.is_file():
        return []
    with curve.open(newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)][:done]


def _write_rows(curve: Path, rows: list[dict[str, float]]) -> None:
    with atomic_path(curve) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def _final(rows: list[dict[str, float]]) -> dict[str, float]:
    tail = rows[-max(1, len(rows) // 10) :]
    return {name: float(np.mean([row[name] for row in tail])) for name in ("loss", "class", "l1", "giou")}
