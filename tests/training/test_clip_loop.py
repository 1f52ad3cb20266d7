"""Clips through the frame step: where gradients flow, and what must not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config, TrainConfig
from motrlab.data.clips import ClipDataset, collate
from motrlab.data.store import FrameStore
from motrlab.data.transforms import FrameObjects
from motrlab.model.motr import Motr, MotrGraphs, build_motr
from motrlab.tracking.step import FrameOutput, Graphs
from motrlab.tracking.tracker import Decision
from motrlab.training.assignment import ClipAssignment, FrameMatch
from motrlab.training.clip_loop import Extra, clip_loss, clip_outputs, with_calls
from motrlab.training.criterion import ClipLoss, SetCriterion
from motrlab.training.trainee import ClipModel


@dataclass(frozen=True)
class Setting:
    """A model whose weights are all random, and a training without chance that carries every match on."""

    model: Motr
    train: TrainConfig

    def values(self, batch: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows, columns = self.model.base.cells.shape[2:]
        shape = (self.model.config.decoder_layers, batch, self.model.config.d_model, rows, columns)
        return torch.randn(shape, generator=generator)

    def assignment(self, objects: list[list[FrameObjects]], **changes: float) -> ClipAssignment:
        config = replace(self.train, **changes)  # type: ignore[arg-type]
        return ClipAssignment(objects, self.model.config, config, generators(len(objects[0])))

    def outputs(self, frames: list[Tensor], assignment: ClipAssignment, graphs: Any = None) -> list[FrameOutput]:
        return clip_outputs(graphs or MotrGraphs(self.model, encoded=True), frames, assignment, self.model.config)

    def loss(self, frames: list[Tensor], objects: list[list[FrameObjects]]) -> ClipLoss:
        graphs = MotrGraphs(self.model, encoded=True)
        return clip_loss(graphs, frames, objects, self.model.config, self.train, generators(len(objects[0])))


def generators(number: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(number)]


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


class DetachedQueries(MotrGraphs):
    """Track queries reach the next frame as plain numbers, as if every frame were trained for itself."""

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        return super().qim(embedding, query, mask).detach()


@pytest.mark.parametrize(
    ("drop", "detached", "flows"),
    [(0.0, False, True), (1.0, False, False), (0.0, True, False)],
    ids=["tracks go on", "all tracks dropped", "queries detached"],
)
def test_gradients_flow_through_track_queries(setting: Setting, drop: float, detached: bool, flows: bool) -> None:
    """From the loss of the third frame to what the network saw in the first: through the queries, and nothing else."""
    frames = [setting.values(1, seed).requires_grad_() for seed in range(3)]
    graphs = DetachedQueries(setting.model, encoded=True) if detached else None
    assignment = setting.assignment([[people(0, [1, 2, 3])]] * 3, drop_probability=drop)
    outputs = setting.outputs(frames, assignment, graphs)
    last = SetCriterion(setting.train)(outputs[2:], assignment.matches[2:]).total
    sources = [*frames, outputs[0].embedding]
    found = torch.autograd.grad(last, sources, allow_unused=True)
    of_first, of_second, of_third, of_embedding = (0.0 if g is None else float(g.abs().sum()) for g in found)
    assert np.isfinite((of_first, of_second, of_third, of_embedding)).all()
    assert of_third > 0
    assert [of_first > 0, of_second > 0, of_embedding > 0] == [flows] * 3


def test_only_the_slots_that_go_on_carry_gradients(setting: Setting) -> None:
    """Of the first frame's embeddings, those of the people who are tracked."""
    frames = [setting.values(1, seed) for seed in range(2)]
    assignment = setting.assignment([[people(0, [1, 2, 3])]] * 2)
    outputs = setting.outputs(frames, assignment)
    last = SetCriterion(setting.train)(outputs[1:], assignment.matches[1:]).total
    (gradient,) = torch.autograd.grad(last, outputs[0].embedding)
    reached = np.nonzero(gradient.flatten(2)[0].abs().sum(0).numpy())[0]
    layer, _, slot = assignment.matches[0].index
    born = slot[(layer == layer.max()) & (slot < setting.model.config.num_detect)]
    visible = int((people(0, [1, 2, 3]).visibility >= setting.train.min_visibility).sum())
    assert len(born) == visible
    assert reached.tolist() == sorted(born.tolist())


def test_the_qim_learns_from_the_next_frame_only(setting: Setting) -> None:
    frames = [setting.values(1, seed) for seed in range(2)]
    assignment = setting.assignment([[people(0, [1, 2])]] * 2)
    outputs = setting.outputs(frames, assignment)
    criterion = SetCriterion(setting.train)
    parameters = dict(setting.model.qim.named_parameters())
    for frame, learns in ((0, False), (1, True)):
        total = criterion(outputs[frame : frame + 1], assignment.matches[frame : frame + 1]).total
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
        moved = {name for name, g in zip(parameters, gradients, strict=True) if g is not None and bool(g.any())}
        weights = {name for name in parameters if name.endswith("weight")}
        assert moved >= weights if learns else not moved


