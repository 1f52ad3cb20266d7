"""Shapes, and what must not change the outputs: padding, batching, the order of slots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from motrlab.config import ModelConfig, mot17
from motrlab.model.base import DetectQueries, decode_boxes
from motrlab.model.motr import Motr, build_motr
from motrlab.model.operations import FLOAT, inverse_sigmoid
from tests.tiny import tiny


def run(model: Motr, frame: Any) -> list[Tensor]:
    """All outputs, flattened over slots: `[B, K, N]`; layers' logits, layers' boxes, embedding."""
    with torch.no_grad():
        logits, boxes, embedding = model.base(*frame.as_tuple())
    return [x.flatten(2) for x in (*logits, *boxes, embedding)]


def test_shapes(model: Motr, config: ModelConfig, two_frames: Any) -> None:
    logits, boxes, embedding = model.base(*two_frames.as_tuple())
    rows, columns = config.num_slots // config.slot_columns, config.slot_columns
    assert [tuple(x.shape) for x in logits] == [(2, 1, rows, columns)] * config.decoder_layers
    assert [tuple(x.shape) for x in boxes] == [(2, 4, rows, columns)] * config.decoder_layers
    assert embedding.shape == (2, config.d_model, rows, columns)


def test_shapes_of_the_reference() -> None:
    """What is exported of `mot17`: static shapes."""
    config = mot17().model
    with torch.device("meta"):
        model = Motr(config)
        inputs = [torch.empty(s) for s in ((1, 3, 800, 1422), (1, 256, 2, 128), (1, 1, 1, 256), (1, 4, 2, 128))]
        logits, boxes, embedding = model.base(*inputs)
        updated = model.qim(torch.empty(1, 256, 1, 256), torch.empty(1, 256, 1, 256), torch.empty(1, 1, 1, 256))
    assert {tuple(x.shape) for x in logits} == {(1, 1, 4, 128)}
    assert {tuple(x.shape) for x in boxes} == {(1, 4, 4, 128)}
    assert len(logits) == len(boxes) == 6
    assert embedding.shape == (1, 256, 4, 128)
    assert updated.shape == (1, 256, 1, 256)


GARBAGE = {
    "large queries": lambda frame: (frame.query * 0 + 50, frame.reference),
    "random queries": lambda frame: (torch.randn_like(frame.query) * 20, frame.reference),
    "references on top of live boxes": lambda frame: (frame.query, frame.reference[..., :1].expand_as(frame.reference)),
    "references far outside": lambda frame: (frame.query, frame.reference * 0 - 3),
    "both": lambda frame: (torch.randn_like(frame.query) * 20, torch.rand_like(frame.reference) * 8 - 4),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_padding_slots_change_nothing(kind: str, model: Motr, config: ModelConfig, two_frames: Any) -> None:
    torch.manual_seed(0)
    frame = two_frames
    query, reference = GARBAGE[kind](frame)
    empty = (frame.mask == 0).reshape(2, 1, *frame.query.shape[2:])
    padded = replace(
        frame, query=torch.where(empty, query, frame.query), reference=torch.where(empty, reference, frame.reference)
    )
    real = torch.cat((torch.ones(2, config.num_detect), frame.mask[:, 0, 0]), 1).bool()
    for clean, dirty in zip(run(model, frame), run(model, padded), strict=True):
        torch.testing.assert_close(dirty.swapaxes(1, 2)[real], clean.swapaxes(1, 2)[real], rtol=0, atol=1e-6)
        assert dirty.isfinite().all()


def test_live_slots_do_change_the_rest(model: Motr, config: ModelConfig, frame: Any) -> None:
    """The control of the test above: the same garbage in a live slot is felt by detect slots."""
    query = frame.query.clone()
    query[..., 0, 0] += 5
    clean, dirty = (run(model, f)[-1][..., : config.num_detect] for f in (frame, replace(frame, query=query)))
    assert (clean - dirty).abs().max() > 1e-3


@pytest.mark.parametrize("live", [0, 1], ids=["all empty", "all live"])
def test_no_nan_whatever_the_mask(live: int, model: Motr, frame: Any) -> None:
    for output in run(model, replace(frame, mask=torch.full_like(frame.mask, live))):
        assert output.isfinite().all()


def test_gradients_are_finite_with_all_slots_empty(config: ModelConfig, frame: Any) -> None:
    model = build_motr(config)
    logits, boxes, embedding = model.base(frame.image, frame.query, frame.mask * 0, frame.reference)
    (sum(x.sum() for x in (*logits, *boxes)) + embedding.square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.base.parameters() if p.grad is not None)
    missing = {name for name, p in model.base.named_parameters() if p.grad is None}
    assert missing == set()


def test_batch_of_two_equals_two_singles(model: Motr, two_frames: Any) -> None:
    together = run(model, two_frames)
    for index in range(2):
        single = type(two_frames)(*(x[index : index + 1] for x in two_frames.as_tuple()))
        for one, both in zip(run(model, single), together, strict=True):
            torch.testing.assert_close(both[index : index + 1], one, rtol=1e-5, atol=2e-5)


def test_permuted_track_slots_give_permuted_outputs(model: Motr, config: ModelConfig, frame: Any) -> None:
    order = torch.randperm(config.num_track, generator=torch.Generator().manual_seed(1))
    permuted = replace(
        frame,
        query=frame.query.flatten(2)[..., order].reshape(frame.query.shape),
        mask=frame.mask[..., order],
        reference=frame.reference.flatten(2)[..., order].reshape(frame.reference.shape),
    )
    slots = torch.cat((torch.arange(config.num_detect), config.num_detect + order))
    for plain, moved in zip(run(model, frame), run(model, permuted), strict=True):
        torch.testing.assert_close(moved, plain[..., slots], rtol=1e-5, atol=2e-5)


def test_decode_of_encode_is_forward(model: Motr, frame: Any) -> None:
    with torch.no_grad():
        values = model.base.value_maps(model.base.encode(frame.image))
        halves = model.base.decode(values, frame.query, frame.mask, frame.reference)[2]
        torch.testing.assert_close(halves, model.base(*frame.as_tuple())[2], rtol=0, atol=0)


def test_value_maps_are_what_every_layer_would_project(model: Motr, frame: Any) -> None:
    """Outputs and gradients, for memories of several frames at once."""
    images = torch.cat((frame.image, frame.image.flip(3)))
    base, outcomes = model.base, []
    for at_once in (False, True):
        memory = base.encode(images)
        own = torch.stack([layer.cross_attention.value(memory) for layer in base.decoder])
        parts = (base.value_maps(memory) if at_once else own).split(len(frame.image), 1)
        outputs = [x for part in parts for x in base.decode(part, frame.query, frame.mask, frame.reference)[1]]
        outcomes.append(
            [*outputs, *torch.autograd.grad(sum(x.sum() for x in outputs), list(base.parameters()), allow_unused=True)]
        )
    for apart, together in zip(*outcomes, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_references_are_detached_between_layers(config: ModelConfig, frame: Any) -> None:
    """Box refinement of layer 2 must not train layer 1's head."""
    model = build_motr(config)
    _, boxes, _ = model.base(*frame.as_tuple())
    first_head = list(model.base.box_heads[0].parameters())
    gradients = torch.autograd.grad(boxes[1].sum(), first_head, allow_unused=True, retain_graph=True)
    assert all(g is None or not g.any() for g in gradients)
    assert all(g.any() for g in torch.autograd.grad(boxes[0].sum(), first_head[-1:]))


