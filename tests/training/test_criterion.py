"""The criterion against a loop over frames, layers, clips and slots, in Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motrlab.config import TrainConfig
from motrlab.tracking.step import FrameOutput
from motrlab.training.assignment import FrameMatch
from motrlab.training.criterion import ClipLoss, SetCriterion, focal_loss
from tests.tiny import tiny

MakeOutput = Callable[..., FrameOutput]
LAYERS, BATCH, SLOTS = 2, 2, 8


@dataclass(frozen=True)
class Frame:
    """What the network says, `logits` `[L, B, N]` and `boxes` `[L, B, N, 4]`, and what it is supervised with."""

    logits: np.ndarray
    boxes: np.ndarray
    match: FrameMatch

    def output(self) -> FrameOutput:
        """As tensors of one row of slots."""
        logits, boxes = (torch.tensor(x, dtype=torch.float32) for x in (self.logits, self.boxes.swapaxes(2, 3)))
        return FrameOutput(
            tuple(x[:, None, None].clone().requires_grad_() for x in logits),
            tuple(x[:, :, None].clone().requires_grad_() for x in boxes),
            torch.zeros(len(logits[0]), 8, 1, logits.shape[2]),
        )


def draw_frame(
    shape: tuple[int, int, int] = (LAYERS, BATCH, SLOTS), positive: float = 0.3, empty: float = 0.2, seed: int = 0
) -> Frame:
    """Shares of positive and of empty slots; other positives in every layer, the same empty slots."""
    rng = np.random.default_rng(seed)
    exists = np.broadcast_to(rng.random(shape[1:]) >= empty, shape)
    index = np.stack(np.nonzero((rng.random(shape) < positive) & exists))
    return Frame(
        rng.uniform(-4, 4, shape),
        np.concatenate((rng.uniform(0.2, 0.8, (*shape, 2)), rng.uniform(0.1, 0.3, (*shape, 2))), -1),
        FrameMatch(
            exists.copy(),
            index,
            rng.uniform(0.2, 0.6, (index.shape[1], 4)),
            np.zeros(index.shape[1], int),
            int(rng.integers(0, 9)),
        ),
    )


def slow_loss(frames: Sequence[Frame], config: TrainConfig) -> dict[str, float]:
    """Every term, slot by slot; not divided."""
    terms = {}
    for f, frame in enumerate(frames):
        match = frame.match
        boxes = dict(zip(map(tuple, match.index.T.tolist()), match.box.tolist(), strict=True))
        for layer in range(len(frame.logits)):
            class_, l1, giou = 0.0, 0.0, 0.0
            for b in range(frame.logits.shape[1]):
                for n in range(frame.logits.shape[2]):
                    if not match.valid[layer, b, n]:
                        continue
                    p = 1 / (1 + math.exp(-frame.logits[layer, b, n]))
                    gt, box = boxes.get((layer, b, n)), frame.boxes[layer, b, n].tolist()
                    if gt is None:
                        class_ -= (1 - config.focal_alpha) * p**config.focal_gamma * math.log(1 - p)
                        continue
                    class_ -= config.focal_alpha * (1 - p) ** config.focal_gamma * math.log(p)
                    l1 += sum(abs(x - y) for x, y in zip(box, gt, strict=True))
                    giou += 1 - slow_giou(box, gt)
            terms[f"frame_{f}.layer_{layer}.class"] = class_ * config.class_weight
            terms[f"frame_{f}.layer_{layer}.l1"] = l1 * config.l1_weight
            terms[f"frame_{f}.layer_{layer}.giou"] = giou * config.giou_weight
    return terms


def slow_giou(a: list[float], b: list[float]) -> float:
    """Of two cxcywh boxes, axis by axis."""
    common, hull = 1.0, 1.0
    for axis in (0, 1):
        a_low, a_high = a[axis] - a[axis + 2] / 2, a[axis] + a[axis + 2] / 2
        b_low, b_high = b[axis] - b[axis + 2] / 2, b[axis] + b[axis + 2] / 2
        common *= max(0.0, min(a_high, b_high) - max(a_low, b_low))
        hull *= max(a_high, b_high) - min(a_low, b_low)
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union - (hull - union) / hull


def criterion(frames: Sequence[Frame], config: TrainConfig) -> ClipLoss:
    return SetCriterion(config)([f.output() for f in frames], [f.match for f in frames])


def total(frames: Sequence[Frame], config: TrainConfig) -> float:
    return float(criterion(frames, config).total.detach())


def summarised(loss: ClipLoss) -> dict[str, float]:
    """Total and kinds of terms, per object."""
    sums = {kind: float(table.sum()) / max(loss.num_objects, 1) for kind, table in loss.terms.items()}
    return {"loss": float(loss.mean.detach()), **sums}


def gradients(loss: ClipLoss, outputs: list[FrameOutput]) -> list[torch.Tensor]:
    leaves = [x for o in outputs for x in (*o.logits, *o.boxes)]
    found = torch.autograd.grad(loss.total, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


@pytest.mark.parametrize("target", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 1.5, 30.0])
def test_focal_loss_of_one_logit(logit: float, target: float) -> None:
    found = focal_loss(torch.tensor([logit]), torch.tensor([target]), 0.25, 2.0)
    p = 1 / (1 + math.exp(-logit))
    log_p, log_q = -math.log1p(math.exp(-logit)), -math.log1p(math.exp(logit))
    expected = -0.25 * (1 - p) ** 2 * log_p if target else -0.75 * p**2 * log_q
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)),
    num_frames=st.integers(1, 3),
    positive=st.sampled_from([0.0, 0.4, 1.0]),
    empty=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_term_is_what_a_loop_gives(
    shape: tuple[int, int, int], num_frames: int, positive: float, empty: float, seed: int
) -> None:
    """Nobody at all, one slot, every slot matched, every slot empty."""
    config = replace(tiny().train, focal_alpha=0.3, focal_gamma=1.5, class_weight=1.5, l1_weight=4.0, giou_weight=3.0)
    frames = [draw_frame(shape, positive, empty, seed + 100 * f) for f in range(num_frames)]
    loss, expected = criterion(frames, config), slow_loss(frames, config)
    num_objects = sum(f.match.num_objects for f in frames)
    assert loss.num_objects == num_objects
    assert float(loss.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-4, abs=1e-5)
    divided = {name: value / max(1, num_objects) for name, value in expected.items()}
    assert loss.named() == pytest.approx(divided, rel=1e-4, abs=1e-5)


def test_gradients_are_those_of_the_loop(quiet: TrainConfig) -> None:
    """Against differences of the loop, one logit or coordinate at a time."""
    frame = draw_frame(seed=5)
    output = frame.output()
    loss = SetCriterion(quiet)([output], [frame.match])
    found = [g.numpy() for g in gradients(loss, [output])]
    logits = np.stack(found[:LAYERS]).reshape(LAYERS, BATCH, SLOTS)
    boxes = np.stack(found[LAYERS:]).reshape(LAYERS, BATCH, 4, SLOTS).swapaxes(2, 3)
    rng = np.random.default_rng(0)
    checked = 0
    for name, gradient in (("logits", logits), ("boxes", boxes)):
        for _ in range(40):
            index = tuple(int(rng.integers(n)) for n in gradient.shape)
            sums = []
            for step in (1e-6, -1e-6):
                moved = getattr(frame, name).copy()
                moved[index] += step
                sums.append(sum(slow_loss([replace(frame, **{name: moved})], quiet).values()))  # type: ignore[arg-type]
            expected = (sums[0] - sums[1]) / 2e-6
            assert gradient[index] == pytest.approx(expected, rel=1e-2, abs=1e-4), (name, index)
            checked += abs(expected) > 1e-3
    assert checked > 30


def test_a_sum_over_frames_that_is_divided_once(quiet: TrainConfig) -> None:
    """Not frame by frame: where the objects are in the clip does not matter."""
    first, second = draw_frame(seed=1), draw_frame(seed=2)

    def loss(*objects: int) -> ClipLoss:
        frames = [
            replace(f, match=replace(f.match, num_objects=n)) for f, n in zip((first, second), objects, strict=True)
        ]
        return criterion(frames, quiet)

    alone = [total([frame], quiet) for frame in (first, second)]
    assert float(loss(1, 5).total.detach()) == pytest.approx(sum(alone), rel=1e-5)
    for objects in ((1, 5), (3, 3), (6, 0)):
        assert float(loss(*objects).mean.detach()) == pytest.approx(sum(alone) / 6, rel=1e-5)
    assert float(loss(0, 0).mean.detach()) == float(loss(1, 0).mean.detach())
    summary = summarised(loss(1, 5))
    assert summary["loss"] == pytest.approx(sum(alone) / 6, rel=1e-5)
    assert summary["loss"] == pytest.approx(sum(summary[kind] for kind in ("class", "l1", "giou")), rel=1e-5)


def test_no_objects_at_all(quiet: TrainConfig) -> None:
    frames = [draw_frame(positive=0.0, seed=s) for s in range(2)]
    outputs = [f.output() for f in frames]
    loss = SetCriterion(quiet)(outputs, [f.match for f in frames])
    summary = summarised(loss)
    assert np.isfinite(float(loss.total.detach()))
    assert summary["l1"] == summary["giou"] == 0
    assert summary["class"] > 0
    assert all(torch.isfinite(g).all() for g in gradients(loss, outputs))


def test_empty_slots_carry_no_loss_in_any_layer(quiet: TrainConfig) -> None:
    frame = draw_frame(empty=0.4, seed=3)
    empty = ~frame.match.valid
    assert empty.any(2).all()
    assert not empty.all(2).any()
    garbage = replace(
        frame, logits=np.where(empty, 60.0, frame.logits), boxes=np.where(empty[..., None], 1e6, frame.boxes)
    )
    assert total([garbage], quiet) == total([frame], quiet)
    output = garbage.output()
    found = gradients(SetCriterion(quiet)([output], [frame.match]), [output])
    for layer in range(LAYERS):
        of_logits = found[layer].reshape(BATCH, SLOTS).numpy()
        assert not of_logits[empty[layer]].any()
        assert (of_logits[~empty[layer]] != 0).all()
        assert not found[LAYERS + layer].reshape(BATCH, 4, SLOTS).numpy().swapaxes(1, 2)[empty[layer]].any()


def test_slots_and_clips_may_come_in_any_order(quiet: TrainConfig) -> None:
    frame = draw_frame(seed=4)
    rng = np.random.default_rng(4)
    of_slots, of_clips = rng.permutation(SLOTS), rng.permutation(BATCH)
    match = frame.match
    moved = Frame(
        frame.logits[:, of_clips][:, :, of_slots],
        frame.boxes[:, of_clips][:, :, of_slots],
        replace(
            match,
            valid=match.valid[:, of_clips][:, :, of_slots],
            index=np.stack(
                (match.index[0], np.argsort(of_clips)[match.index[1]], np.argsort(of_slots)[match.index[2]])
            ),
        ),
    )
    assert criterion([moved], quiet).named() == pytest.approx(criterion([frame], quiet).named(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["class", "l1", "giou"])
def test_weights(quiet: TrainConfig, kind: str) -> None:
    frames = [draw_frame(seed=6)]
    field = f"{kind}_weight"
    doubled = replace(quiet, **{field: 2 * getattr(quiet, field)})  # type: ignore[arg-type]
    before, after = (summarised(criterion(frames, c)) for c in (quiet, doubled))
    assert after[kind] == pytest.approx(2 * before[kind])
    assert after["loss"] - before["loss"] == pytest.approx(before[kind], rel=1e-4)


def test_with_several_classes_each_has_its_own_sigmoid() -> None:
    """The loss is that of each class's own logits, the objects of the other classes being background there."""
    frame, other = draw_frame(seed=3), draw_frame(seed=4)
    config, kind = TrainConfig(steps=1), np.random.default_rng(0).integers(0, 2, frame.match.index.shape[1])
    match = replace(frame.match, kind=kind)
    outputs = [one.output() for one in (frame, other)]
    both = tuple(torch.cat(pair, 1) for pair in zip(*(o.logits for o in outputs), strict=True))
    found = SetCriterion(config)([replace(outputs[0], logits=both)], [match])
    alone = []
    for k, logits in enumerate(o.logits for o in outputs):
        own = kind == k
        rows = replace(match, index=match.index[:, own], box=match.box[own], kind=np.zeros(own.sum(), int))
        alone.append(SetCriterion(config)([replace(outputs[0], logits=logits)], [rows]))
    assert 0 < kind.mean() < 1
    for name, table in found.terms.items():
        torch.testing.assert_close(table, alone[0].terms[name] + alone[1].terms[name])