def test_references_carry_no_gradient(setting: Setting) -> None:
    model = setting.model
    rows = model.config.num_track // model.config.slot_columns
    reference = torch.full((1, 4, rows, model.config.slot_columns), 0.4, requires_grad=True)
    query = torch.randn(1, model.config.d_model, rows, model.config.slot_columns, requires_grad=True)
    mask = torch.ones(1, 1, 1, model.config.num_track)
    logits, boxes, embedding = model.base.decode(setting.values(1, 0), query, mask, reference)
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
            logits, boxes, embedding = model.base.decode(setting.values(1, 0), q, m, r)
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


class Shuffled(ClipAssignment):
    """Deals the tracks of every frame over the slots again."""

    def decide(self, output: FrameOutput) -> Decision:
        decision = super().decide(output)
        assert decision.shift is not None
        source, shift = decision.source.copy(), decision.shift.copy()
        for b in range(len(source)):
            order = np.random.default_rng((b, len(self.matches))).permutation(source.shape[1])
            source[b], shift[b] = source[b, order], shift[b][:, order]
            self.live[b], self.object_id[b] = self.live[b, order], self.object_id[b, order]
        return Decision(source, shift)


def test_tracks_may_sit_in_any_slots(setting: Setting) -> None:
    frames = [setting.values(2, seed) for seed in range(3)]
    ids = [[1, 2, 3, 4], [2, 3, 4, 5], [1, 3, 5, 6]]
    objects = [[people(10 * t + b, ids[t]) for b in range(2)] for t in range(3)]
    plain = setting.assignment(objects)
    shuffled_slots = Shuffled(objects, setting.model.config, setting.train, generators(2))
    criterion = SetCriterion(setting.train)
    loss, other = (criterion(setting.outputs(frames, a), a.matches).named() for a in (plain, shuffled_slots))
    assert other == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert plain.matches[1].index.tolist() != shuffled_slots.matches[1].index.tolist()


