"""The trainer on a tiny street: resume, refusal of what is not finite, and that it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.data.clips import ClipBatch, ClipDataset, collate
from motrlab.data.store import FrameStore
from motrlab.model.motr import Motr, MotrGraphs, build_motr
from motrlab.training.checkpoint import load_model, load_tensors
from motrlab.training.clip_loop import clip_loss
from motrlab.training.criterion import ClipLoss
from motrlab.training.curve import read_rows
from motrlab.training.distributed import cpu_has_bf16, make_accelerator
from motrlab.training.trainee import Trainee
from motrlab.training.trainer import FitResult, fit, train_float


class Killed(Exception):
    """Stands for the end of the process."""


def kill(_: Motr, step: int) -> dict[str, float | None]:
    raise Killed(step)


def go_on(_: Motr, step: int) -> dict[str, float | None]:
    """Validation that finds nothing to say."""
    return {}


def chancy(config: Config, **changes: object) -> Config:
    """With every random augmentation of tracks, and statistics of BatchNorm that move."""
    train = replace(
        config.train,
        drop_probability=0.2,
        heavy_drop_fraction=0.5,
        false_positive_ratio=0.5,
        clone_probability=0.5,
        reference_jitter=0.1,
        keep_iou=-1.0,
        freeze_bn=False,
        validate_every=4,
    )
    return replace(config, train=replace(train, **changes))  # type: ignore[arg-type]


def checkpoint_of(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("training-*.safetensors")
    return load_tensors(file)[0]


def assert_bit_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_resumed_equals_uninterrupted(store: FrameStore, config: Config, tmp_path: Path) -> None:
    config = chancy(config)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    model, result = train_float(store, config, whole, validate=go_on)
    with pytest.raises(Killed, match="4"):
        train_float(store, config, killed, validate=kill)  # after four steps; the checkpoint is of three
    assert not (killed / "model.safetensors").exists()
    again, resumed = train_float(store, config, killed, validate=go_on)
    assert_bit_identical(again.state_dict(), model.state_dict())
    assert_bit_identical(checkpoint_of(killed), checkpoint_of(whole))  # moments of the optimiser as well
    assert resumed.curve.read_bytes() == result.curve.read_bytes()
    assert resumed.curve.read_text().count("\n") == 1 + config.train.steps


def test_a_finished_training_is_not_done_again(store: FrameStore, config: Config, tmp_path: Path) -> None:
    config = replace(config, train=replace(config.train, steps=3))
    model, result = train_float(store, config, tmp_path)
    again, same = train_float(store, config, tmp_path)
    assert_bit_identical(again.state_dict(), model.state_dict())
    assert same.final == pytest.approx(result.final, rel=1e-4)  # read back from the curve
    assert_bit_identical(load_model(tmp_path / "model.safetensors", config).state_dict(), model.state_dict())


def test_the_terms_add_up_to_the_loss(store: FrameStore, config: Config, tmp_path: Path) -> None:
    """Also those that only training has; and those of the decoder layers to each, in every row of the curve."""
    _, result = train_float(store, replace(config, train=replace(config.train, steps=2, denoising_groups=1)), tmp_path)
    loss, terms = result.final["loss"], {k: v for k, v in result.final.items() if k != "loss"}
    assert terms.keys() == {"class", "l1", "giou", "denoising"}
    assert sum(terms.values()) == pytest.approx(loss, rel=1e-4)
    for row in read_rows(result.curve, 2):
        for kind in terms:
            layers = [row[f"layer_{i}.{kind}"] for i in range(config.model.decoder_layers)]
            assert sum(layers) == pytest.approx(row[kind], rel=1e-4)
            assert min(layers) > 0


def test_other_settings_start_anew_and_keep_the_first(store: FrameStore, config: Config, tmp_path: Path) -> None:
    first = replace(config, train=replace(config.train, steps=3))
    other = replace(first, train=replace(first.train, lr=first.train.lr / 2))
    model, _ = train_float(store, first, tmp_path)
    changed, _ = train_float(store, other, tmp_path)
    fresh, _ = train_float(store, other, tmp_path / "fresh")
    assert_bit_identical(changed.state_dict(), fresh.state_dict())
    assert not torch.equal(changed.base.detect.query, model.base.detect.query)
    assert len(list(tmp_path.glob("training-*.safetensors"))) == 2


def test_seeds_differ(store: FrameStore, config: Config, tmp_path: Path) -> None:
    short = replace(config, train=replace(config.train, steps=2))
    models = [train_float(store, replace(short, seed=seed), tmp_path / str(seed))[0] for seed in (0, 1)]
    assert not torch.equal(models[0].base.detect.query, models[1].base.detect.query)


def test_training_changes_every_part(store: FrameStore, config: Config, tmp_path: Path) -> None:
    config = chancy(config)
    model, _ = train_float(store, config, tmp_path)
    start = build_motr(config.model, config.seed).state_dict()
    same = [name for name, value in model.state_dict().items() if torch.equal(value, start[name])]
    assert same == []


def test_frozen_statistics_stay_as_they_came(store: FrameStore, config: Config, tmp_path: Path) -> None:
    """Whatever they come from; only the weights around them learn. With `freeze_bn` off, they move."""
    for freeze_bn in (True, False):
        start = build_motr(config.model)
        for name, buffer in start.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += 0.01 * torch.rand(buffer.shape, generator=torch.Generator().manual_seed(len(name)))
        before = {name: value.clone() for name, value in start.state_dict().items()}
        frozen = replace(config, train=replace(config.train, freeze_bn=freeze_bn, steps=2, validate_every=1))
        model, _ = train_float(store, frozen, tmp_path / str(freeze_bn), start=start, validate=go_on)
        same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
        statistics = {name for name in before if "running" in name}
        assert (statistics & same) == (statistics if freeze_bn else set())
        assert "base.backbone.stem.1.weight" not in same


class Fixed(nn.Module):
    """A loss made by hand in place of that of the clips."""

    def __init__(self, model: Motr, loss: Callable[[Motr, ClipBatch, Sequence[np.random.Generator]], ClipLoss]) -> None:
        super().__init__()
        self.motr, self.loss = model, loss

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        return self.loss(self.motr, batch, rngs)


def run_fit(store: FrameStore, config: Config, folder: Path, loss: Callable[..., ClipLoss]) -> tuple[Motr, FitResult]:
    model = build_motr(config.model, config.seed)
    trainee = Trainee(
        clips=Fixed(model, loss), model=model, prepare=lambda step: None, save=lambda path: None, facts={"kind": "test"}
    )
    return model, fit(trainee, store, config, folder)


def test_it_learns_one_clip_by_heart(store: FrameStore, config: Config, tmp_path: Path) -> None:
    train = replace(
        config.train, steps=40, lr=4e-3, warmup=0.05, schedule="constant", drop_probability=0.0, clip_norm=1.0
    )
    config = replace(config, train=train)
    batch = collate([ClipDataset(store, train, config.model, seed=1)[0, i, 2] for i in range(2)]).to("cpu")
    assert sum(len(people.ids) for row in batch.objects for people in row) >= 4

    def loss(model: Motr, _: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        values = model.base.value_maps(model.base.encode(batch.images.flatten(0, 1))).split(2, 1)
        rngs = [np.random.default_rng(i) for i in range(2)]
        return clip_loss(MotrGraphs(model, encoded=True), values, batch.objects, config.model, train, rngs)

    _, result = run_fit(store, config, tmp_path, loss)
    header, *rows = (line.split(",") for line in result.curve.read_text().splitlines())
    curve = np.array(rows, float)[:, header.index("loss")]
    assert curve[-5:].mean() < 0.6 * curve[:5].mean()
    assert result.final["loss"] == pytest.approx(curve[-4:].mean(), rel=1e-4)


def test_one_process_may_train_with_and_without_bf16() -> None:
    found = [make_accelerator(bf16).mixed_precision for bf16 in (True, False, True)]
    expected = "bf16" if cpu_has_bf16() or torch.cuda.is_available() else "no"
    assert found == [expected, "no", expected]


@pytest.mark.parametrize("checkpoint_frames", [False, True])
def test_bf16_loss_is_near_that_of_float32(
    store: FrameStore, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_frames: bool
) -> None:
    """Processors without bf16 in hardware can do it too, only slowly: here they must."""
    monkeypatch.setattr("motrlab.training.distributed.cpu_has_bf16", lambda: True)
    losses = []
    for bf16 in (False, True):
        train = replace(config.train, steps=1, bf16=bf16, freeze_bn=True, checkpoint_frames=checkpoint_frames)
        losses.append(train_float(store, replace(config, train=train), tmp_path / str(bf16))[1].final["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]
