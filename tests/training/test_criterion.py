from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.config import TrainConfig
from motrlab.tracking.step import FrameOutput
from motrlab.training.assignment import FrameMatch
from motrlab.training.criterion import ClipLoss, SetCriterion, focal_loss

MakeOutput = Callable[..., FrameOutput]
LAYERS, BATCH, SLOTS = 2, 2, 8


def draw_outputs(make_output: MakeOutput, num_frames: int = 2, seed: int = 0) -> list[FrameOutput]:
    rng = np.random.default_rng(seed)
    shape = (LAYERS, BATCH, SLOTS)
    return [
        make_output(
            rng.uniform(0.05, 0.95, shape),
            np.concatenate((rng.uniform(0.2, 0.8, (*shape, 2)), rng.uniform(0.1, 0.3, (*shape, 2))), -1),
        )
        for _ in range(num_frames)
    ]


def match(positives: list[tuple[int, int]], *, empty: list[tuple[int, int]] = (), num_objects: int = 3) -> FrameMatch:  # type: ignore[assignment]
    """The same positive (clip, slot) pairs in each layer, boxes from a fixed table."""
    valid = np.ones((BATCH, SLOTS), bool)
    for clip, slot in empty:
        valid[clip, slot] = False
    clips, slots = (np.array([p[i] for p in positives], np.int64) for i in (0, 1))
    boxes = np.random.default_rng(7).uniform(0.2, 0.6, (len(positives), 4))
    return FrameMatch(valid, (clips,) * LAYERS, (slots,) * LAYERS, (boxes,) * LAYERS, num_objects)


def slow_loss(outputs: list[FrameOutput], matches: list[FrameMatch], config: TrainConfig) -> dict[str, float]:
    """Every slot in a loop."""
    divisor = max(1, sum(m.num_objects for m in matches))
    terms: dict[str, float] = {}
    for f, (output, found) in enumerate(zip(outputs, matches, strict=True)):
        for layer in range(LAYERS):
            logits = output.logits[layer].detach().numpy().reshape(BATCH, SLOTS)
            boxes = output.boxes[layer].detach().numpy().reshape(BATCH, 4, SLOTS)
            positive = dict(zip(zip(found.clip[layer], found.slot[layer], strict=True), found.box[layer], strict=True))
            sums = {"class": 0.0, "l1": 0.0, "giou": 0.0}
            for b in range(BATCH):
                for n in range(SLOTS):
                    if not found.valid[b, n]:
                        continue
                    p = 1 / (1 + math.exp(-float(logits[b, n])))
                    if (b, n) in positive:
                        sums["class"] += -0.25 * (1 - p) ** 2 * math.log(p)
                        sums["l1"] += float(np.abs(boxes[b, :, n] - positive[b, n]).sum())
                        sums["giou"] += 1 - slow_giou(boxes[b, :, n], positive[b, n])
                    else:
                        sums["class"] += -0.75 * p**2 * math.log(1 - p)
            weights = {"class": config.class_weight, "l1": config.l1_weight, "giou": config.giou_weight}
            terms |= {f"frame_{f}.layer_{layer}.{kind}": sums[kind] * weights[kind] / divisor for kind in sums}
    return terms


def slow_giou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2), np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = float(np.prod(np.clip(high - low, 0, None)))
    union = float(np.prod(a[2:]) + np.prod(b[2:])) - common
    hull_low = np.minimum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    hull = float(np.prod(np.maximum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2) - hull_low))
    return common / union - (hull - union) / hull


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


def test_every_term_is_what_a_loop_gives(make_output: MakeOutput, quiet: TrainConfig) -> None:
    outputs = draw_outputs(make_output)
    matches = [
        match([(0, 1), (0, 5), (1, 3)], empty=[(0, 6), (0, 7), (1, 4)], num_objects=4),
        match([(1, 0)], empty=[(0, 4)], num_objects=2),
    ]
    loss = SetCriterion(quiet)(outputs, matches)
    expected = slow_loss(outputs, matches, quiet)
    assert loss.named() == pytest.approx(expected, rel=1e-4)
    assert float(loss.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-4)
    assert loss.summary()["loss"] == pytest.approx(sum(loss.summary()[kind] for kind in ("class", "l1", "giou")))


def test_divided_once_by_the_objects_of_the_clip(make_output: MakeOutput, quiet: TrainConfig) -> None:
    outputs = draw_outputs(make_output)
    criterion = SetCriterion(quiet)

    def total(first: int, second: int, **given: float) -> float:
        matches = [match([(0, 1)], num_objects=first), match([(1, 2)], num_objects=second)]
        return float(criterion(outputs, matches, **given).total.detach())

    assert total(1, 5) == pytest.approx(total(3, 3))  # of all frames together, not frame by frame
    assert total(2, 2) == pytest.approx(3 * total(6, 6))
    assert total(0, 0) == pytest.approx(total(1, 0))
    assert total(1, 5, num_objects=12.0) == pytest.approx(total(6, 6))  # an average over workers


def test_no_objects_at_all(make_output: MakeOutput, quiet: TrainConfig) -> None:
    outputs = draw_outputs(make_output)
    loss = SetCriterion(quiet)(outputs, [match([], num_objects=0)] * 2)
    assert np.isfinite(float(loss.total.detach()))
    assert loss.summary()["l1"] == loss.summary()["giou"] == 0
    assert loss.summary()["class"] > 0
    assert all(torch.isfinite(g).all() for g in gradients(loss, outputs))


def test_empty_track_slots_are_ignored(make_output: MakeOutput, quiet: TrainConfig) -> None:
    outputs = draw_outputs(make_output, num_frames=1)
    matches = [match([(0, 1), (1, 5)], empty=[(0, 6), (1, 4)])]
    loss = SetCriterion(quiet)(outputs, matches)
    changed = draw_outputs(make_output, num_frames=1)
    with torch.no_grad():
        for logits in changed[0].logits:
            logits.view(BATCH, SLOTS)[0, 6], logits.view(BATCH, SLOTS)[1, 4] = 60.0, -60.0
        for boxes in changed[0].boxes:
            boxes.view(BATCH, 4, SLOTS)[0, :, 6] = 1e6
    garbage = SetCriterion(quiet)(changed, matches)
    assert float(garbage.total.detach()) == float(loss.total.detach())
    for found in gradients(garbage, changed):
        flat = found.reshape(BATCH, -1, SLOTS)
        assert not flat[0, :, 6].any()
        assert not flat[1, :, 4].any()
        assert flat[0, :, 1].any()


@pytest.mark.parametrize("kind", ["class", "l1", "giou"])
def test_weights(make_output: MakeOutput, quiet: TrainConfig, kind: str) -> None:
    outputs, matches = draw_outputs(make_output, 1), [match([(0, 1), (1, 5)])]
    field = f"{kind}_weight"
    doubled = replace(quiet, **{field: 2 * getattr(quiet, field)})  # type: ignore[arg-type]
    before, after = (SetCriterion(c)(outputs, matches).summary() for c in (quiet, doubled))
    assert after[kind] == pytest.approx(2 * before[kind])
    assert after["loss"] - before["loss"] == pytest.approx(before[kind], rel=1e-4)
