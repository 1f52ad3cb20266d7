"""Clips through the frame step: where gradients flow, and what must not matter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config, TrainConfig
from motrlab.model.motr import Motr, MotrGraphs, build_motr
from motrlab.training.assignment import ClipAssignment, FrameObjects
from motrlab.training.clip_loop import clip_loss, clip_outputs
from motrlab.training.criterion import SetCriterion


@dataclass(frozen=True)
class Setting:
    """A model whose weights are all random, and a training without chance that carries every match on."""

    model: Motr
    train: TrainConfig

    def memory(self, batch: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows, columns = self.model.base.cells.shape[2:]
        return torch.randn(batch, self.model.config.d_model, rows, columns, generator=generator)

    def loss(self, frames: list[Tensor], objects: list[list[FrameObjects]], **changes: float) -> dict[str, float]:
        config = replace(self.train, **changes)  # type: ignore[arg-type]
        graphs = MotrGraphs(self.model, encoded=True)
        return clip_loss(graphs, frames, objects, self.model.config, config, np.random.default_rng(0)).named()


@pytest.fixture
def setting(config: Config, quiet: TrainConfig) -> Setting:
    model = build_motr(config.model, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.05
    return Setting(model, replace(quiet, keep_iou=-1.0))


def people(seed: int, ids: list[int]) -> FrameObjects:
    rng = np.random.default_rng(seed)
    n = len(ids)
    boxes = np.column_stack((rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0.1, 0.3, (n, 2)))).astype(np.float32)
    return FrameObjects(boxes, np.array(ids, np.int64), rng.uniform(0, 1, n))


def shuffled(objects: FrameObjects, seed: int) -> FrameObjects:
    order = np.random.default_rng(seed).permutation(len(objects.ids))
    return FrameObjects(objects.boxes[order], objects.ids[order], objects.visibility[order])


@pytest.mark.parametrize(("drop", "flows"), [(0.0, True), (1.0, False)], ids=["tracks go on", "all tracks dropped"])
def test_gradients_flow_through_track_queries(setting: Setting, drop: float, flows: bool) -> None:
    frames = [setting.memory(1, seed).requires_grad_() for seed in range(3)]
    config = replace(setting.train, drop_probability=drop)
    model = setting.model
    assignment = ClipAssignment([[people(0, [1, 2, 3])]] * 3, model.config, config, np.random.default_rng(0))
    outputs = clip_outputs(MotrGraphs(model, encoded=True), frames, assignment, model.config)
    last = SetCriterion(config)(outputs[2:], assignment.matches[2:]).total
    gradients = torch.autograd.grad(last, frames, allow_unused=True)
    strength = [0.0 if g is None else float(g.abs().sum()) for g in gradients]
    assert all(np.isfinite(strength))
    assert strength[2] > 0
    assert [s > 0 for s in strength[:2]] == [flows, flows]


def test_the_qim_learns_from_the_next_frame_only(setting: Setting) -> None:
    frames = [setting.memory(1, seed) for seed in range(2)]
    model = setting.model
    assignment = ClipAssignment([[people(0, [1, 2])]] * 2, model.config, setting.train, np.random.default_rng(0))
    outputs = clip_outputs(MotrGraphs(model, encoded=True), frames, assignment, model.config)
    criterion = SetCriterion(setting.train)
    parameters = list(model.qim.parameters())
    for frame, learns in ((0, False), (1, True)):
        total = criterion(outputs[frame : frame + 1], assignment.matches[frame : frame + 1]).total
        gradients = torch.autograd.grad(total, parameters, allow_unused=True, retain_graph=True)
        assert any(g is not None and bool(g.any()) for g in gradients) is learns


def test_references_carry_no_gradient(setting: Setting) -> None:
    model = setting.model
    rows = model.config.num_track // model.config.slot_columns
    reference = torch.full((1, 4, rows, model.config.slot_columns), 0.4, requires_grad=True)
    query = torch.randn(1, model.config.d_model, rows, model.config.slot_columns, requires_grad=True)
    mask = torch.ones(1, 1, 1, model.config.num_track)
    logits, boxes, embedding = model.base.decode(setting.memory(1, 0), query, mask, reference)
    total = sum(x.sum() for x in (*logits, *boxes, embedding))
    assert isinstance(total, Tensor)
    of_query, of_reference = torch.autograd.grad(total, (query, reference), allow_unused=True)
    assert of_reference is None
    assert of_query.any()


def test_track_slots_may_come_in_any_order(setting: Setting) -> None:
    model, config = setting.model, setting.model.config
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, config.d_model, config.num_track, generator=generator)
    reference = torch.rand(1, 4, config.num_track, generator=generator) * 0.4 + 0.2
    mask = (torch.rand(1, 1, config.num_track, generator=generator) < 0.6).float()
    order = torch.randperm(config.num_track, generator=generator)
    shape = (config.num_track // config.slot_columns, config.slot_columns)

    def run(slots: Tensor) -> tuple[list[Tensor], Tensor]:
        q, r = query[:, :, slots].unflatten(2, shape), reference[:, :, slots].unflatten(2, shape)
        m = mask[:, None, :, slots]
        with torch.no_grad():
            logits, boxes, embedding = model.base.decode(setting.memory(1, 0), q, m, r)
            new = model.qim(embedding.flatten(2)[:, :, None, config.num_detect :], q.flatten(2)[:, :, None], m)
        return [x.flatten(2) for x in (*logits, *boxes, embedding)], new.flatten(2)

    plain, new = run(torch.arange(config.num_track))
    moved, new_moved = run(order)
    live = mask[0, 0, order] > 0
    for before, after in zip(plain, moved, strict=True):
        detect, track = before.split([config.num_detect, config.num_track], 2)
        torch.testing.assert_close(after[:, :, : config.num_detect], detect, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            after[:, :, config.num_detect :][:, :, live], track[:, :, order][:, :, live], rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(new_moved[:, :, live], new[:, :, order][:, :, live], rtol=1e-4, atol=1e-4)


def test_objects_may_come_in_any_order(setting: Setting) -> None:
    frames = [setting.memory(2, seed) for seed in range(3)]
    ids = [[1, 2, 3, 4], [2, 3, 4, 5], [1, 3, 5, 6]]
    objects = [[people(10 * t + b, ids[t]) for b in range(2)] for t in range(3)]
    mixed = [[shuffled(frame, 7 * t + b) for b, frame in enumerate(row)] for t, row in enumerate(objects)]
    assert setting.loss(frames, mixed) == pytest.approx(setting.loss(frames, objects), rel=1e-4, abs=1e-5)


def test_a_batch_is_its_clips(setting: Setting) -> None:
    frames = [setting.memory(2, seed) for seed in range(3)]
    objects = [[people(t, [1, 2, 3]), people(t + 50, [1, 4])] for t in range(3)]
    together = setting.loss(frames, objects)
    visible = [sum(int((row[b].visibility >= 0.2).sum()) for row in objects) for b in range(2)]
    alone = [setting.loss([f[b : b + 1] for f in frames], [[row[b]] for row in objects]) for b in range(2)]
    # Terms are divided by the objects of the batch: visible ones, and tracks whose object disappeared.
    assert min(visible) > 0
    divisors = [_num_objects(setting, frames, objects, b) for b in range(2)]
    assert divisors[0] >= visible[0]
    for name, value in together.items():
        expected = sum(a[name] * d for a, d in zip(alone, divisors, strict=True)) / sum(divisors)
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-5), name


def _num_objects(setting: Setting, frames: list[Tensor], objects: list[list[FrameObjects]], b: int) -> int:
    model = setting.model
    assignment = ClipAssignment([[row[b]] for row in objects], model.config, setting.train, np.random.default_rng(0))
    with torch.no_grad():
        clip_outputs(MotrGraphs(model, encoded=True), [f[b : b + 1] for f in frames], assignment, model.config)
    return sum(match.num_objects for match in assignment.matches)


def test_clips_without_people(setting: Setting) -> None:
    frames = [setting.memory(2, seed) for seed in range(2)]
    terms = setting.loss(frames, [[people(0, []), people(0, [])]] * 2)
    assert all(np.isfinite(list(terms.values())))
    assert all(value == 0 for name, value in terms.items() if not name.endswith("class"))
    assert {name.split(".")[0] for name in terms} == {"frame_0", "frame_1"}
