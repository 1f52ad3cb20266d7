"""Activation checkpointing: the same loss and gradients with less memory; the estimate against the real step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from motrlab.config import Config
from motrlab.data.clips import ClipBatch, ClipDataset, collate
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.model.efficientnet import freeze_batch_norm
from motrlab.model.motr import build_motr
from motrlab.training.criterion import ClipLoss
from motrlab.training.memory import MemoryEstimate, SavedBytes, checkpointed, estimate_memory
from motrlab.training.trainee import ClipModel
from motrlab.training.trainer import train_float


class LiveBytes(TorchDispatchMode):
    """The peak of all storages made inside the block, counted when they are made and when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.fixture
def make_clips(config: Config) -> Callable[..., ClipModel]:
    """`make_clips(checkpoint_frames)`: a model that trains with frozen statistics and every random augmentation."""

    def make(checkpoint_frames: bool = False) -> ClipModel:
        train = replace(
            config.train, freeze_bn=True, checkpoint_frames=checkpoint_frames, drop_probability=0.3, keep_iou=-1.0,
            false_positive_ratio=0.5, clone_probability=0.5, reference_jitter=0.1,
        )  # fmt: skip
        clips = ClipModel(build_motr(config.model), train)
        clips.train()
        freeze_batch_norm(clips)
        return clips

    return make


@pytest.fixture
def make_batch(store: FrameStore, config: Config) -> Callable[[int, int], ClipBatch]:
    def make(num_clips: int, num_frames: int) -> ClipBatch:
        dataset = ClipDataset(store, config.train, config.model, seed=0)
        return collate([dataset[0, i, num_frames] for i in range(num_clips)]).to("cpu")

    return make


def run(clips: ClipModel, batch: ClipBatch) -> ClipLoss:
    loss: ClipLoss = clips(batch, [np.random.default_rng(i) for i in range(batch.images.shape[1])])
    return loss


def test_checkpointing_changes_nothing_but_memory(
    make_clips: Callable[..., ClipModel], make_batch: Callable[[int, int], ClipBatch]
) -> None:
    batch = make_batch(1, 8)
    losses, gradients, peaks = [], [], []
    for checkpoint_frames in (False, True):
        clips = make_clips(checkpoint_frames)
        with LiveBytes() as memory:
            loss = run(clips, batch)
            loss.total.backward()
        losses.append(loss)
        gradients.append({name: p.grad for name, p in clips.named_parameters()})
        peaks.append(memory.peak)
        del clips, loss
    assert losses[1].num_objects == losses[0].num_objects  # decisions were made once, with the same random numbers
    # Frames are encoded one by one: the same sums, of which a convolution may take the terms in another order.
    torch.testing.assert_close(losses[1].total, losses[0].total, rtol=1e-5, atol=0)
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    assert peaks[1] < 0.5 * peaks[0]


def test_checkpointed_keeps_only_its_arguments() -> None:
    def deep(x: Tensor) -> Tensor:
        for _ in range(10):
            x = x.sin()
        return x

    x = torch.randn(1000, requires_grad=True)
    with SavedBytes(torch.nn.Linear(1, 1)) as plain:
        y = deep(x)
    with SavedBytes(torch.nn.Linear(1, 1)) as saved:
        z = checkpointed(deep, x)
    assert plain.kept == plain.total == 10 * 4000
    assert (saved.kept, saved.recomputed) == (4000, 9 * 4000)  # its input, and what the input is not
    assert torch.equal(y, z)
    (expected,) = torch.autograd.grad(y.sum(), x)
    (found,) = torch.autograd.grad(checkpointed(deep, x).sum(), x)
    assert torch.equal(found, expected)


def test_parameters_and_views_are_not_counted() -> None:
    layer = torch.nn.Linear(100, 100)
    x = torch.randn(8, 100, requires_grad=True)
    with SavedBytes(layer) as saved:
        kept = [layer(x), (x[:4] * x[4:]).sum()]  # the product saves two views of one storage
    assert saved.total == 8 * 100 * 4
    del kept


@pytest.mark.parametrize("checkpoint_frames", [False, True])
@pytest.mark.parametrize(("num_clips", "num_frames"), [(4, 2), (2, 5), (1, 8)])
def test_the_estimate_is_near_what_a_step_saves(
    make_clips: Callable[..., ClipModel],
    make_batch: Callable[[int, int], ClipBatch],
    num_clips: int,
    num_frames: int,
    checkpoint_frames: bool,
) -> None:
    clips, small = make_clips(checkpoint_frames), make_batch(1, 2)
    sizes = [(2, 1), (num_frames, num_clips)]
    estimate = estimate_memory(clips, lambda: run(clips, small), 2, sizes, average=False)
    batch = make_batch(num_clips, num_frames)
    with SavedBytes(clips) as saved:
        loss = run(clips, batch)
    del loss
    assert estimate.activations == pytest.approx(saved.total, rel=0.15)


@pytest.mark.parametrize("checkpoint_frames", [False, True])
def test_what_is_saved_is_most_of_the_peak(
    make_clips: Callable[..., ClipModel], make_batch: Callable[[int, int], ClipBatch], checkpoint_frames: bool
) -> None:
    """The estimate says what a step takes, not only what hooks see: gradients and working space come on top."""
    clips, small, batch = make_clips(checkpoint_frames), make_batch(1, 2), make_batch(2, 6)
    estimate = estimate_memory(clips, lambda: run(clips, small), 2, [(6, 2)], average=False)
    with LiveBytes() as memory:
        run(clips, batch).total.backward()
    assert 0.6 < (estimate.activations + estimate.gradients) / memory.peak < 1.3


def test_the_parts_of_the_estimate(
    make_clips: Callable[..., ClipModel], make_batch: Callable[[int, int], ClipBatch]
) -> None:
    clips, batch = make_clips(), make_batch(1, 2)
    clips.train()  # statistics move
    before = {name: value.clone() for name, value in clips.state_dict().items()}
    estimate = estimate_memory(clips, lambda: run(clips, batch), 2, [(2, 1)], average=True)
    assert all(torch.equal(value, before[name]) for name, value in clips.state_dict().items())
    num_bytes = sum(p.numel() * 4 for p in clips.parameters())
    assert (estimate.parameters, estimate.gradients, estimate.optimizer) == (num_bytes, num_bytes, 2 * num_bytes)
    assert estimate.average > num_bytes  # statistics too
    assert estimate.total == 4 * num_bytes + estimate.average + estimate.activations
    assert estimate.metrics()["memory.total_mb"] == pytest.approx(estimate.total / 1e6, abs=1e-3)
    assert f"{estimate.total / 1e6:.1f} MB" in estimate.text()


def test_a_gpu_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 2_000_000_000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    fits = MemoryEstimate(parameters=10**8, gradients=0, optimizer=0, average=0, activations=10**9)
    fits.check(torch.device("cuda", 0))
    large = replace(fits, activations=3 * 10**9)
    large.check(torch.device("cpu"))
    with pytest.raises(UserError, match=r"needs about 3\.1 GB, the GPU has 2\.0 GB: set train\.checkpoint_frames"):
        large.check(torch.device("cuda", 0))


def test_a_training_tells_its_memory(
    store: FrameStore, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(config, train=replace(config.train, steps=1, accumulate=2))
    _, result = train_float(store, one, tmp_path / "a")
    assert result.memory.text() in capsys.readouterr().err
    whole = train_float(store, replace(config, train=replace(one.train, accumulate=1)), tmp_path / "b")[1].memory
    assert result.memory.activations == pytest.approx(whole.activations / 2, rel=0.01)
