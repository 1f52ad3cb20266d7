"""Denoising: what its slots see, what they are supervised with, and that nothing else notices them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.data.clips import ClipBatch, make_loader
from motrlab.data.store import FrameStore
from motrlab.data.transforms import FrameObjects
from motrlab.model.base import ExtraSlots
from motrlab.model.motr import Motr, build_motr
from motrlab.model.operations import MASKED
from motrlab.training.denoising import Denoising, noised_boxes
from motrlab.training.trainee import ClipModel


@pytest.fixture
def motr(config: Config) -> Motr:
    """All weights random, so that nothing is zero by its start."""
    model = build_motr(config.model, seed=3).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    return model


@pytest.fixture
def batch(store: FrameStore, config: Config) -> ClipBatch:
    return next(iter(make_loader(store, config))).to("cpu")


def people(n: int, seed: int = 0, visibility: float = 1.0) -> FrameObjects:
    rng = np.random.default_rng(seed)
    boxes = np.column_stack((rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0.1, 0.3, (n, 2)))).astype(np.float32)
    return FrameObjects(boxes, np.arange(n), np.full(n, visibility))


def generators(n: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(n)]


def decoded(motr: Motr, extra: ExtraSlots | None, live: int) -> list[Tensor]:
    """Every output of the ordinary slots, for two frames with `live` tracks."""
    config = motr.config
    generator = torch.Generator().manual_seed(0)
    rows, columns = motr.base.cells.shape[2:]
    values = torch.randn(config.decoder_layers, 2, config.d_model, rows, columns, generator=generator)
    shape = (config.num_track // config.slot_columns, config.slot_columns)
    query = torch.randn(2, config.d_model, *shape, generator=generator)
    reference = torch.rand(2, 4, *shape, generator=generator) * 0.4 + 0.2
    mask = (torch.arange(config.num_track) < live).float().reshape(1, 1, 1, -1).expand(2, -1, -1, -1)
    with torch.no_grad():
        logits, boxes, embedding = motr.base.decode(values, query, mask, reference, extra)
    return [x[:, :, : config.num_slots // config.slot_columns] for x in (*logits, *boxes, embedding)]


def test_ordinary_slots_do_not_notice_the_extra_ones(motr: Motr, config: Config) -> None:
    train = replace(config.train, denoising_groups=2)
    noised = noised_boxes([people(3), people(5, 1)], config.model.slot_columns, train, generators(2), most=5)
    with torch.no_grad():
        extra = Denoising(motr.config, train).slots(noised)
    for plain, beside in zip(decoded(motr, None, 4), decoded(motr, extra, 4), strict=True):
        torch.testing.assert_close(beside, plain, rtol=1e-4, atol=1e-5)
    # The comparison would see it: without the bias they do notice.
    open_slots = replace(extra, bias=torch.zeros_like(extra.bias))
    seen = decoded(motr, open_slots, 4)[-1]
    assert float((seen - decoded(motr, None, 4)[-1]).abs().max()) > 1e-3


def test_who_sees_whom(motr: Motr, config: Config) -> None:
    train, model = replace(config.train, denoising_groups=2), motr.config
    noised = noised_boxes([people(2), people(3)], model.slot_columns, train, generators(2), most=3)
    bias = Denoising(model, train).slots(noised).bias
    sees, noise = (bias == 0)[:, 0], model.num_slots
    assert bool((bias[~sees[:, None]] == MASKED).all())
    assert bool(sees[:, :noise, :noise].all())
    assert not bool(sees[:, :noise, noise:].any())
    for b, n in enumerate((2, 3)):  # of each group: n to be found, n background
        first, second = range(noise, noise + 2 * n), range(noise + 2 * n, noise + 4 * n)
        for own, other in ((first, second), (second, first)):
            assert bool(sees[b][own][:, own].all())
            assert not bool(sees[b][own][:, other].any())
            assert not bool(sees[b][own][:, :noise].any())
            assert not bool(sees[b][own][:, noise + 4 * n :].any())  # padding


def test_noise_is_as_large_as_it_says(config: Config) -> None:
    train = replace(config.train, denoising_groups=3, denoising_noise=0.4)
    frame = people(30)
    noised = noised_boxes([frame], config.model.slot_columns, train, generators(1), most=30)
    own = noised.target[0] >= 0
    assert own.sum() == 3 * 30
    assert (noised.group[0] >= 0).sum() == 6 * 30
    assert sorted(noised.target[0][own]) == sorted(list(range(30)) * 3)
    gt = frame.boxes[noised.target[0][own]]
    near = np.abs(noised.boxes[0][own][:, :2] - gt[:, :2]) / (gt[:, 2:] / 2)
    assert near.max() <= 0.4 + 1e-5
    assert near.max() > 0.35
    grown = np.abs(np.log(noised.boxes[0][own][:, 2:] / gt[:, 2:]))
    assert grown.max() <= 0.4 + 1e-5
    # The background half stands in the same order, one group behind the other.
    start = noised.boxes[0][30:60]
    far = np.abs(start[:, :2] - frame.boxes[:, :2]) / (frame.boxes[:, 2:] / 2)
    assert far.min() >= 0.4 - 1e-5
    assert far.max() <= 0.8 + 1e-5


def test_hidden_people_are_not_denoised(config: Config) -> None:
    train = replace(config.train, denoising_groups=1, min_visibility=0.5)
    noised = noised_boxes([people(4, visibility=0.3)], config.model.slot_columns, train, generators(1), most=0)
    assert (noised.group < 0).all()


def test_it_adds_a_term_that_trains_the_network(motr: Motr, config: Config, batch: ClipBatch) -> None:
    plain = ClipModel(motr, config.train)(batch, generators(batch.images.shape[1]))
    model = ClipModel(motr, replace(config.train, denoising_groups=2))
    loss = model(batch, generators(batch.images.shape[1]))
    own = float(loss.terms["denoising"].sum())
    assert own > 0
    assert loss.num_objects == plain.num_objects
    assert float(loss.total.detach()) == pytest.approx(float(plain.total.detach()) + own, rel=1e-3)
    gradients = torch.autograd.grad(loss.total - plain.total, list(model.parameters()), allow_unused=True)
    of = {n: g for (n, _), g in zip(model.named_parameters(), gradients, strict=True)}
    reached = [n for n, g in of.items() if g is not None and bool(g.abs().max() > 1e-7)]
    assert any(n.startswith("motr.base.decoder") for n in reached)
    assert any(n.startswith("motr.base.backbone") for n in reached)
    assert any(n.startswith("extras.") for n in reached)


def test_a_batch_is_its_clips(motr: Motr, config: Config, batch: ClipBatch) -> None:
    """Padding to the frame with the most people changes nothing."""
    first = batch.objects[0][0]
    batch.objects[0][0] = FrameObjects(first.boxes[:2], first.ids[:2], first.visibility[:2])
    assert len({len(people.ids) for row in batch.objects for people in row}) > 1
    model = ClipModel(motr, replace(config.train, denoising_groups=2))
    with torch.no_grad():
        together = model(batch, generators(batch.images.shape[1]))
        alone = [model(one(batch, b), [generators(4)[b]]) for b in range(batch.images.shape[1])]
    assert float(together.total) == pytest.approx(sum(float(x.total) for x in alone), rel=1e-4)
    assert together.num_objects == sum(x.num_objects for x in alone)


def test_checkpointed_frames_give_the_same_gradients(motr: Motr, config: Config, batch: ClipBatch) -> None:
    found = []
    for again in (False, True):
        model = ClipModel(motr, replace(config.train, denoising_groups=1, freeze_bn=True, checkpoint_frames=again))
        loss = model(batch, generators(batch.images.shape[1])).total
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def one(batch: ClipBatch, b: int) -> ClipBatch:
    return ClipBatch(images=batch.images[:, b : b + 1], objects=[[row[b]] for row in batch.objects])