def test_padding_slots_carry_no_loss_in_any_layer(setting: Setting) -> None:
    frames = [setting.values(2, seed) for seed in range(3)]
    objects = [[people(t, [1, 2, 3]), people(t + 50, [1, 4])] for t in range(3)]
    assignment = setting.assignment(objects)
    outputs = setting.outputs(frames, assignment)
    logits = [x for o in outputs for x in o.logits]
    boxes = [x for o in outputs for x in o.boxes]
    total = SetCriterion(setting.train)(outputs, assignment.matches).total
    of_logits = torch.autograd.grad(total, logits, retain_graph=True)
    of_boxes = torch.autograd.grad(total, boxes, allow_unused=True)
    config = setting.model.config
    layers = config.decoder_layers
    assert len(logits) == 3 * layers >= 6
    live = [
        0,
        *(
            int(m.valid.reshape(-1, 2, config.num_slots)[0, :, config.num_detect :].sum())
            for m in assignment.matches[1:]
        ),
    ]
    assert min(live[1:]) > 0
    for i, (gradient, of_box) in enumerate(zip(of_logits, of_boxes, strict=True)):
        tracks = gradient.flatten(1)[:, config.num_detect :]  # [B, T]
        assert int((tracks != 0).sum()) == live[i // layers]  # the live ones and no others
        if of_box is not None:
            touched = of_box.flatten(2).abs().sum(1)[:, config.num_detect :] != 0
            assert not (touched & (tracks == 0)).any()


class Watched(MotrGraphs):
    """Keeps the track queries and masks that the base graph is given."""

    def __init__(self, model: Motr) -> None:
        super().__init__(model, encoded=True)
        self.given: list[tuple[Tensor, Tensor, Tensor]] = []

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> Any:
        self.given.append((query.detach(), mask, reference.detach()))
        return super().base(frame, query, mask, reference)


def test_clips_start_without_tracks(setting: Setting) -> None:
    """Also where the clip before, on the same graphs, ended with some."""
    graphs = Watched(setting.model)
    frames = [setting.values(1, seed) for seed in range(2)]
    objects = [[people(0, [1, 2, 3])]] * 2
    losses = []
    for _ in range(2):
        assignment = setting.assignment(objects)
        outputs = setting.outputs(frames, assignment, graphs)
        losses.append(SetCriterion(setting.train)(outputs, assignment.matches).named())
    assert [bool(mask.any()) for _, mask, _ in graphs.given] == [False, True, False, True]
    for query, _, reference in graphs.given[::2]:
        assert not query.any()
        assert (reference == 0.5).all()
    assert losses[0] == losses[1]


def test_objects_may_come_in_any_order(setting: Setting) -> None:
    frames = [setting.values(2, seed) for seed in range(3)]
    ids = [[1, 2, 3, 4], [2, 3, 4, 5], [1, 3, 5, 6]]
    objects = [[people(10 * t + b, ids[t]) for b in range(2)] for t in range(3)]
    mixed = [[shuffled(frame, 7 * t + b) for b, frame in enumerate(row)] for t, row in enumerate(objects)]
    loss, other = (setting.loss(frames, o).named() for o in (objects, mixed))
    assert other == pytest.approx(loss, rel=1e-4, abs=1e-5)


def test_a_batch_is_its_clips(setting: Setting) -> None:
    """Sums add up, numbers of objects too, and so do the gradients."""
    frames = [setting.values(2, seed).requires_grad_() for seed in range(3)]
    objects = [[people(t, [1, 2, 3]), people(t + 50, [1, 4])] for t in range(3)]
    together = setting.loss(frames, objects)
    alone = [setting.loss([f[:, b : b + 1] for f in frames], [[row[b]] for row in objects]) for b in range(2)]
    assert together.num_objects == sum(a.num_objects for a in alone)
    assert min(a.num_objects for a in alone) > 0
    for kind, table in together.terms.items():
        torch.testing.assert_close(table, alone[0].terms[kind] + alone[1].terms[kind], rtol=1e-3, atol=1e-4)
    parameters = list(setting.model.qim.parameters())
    both = torch.autograd.grad(together.total, parameters)
    single = torch.autograd.grad(alone[0].total + alone[1].total, parameters)
    for g, h in zip(both, single, strict=True):
        torch.testing.assert_close(g, h, rtol=1e-2, atol=1e-3)


def test_a_batch_of_pictures_is_its_clips(setting: Setting, store: FrameStore) -> None:
    """The module that is trained, with every chance there is: a clip's loss does not depend on its neighbours."""
    train = replace(
        setting.train,
        drop_probability=0.2,
        heavy_drop_fraction=0.5,
        false_positive_ratio=0.5,
        clone_probability=0.5,
        reference_jitter=0.1,
    )
    clips = [ClipDataset(store, train, setting.model.config, seed=1)[0, i, 2] for i in range(2)]
    model = ClipModel(setting.model, train).eval()
    with torch.no_grad():
        together = model(collate(clips).to("cpu"), generators(2))
        alone = [model(collate([clip]).to("cpu"), [np.random.default_rng(i)]) for i, clip in enumerate(clips)]
    assert together.num_objects == sum(a.num_objects for a in alone) > 0
    for kind, table in together.terms.items():
        expected = torch.stack([a.terms[kind] for a in alone]).sum(0)
        torch.testing.assert_close(table, expected, rtol=1e-3, atol=1e-3)


class Counted(Extra):
    """Sees every frame go by, and adds the number of frames to the loss."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []

    def graphs(self, graphs: Graphs) -> Graphs:
        def base(values: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> Any:
            self.masks.append(mask)
            return graphs.base(values, query, mask, reference)

        return with_calls(graphs, base=base)

    def loss(self, loss: ClipLoss, matches: Sequence[FrameMatch]) -> ClipLoss:
        number = torch.tensor(float(len(matches)))
        return loss.plus("counted", number, number.expand(len(matches), 2))


def test_what_only_training_has_goes_along_and_adds_to_the_loss(setting: Setting) -> None:
    frames, objects = [setting.values(1, seed) for seed in range(3)], [[people(0, [1, 2, 3])]] * 3
    graphs, config, extra = MotrGraphs(setting.model, encoded=True), setting.model.config, Counted()
    plain = setting.loss(frames, objects)
    loss = clip_loss(graphs, frames, objects, config, setting.train, generators(1), [extra])
    assert [bool(mask.any()) for mask in extra.masks] == [False, True, True]
    torch.testing.assert_close(loss.total, plain.total + 3)
    assert loss.terms.keys() - plain.terms.keys() == {"counted"}
    assert loss.num_objects == plain.num_objects


def test_clips_without_people(setting: Setting) -> None:
    frames = [setting.values(2, seed) for seed in range(2)]
    loss = setting.loss(frames, [[people(0, []), people(0, [])]] * 2)
    terms = loss.named()
    assert loss.num_objects == 0
    assert all(np.isfinite(list(terms.values())))
    assert all(value == 0 for name, value in terms.items() if not name.endswith("class"))
    assert {name.split(".")[0] for name in terms} == {"frame_0", "frame_1"}
    loss.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in setting.model.parameters())
