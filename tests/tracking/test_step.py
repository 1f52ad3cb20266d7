from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from motrlab.tracking.step import FrameOutput, FrameStep, TrackState, empty_state, frame_step, state_like, to_numpy
from motrlab.tracking.tracker import EMPTY, Decision

SOURCES = {  # per stream, for four track slots; detect slots are 0 to 7, track slots 8 to 11
    "nobody": [[EMPTY] * 4] * 2,
    "births": [[3, EMPTY, 0, EMPTY], [EMPTY, 7, EMPTY, EMPTY]],
    "carried on": [[8, 9, 10, 11], [EMPTY, 9, EMPTY, 11]],
    "both": [[2, 9, 5, EMPTY], [8, EMPTY, 1, 11]],
    "moved to other slots": [[9, 8, EMPTY, 10], [11, 9, 3, EMPTY]],
}


def outcome(step: FrameStep) -> tuple[FrameOutput, TrackState]:
    return step.output, step.state


def decide(source: Any) -> Any:
    return lambda output: Decision(np.array(source))


def random_state(sizes: Any, batch: int = 2) -> TrackState:
    random = np.random.default_rng(1)
    empty = empty_state(batch, sizes.d_model, sizes.num_track, sizes.slot_columns)
    mask = np.ones_like(empty.mask)
    mask[:, ..., 1] = 0
    return TrackState(*(random.normal(size=x.shape).astype(np.float32) for x in (empty.query,)), mask, empty.reference)


def images(sizes: Any, batch: int = 2) -> Any:
    random = np.random.default_rng(2)
    return random.normal(size=(batch, 3, sizes.height, sizes.width)).astype(np.float32)