def test_an_untrained_slot_starts_at_the_prior_and_at_its_reference(config: ModelConfig, frame: Any) -> None:
    model = build_motr(config)
    _, boxes, _ = model.base(*frame.as_tuple())
    first = decode_boxes(boxes[0], config)
    detect = model.base.detect.reference()
    torch.testing.assert_close(first[:, :, : detect.shape[2]], detect, atol=1e-4, rtol=0)
    torch.testing.assert_close(first[:, :, detect.shape[2] :], frame.reference, atol=1e-4, rtol=0)
    head = model.base.class_heads[0]
    assert torch.sigmoid(head.bias).item() == pytest.approx(config.class_prior)


def test_anchor_grid_covers_the_image() -> None:
    config = replace(mot17().model, num_detect=256, anchor_grid=(8, 32), anchor_size=(0.1, 0.3))
    boxes = DetectQueries(config).reference().detach().flatten(2)[0]
    assert boxes[0].unique().numel() == 32
    assert boxes[1].unique().numel() == 8
    assert boxes[0].min().item() == pytest.approx(1 / 64, abs=1e-3)
    assert boxes[1].max().item() == pytest.approx(15 / 16, abs=1e-3)
    torch.testing.assert_close(boxes[2:], torch.tensor([[0.1], [0.3]]).expand(2, 256), atol=1e-5, rtol=0)


def test_inverse_sigmoid_inverts_and_stays_finite() -> None:
    values = torch.linspace(0.01, 0.99, 50)
    torch.testing.assert_close(torch.sigmoid(inverse_sigmoid(values)), values)
    assert inverse_sigmoid(torch.tensor([0.0, 1.0, -5.0, 9.0])).isfinite().all()


def test_relative_boxes_keep_a_size() -> None:
    """However wild the deltas, width and height stay between 0.001 and 2 images."""
    config = tiny().model
    model = build_motr(config)
    reference = torch.rand(1, 4, 5, 8, generator=torch.Generator().manual_seed(0))
    for delta in (-100.0, 100.0):
        boxes = FLOAT.refine(model.base, torch.full_like(reference, delta), reference)
        assert boxes[:, 2:].min() >= 1e-3
        assert boxes[:, 2:].max() <= 2
