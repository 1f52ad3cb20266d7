"""A step that is not finite: where it began, what is saved, and that it can be taken again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motrlab.__main__ import main
from motrlab.config import Config
from motrlab.data.clips import ClipBatch, ClipDataset, collate
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.training.checkpoint import load_tensors, part
from motrlab.training.criterion import ClipLoss
from motrlab.training.replay import clip_names, find_non_finite, first_of, load_step
from motrlab.training.trainee import Trainee, float_trainee
from motrlab.training.trainer import fit, train_float


@pytest.fixture
def wild(config: Config) -> Config:
    """Blows up at its second update."""
    return replace(
        config, train=replace(config.train, lr=1e30, warmup=0.0, schedule="constant", accumulate=2, clips_per_step=2)
    )


def stopped(store: FrameStore, config: Config, folder: Path) -> tuple[str, Path]:
    """The message of a training that stops, and the file that it leaves."""
    with pytest.raises(UserError) as error:
        train_float(store, config, folder)
    (file,) = folder.glob("replay-*.safetensors")
    return str(error.value), file


def test_a_network_that_blows_up_is_reported(store: FrameStore, wild: Config, tmp_path: Path) -> None:
    message, file = stopped(store, wild, tmp_path)
    step = load_tensors(file)[1]["step"]
    assert message.startswith(f"training stopped at step {step}: output of motr.base.backbone.")
    assert "is not finite; lower lr or clip_norm; clips: STREET-0" in message
    assert f"`python -m motrlab train --replay {file}`" in message
    assert len(message.splitlines()) == 1


def test_the_clips_are_named(store: FrameStore, wild: Config, tmp_path: Path) -> None:
    """By sequence and frames, the ones that were in the batch: their people are the annotations of those frames."""
    _, file = stopped(store, wild, tmp_path)
    _, batches, keys, facts = load_step(file)
    names = facts["clips"].split("; ")
    dataset = ClipDataset(store, wild.train, wild.model, wild.seed)
    assert names == clip_names(dataset, [key for own in keys for key in own])
    clips = [(batch, b) for batch in batches for b in range(batch.images.shape[1])]
    assert len(clips) == len(names) == 2
    for (batch, b), name in zip(clips, names, strict=True):
        sequence, frames = name.split(" frames ")
        people = store.annotations(sequence).people
        for t, frame in enumerate(map(int, frames.split())):
            assert set(batch.objects[t][b].ids.tolist()) <= set(people.track_id[people.frame == frame].tolist())


def test_it_can_be_taken_again(
    store: FrameStore, wild: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message, file = stopped(store, wild, tmp_path)
    capsys.readouterr()
    assert main(["train", "--replay", str(file)]) == 0
    printed = capsys.readouterr().out
    found = message.partition("output of ")[2].partition(" is not finite")[0].partition(" and ")[0]
    assert "modules that are not finite" in printed
    assert found in printed  # the same modules, in the same order


def test_the_saved_state_is_that_before_the_step(store: FrameStore, config: Config, tmp_path: Path) -> None:
    """Weights, moments, and statistics of BatchNorm, which the forward pass has moved already."""
    moving = replace(config, train=replace(config.train, freeze_bn=False, steps=4, checkpoint_every=3))
    finite = tmp_path / "finite"
    train_float(store, replace(moving, train=replace(moving.train, steps=4)), finite)
    model = build_motr(moving.model, moving.seed)
    trainee = float_trainee(model, moving)

    def spoil(step: int) -> None:
        trainee.prepare(step)
        broken.clear()
        broken.append(step == 3)

    broken: list[bool] = []

    def forward(batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        loss: ClipLoss = type(trainee.clips).forward(trainee.clips, batch, rngs)
        return replace(loss, total=loss.total * (float("nan") if broken[0] else 1.0))

    trainee.clips.forward = forward  # type: ignore[method-assign]
    with pytest.raises(UserError, match="training stopped at step 3"):
        fit(replace(trainee, prepare=spoil), store, moving, tmp_path)
    saved = load_tensors(next(tmp_path.glob("replay-000003-*.safetensors")))[0]
    checkpoint = load_tensors(next(tmp_path.glob("training-*.safetensors")))[0]  # of three updates
    for kind in ("model", "optimizer"):
        a, b = part(saved, kind), part(checkpoint, kind)
        assert a.keys() == b.keys()
        assert a
        assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert all(torch.equal(p, part(saved, "model")[f"motr.{name}"]) for name, p in model.named_parameters())


PLACES = ["weights", "inputs", "modules", "terms", "gradients"]


class Faulty(torch.nn.Module):
    """A model with a fault in one place."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.root = torch.nn.Parameter(torch.zeros(()))
        if place == "weights":
            with torch.no_grad():
                self.second.weight[0, 0] = torch.nan

    def forward(self, batch: ClipBatch, rngs: Sequence[np.random.Generator]) -> ClipLoss:
        x = self.first(batch.images.mean((0, 1, 3, 4))[:2] * (torch.inf if self.place == "modules" else 1))
        total = self.second(x).sum()
        total = total + (self.root.sqrt() * 0 if self.place == "gradients" else self.root)
        terms = {kind: torch.ones(2, 2) for kind in ("class", "l1", "giou")}
        if self.place == "terms":
            terms["giou"][1, 0] = torch.nan
        return ClipLoss(total, terms, 3)


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_found(store: FrameStore, config: Config, place: str) -> None:
    batch = collate([ClipDataset(store, config.train, config.model, 0)[0, i, 2] for i in range(2)]).to("cpu")
    if place == "inputs":
        batch.images[1, 1, 0, 3, 4] = torch.nan
    found = find_non_finite(Faulty(place), [batch], 0, [[(0, 0, 2), (0, 1, 2)]], {})
    first = next(iter(found))
    assert first == place
    expected = {
        "weights": "weight second.weight",
        "inputs": "input images of clip 1",
        "modules": "output of first, second",
        "terms": "frame_1.layer_0.giou",
        "gradients": "gradient of root",
    }
    assert first_of(found) == expected[place]


def test_a_step_that_is_finite_finds_nothing(store: FrameStore, config: Config) -> None:
    model = Faulty("nowhere")
    batch = collate([ClipDataset(store, config.train, config.model, 0)[0, i, 2] for i in range(2)]).to("cpu")
    found = find_non_finite(model, [batch], 0, [[(0, 0, 2), (0, 1, 2)]], {})
    assert not found
    assert first_of(found) == ""
    assert all(p.grad is None for p in model.parameters())


def test_the_step_is_not_taken(store: FrameStore, config: Config, tmp_path: Path) -> None:
    model = Faulty("gradients")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainee = Trainee(clips=model, model=model, prepare=lambda step: None, save=lambda path: None, facts={"kind": "no"})
    with pytest.raises(UserError, match="training stopped at step 0: gradient of root is not finite"):
        fit(trainee, store, config, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    (file,) = tmp_path.glob("replay-*")
    assert main(["train", "--replay", str(file)]) == 2  # nobody knows how to make this model


def test_a_file_of_another_kind_is_refused(
    store: FrameStore, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_float(store, replace(config, train=replace(config.train, steps=1)), tmp_path)
    assert main(["train", "--replay", str(tmp_path / "model.safetensors")]) == 2
    assert "not a step saved by a training" in capsys.readouterr().err
    assert main(["train", "--replay", str(tmp_path / "none.safetensors")]) == 2