@pytest.mark.parametrize("name", SOURCES)
def test_numpy_equals_torch(name: str, numpy_graphs: Any, torch_graphs: Any, sizes: Any) -> None:
    frame, state, source = images(sizes), random_state(sizes), SOURCES[name]
    output, following = outcome(frame_step(numpy_graphs, frame, state, decide(source)))
    tensors = torch.from_numpy(frame)
    theirs, theirs_following = outcome(frame_step(torch_graphs, tensors, state_like(state, tensors), decide(source)))
    for part in ("query", "mask", "reference"):
        ours = getattr(following, part)
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(to_numpy(getattr(theirs_following, part)), ours, atol=1e-6)
        assert ours.shape == getattr(state, part).shape
    for one, other in zip(output.scores_and_boxes(), theirs.scores_and_boxes(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", SOURCES)
def test_empty_slots_are_zero(name: str, numpy_graphs: Any, sizes: Any) -> None:
    _, state = outcome(frame_step(numpy_graphs, images(sizes), random_state(sizes), decide(SOURCES[name])))
    live = np.array(SOURCES[name]) != EMPTY
    np.testing.assert_array_equal(state.mask[:, 0, 0], live)
    query, reference = (x.reshape(2, x.shape[1], -1).swapaxes(1, 2) for x in (state.query, state.reference))
    assert (query[~live] == 0).all()
    assert (query[live] != 0).any(1).all()
    np.testing.assert_array_equal(reference[~live], np.full_like(reference[~live], 0.5))


@pytest.mark.parametrize("name", SOURCES)
def test_a_slot_continues_from_its_source(name: str, numpy_graphs: Any, sizes: Any) -> None:
    frame, state = images(sizes), random_state(sizes)
    seen: list[Any] = []

    def qim(embedding: Any, query: Any, mask: Any) -> Any:
        seen.extend((embedding, query, mask))
        return embedding

    numpy_graphs.qim = qim
    output, following = outcome(frame_step(numpy_graphs, frame, state, decide(SOURCES[name])))
    embedding, query, mask = seen
    for x in seen:  # what a runtime takes without a copy
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
    assert embedding.shape == query.shape == (2, sizes.d_model, 1, sizes.num_track)
    assert mask.shape == (2, 1, 1, sizes.num_track)
    slots = output.embedding.reshape(2, sizes.d_model, -1)
    carried = np.concatenate((np.repeat(numpy_graphs.detect_query, 2, 0), state.query), 2).reshape(2, sizes.d_model, -1)
    boxes = output.boxes[-1].reshape(2, 4, -1)
    for stream, row in enumerate(SOURCES[name]):
        for slot, source in enumerate(row):
            if source == EMPTY:
                assert not embedding[stream, :, 0, slot].any()
                assert not query[stream, :, 0, slot].any()
                continue
            np.testing.assert_array_equal(embedding[stream, :, 0, slot], slots[stream, :, source])
            np.testing.assert_array_equal(query[stream, :, 0, slot], carried[stream, :, source])
            reference = following.reference.reshape(2, 4, -1)[stream, :, slot]
            np.testing.assert_allclose(reference, boxes[stream, :, source], atol=1e-7)


def test_shift_moves_references_of_live_slots_only(numpy_graphs: Any, sizes: Any) -> None:
    frame, state, source = images(sizes), random_state(sizes), np.array(SOURCES["both"])
    shift = np.random.default_rng(0).normal(size=(2, 4, 4))
    _, plain = outcome(frame_step(numpy_graphs, frame, state, lambda output: Decision(source)))
    _, moved = outcome(frame_step(numpy_graphs, frame, state, lambda output: Decision(source, shift)))
    difference = (moved.reference - plain.reference).reshape(2, 4, -1)
    np.testing.assert_allclose(difference, shift * (source != EMPTY)[:, None], atol=1e-6)


def test_a_held_slot_keeps_its_query(numpy_graphs: Any, torch_graphs: Any, sizes: Any) -> None:
    frame, state, source = images(sizes), random_state(sizes), np.array(SOURCES["carried on"])
    hold = np.array([[True, False, True, False], [False, True, False, False]])
    _, following = outcome(frame_step(numpy_graphs, frame, state, lambda output: Decision(source, hold=hold)))
    before, after = (x.query.reshape(2, sizes.d_model, -1).swapaxes(1, 2) for x in (state, following))
    np.testing.assert_array_equal(after[hold], before[hold])
    assert (after[~hold & (source != EMPTY)] != before[~hold & (source != EMPTY)]).any(1).all()
    tensors = torch.from_numpy(frame)
    decision = Decision(source, hold=hold)
    _, theirs = outcome(frame_step(torch_graphs, tensors, state_like(state, tensors), lambda output: decision))
    np.testing.assert_allclose(to_numpy(theirs.query), following.query, atol=1e-6)


def test_base_comes_before_the_decision_and_qim_after(numpy_graphs: Any, sizes: Any) -> None:
    def note(output: Any) -> Decision:
        numpy_graphs.calls.append("decide")
        return Decision(np.array(SOURCES["both"]))

    frame_step(numpy_graphs, images(sizes), random_state(sizes), note)
    assert numpy_graphs.calls == ["base", "decide", "qim"]


def test_batch_of_two_equals_two_singles(numpy_graphs: Any, sizes: Any) -> None:
    frame, state, source = images(sizes), random_state(sizes), SOURCES["both"]
    _, together = outcome(frame_step(numpy_graphs, frame, state, decide(source)))
    for stream in range(2):
        one = slice(stream, stream + 1)
        single = TrackState(state.query[one], state.mask[one], state.reference[one])
        _, alone = outcome(frame_step(numpy_graphs, frame[one], single, decide(source[one])))
        for part in ("query", "mask", "reference"):
            np.testing.assert_allclose(getattr(alone, part), getattr(together, part)[one], atol=1e-6)


def test_gradients_reach_the_frame_before(torch_graphs: Any, sizes: Any) -> None:
    """QAT and training back-propagate through the closed loop."""
    first = torch.from_numpy(images(sizes)).requires_grad_()
    second = torch.from_numpy(images(sizes) * 2)
    state = state_like(random_state(sizes), first)
    _, state = outcome(frame_step(torch_graphs, first, state, decide(SOURCES["births"])))
    output, _ = outcome(frame_step(torch_graphs, second, state, decide(SOURCES["carried on"])))
    output.logits[-1].sum().backward()
    assert first.grad is not None
    assert (first.grad != 0).any()


def test_gradients_reach_learned_and_held_queries(torch_graphs: Any, sizes: Any) -> None:
    frame, hold = torch.from_numpy(images(sizes)), np.array([[False] * 4, [False, True, False, False]])
    state = state_like(random_state(sizes), frame)
    state.query.requires_grad_()
    torch_graphs.detect_query.requires_grad_()
    decision = Decision(np.array(SOURCES["moved to other slots"]), hold=hold)
    _, following = outcome(frame_step(torch_graphs, frame, state, lambda output: decision))
    following.query.flatten(2)[1, :, 1:3].sum().backward()  # a held track, and a newborn from detect slot 3
    assert state.query.grad is not None
    assert (state.query.grad.flatten(2)[1, :, 1] >= 1).all()
    assert (torch_graphs.detect_query.grad.flatten(2)[0, :, 3] != 0).any()


def test_scores_of_extreme_logits() -> None:
    logits = np.array([-1e4, -50, 0, 50, 1e4], np.float32).reshape(1, 1, 1, 5)
    scores, _ = FrameOutput((logits,), (np.zeros((1, 4, 1, 5), np.float32),), logits).scores_and_boxes()
    np.testing.assert_allclose(scores[0], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_scores_and_boxes_are_of_the_last_layer(numpy_graphs: Any, sizes: Any) -> None:
    output, _ = outcome(frame_step(numpy_graphs, images(sizes), random_state(sizes), decide(SOURCES["nobody"])))
    scores, boxes = output.scores_and_boxes()
    assert scores.shape == (2, 12)
    assert boxes.shape == (2, 12, 4)
    expected = torch.from_numpy(output.logits[1].reshape(2, -1)).sigmoid()
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(boxes[1, 5], output.boxes[1].reshape(2, 4, -1)[1, :, 5])


def test_empty_state(sizes: Any) -> None:
    state = empty_state(2, sizes.d_model, sizes.num_track, sizes.slot_columns)
    assert (state.query.shape, state.mask.shape) == ((2, 3, 2, 2), (2, 1, 1, 4))
    assert not state.query.any()
    assert not state.mask.any()
    assert (state.reference == 0.5).all()
    assert state_like(state, np.zeros(1)) == state


def test_a_slot_of_several_classes_has_the_score_of_its_best() -> None:
    logits = np.array([[0, 3, -1, 2], [1, 3, -2, 4], [-5, 0, -1, 5]], np.float32).reshape(1, 3, 2, 2)
    boxes = np.random.default_rng(0).random((1, 4, 2, 2)).astype(np.float32)
    output = FrameOutput((logits - 1, logits), (boxes + 1, boxes), logits)
    scores, found = output.scores_and_boxes()
    assert output.kinds().tolist() == [[1, 0, 0, 2]]  # of equal ones the first
    np.testing.assert_allclose(scores[0], torch.tensor([1.0, 3, -1, 5]).sigmoid(), atol=1e-6)
    every, places = output.layers()
    assert [x.shape for x in (*every, *places)] == [(1, 4, 3)] * 2 + [(1, 4, 4)] * 2
    np.testing.assert_array_equal(every[1].max(-1), scores)
    np.testing.assert_array_equal(places[1], found)
