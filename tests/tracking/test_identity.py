"""Ids corrected by colours: who returns, whose track was taken, and who changed tracks at a crossing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from motrlab.config import TrackerConfig, mot17_small, street
from motrlab.data.preprocess import input_bytes, yuv_normalise
from motrlab.tracking.identity import REMEMBERED, Identities, signatures
from motrlab.tracking.rules import Rules
from motrlab.tracking.step import FrameOutput, Shapes
from motrlab.tracking.tracker import LiveTracks

NUM_SLOTS = 6
RED, GREEN, BLUE, GREY = np.eye(256, dtype=np.float32)[:4]  # colours that have nothing in common
HERE, NEAR, FAR = (0.3, 0.5, 0.1, 0.4), (0.42, 0.52, 0.1, 0.4), (0.8, 0.5, 0.1, 0.4)


def live(
    *tracks: tuple[int, int, tuple[float, ...]], unseen: tuple[int, ...] = (), kinds: tuple[int, ...] = ()
) -> LiveTracks:
    """Tracks as slot, life and box; `unseen`: the slots of those that coast."""
    slot, life, box = (np.array(column) for column in zip(*tracks, strict=True))
    boxes, away = box.astype(np.float32).reshape(-1, 4), np.isin(slot, unseen)
    kind = np.array(kinds or (0,) * len(slot))
    return LiveTracks(life, life, slot, np.ones(len(slot), np.float32), boxes, boxes, away, away.astype(np.int64), kind)


SOMEBODY = live((0, 1, HERE))
NOBODY = LiveTracks(*(getattr(SOMEBODY, field.name)[:0] for field in fields(LiveTracks)))


def show(identities: Identities, times: int, colours: list[np.ndarray], tracks: LiveTracks) -> list[int]:
    """The same for some frames; the ids in the last one."""
    for _ in range(times):
        found = identities.update(np.array(colours), tracks)
    return found.tolist()  # type: ignore[no-any-return]


def go(identities: Identities, frames: int) -> None:
    for _ in range(frames):
        identities.update(np.zeros((0, 256), np.float32), NOBODY)


def test_who_returns_gets_the_old_id() -> None:
    identities = Identities(NUM_SLOTS)
    assert show(identities, 10, [RED], live((0, 1, HERE))) == [1]
    go(identities, 50)
    assert show(identities, 10, [RED], live((3, 2, NEAR))) == [1]


@pytest.mark.parametrize(
    ("colours", "box", "kind", "away"),
    [
        (GREEN, NEAR, 0, 50),
        (RED, FAR, 0, 50),
        (RED, (0.3, 0.5, 0.04, 0.15), 0, 50),
        (RED, NEAR, 1, 50),
        (RED, NEAR, 0, REMEMBERED + 1),
    ],
    ids=["other colours", "far away", "another size", "another class", "long ago"],
)
def test_a_stranger_gets_a_new_id(colours: np.ndarray, box: tuple[float, ...], kind: int, away: int) -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED], live((0, 1, HERE)))
    go(identities, away)
    assert show(identities, 10, [colours], live((3, 2, box), kinds=(kind,))) == [2]


def test_the_most_similar_newborn_is_the_one_who_returns() -> None:
    identities, alike = Identities(NUM_SLOTS), 0.8 * RED + 0.6 * GREEN
    show(identities, 10, [RED], live((0, 1, HERE)))
    go(identities, 20)
    assert show(identities, 5, [alike, RED], live((0, 2, HERE), (1, 3, NEAR))) == [2, 1]


def test_a_newborn_beside_a_coasting_track_of_its_colours_is_that_one() -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED], live((0, 1, HERE)))
    show(identities, 2, [GREY], live((0, 1, HERE), unseen=(0,)))
    assert show(identities, 5, [GREY, RED], live((0, 1, HERE), (1, 2, NEAR), unseen=(0,))) == [2, 1]


def test_a_newborn_whose_track_was_drawn_to_somebody_else_is_that_one() -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED], live((0, 1, HERE)))
    # The track is on somebody green now, and the person in red is born anew behind.
    assert show(identities, 5, [GREEN, RED], live((0, 1, NEAR), (1, 2, HERE))) == [2, 1]


def test_a_newborn_that_looks_like_a_neighbour_is_nobody_else() -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED], live((0, 1, HERE)))
    assert show(identities, 5, [RED, RED], live((0, 1, HERE), (1, 2, NEAR))) == [1, 2]


@pytest.mark.parametrize("exchanged", [True, False])
def test_two_who_cross_keep_their_ids_with_their_colours(exchanged: bool) -> None:
    identities = Identities(NUM_SLOTS)
    apart, together = live((0, 1, HERE), (1, 2, NEAR)), live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4)))
    show(identities, 10, [RED, GREEN], apart)
    show(identities, 3, [BLUE, BLUE], together)  # whatever they look like there
    assert show(identities, 10, [GREEN, RED] if exchanged else [RED, GREEN], apart) == ([2, 1] if exchanged else [1, 2])


def test_ids_are_not_exchanged_long_after_a_crossing() -> None:
    identities = Identities(NUM_SLOTS)
    apart, together = live((0, 1, HERE), (1, 2, FAR)), live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4)))
    show(identities, 10, [RED, GREEN], apart)
    show(identities, 3, [BLUE, BLUE], together)
    show(identities, 40, [RED, GREEN], apart)
    assert show(identities, 4, [GREEN, RED], apart) == [1, 2]


def test_ids_stay_within_their_class() -> None:
    identities = Identities(NUM_SLOTS)
    apart, together = live((0, 1, HERE), (1, 2, NEAR)), live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4)))
    apart, together = (replace(tracks, kind=np.array([0, 1])) for tracks in (apart, together))
    show(identities, 10, [RED, GREEN], apart)
    show(identities, 3, [BLUE, BLUE], together)
    assert show(identities, 10, [GREEN, RED], apart) == [1, 2]
    show(identities, 3, [BLUE, BLUE], together)
    assert show(identities, 10, [RED], live((1, 2, HERE), kinds=(1,))) == [2]


def test_what_stands_in_front_is_not_taken_for_the_hidden_ones_colours() -> None:
    """Hidden for long, and born hidden: what is seen there is somebody else."""
    identities = Identities(NUM_SLOTS)
    together = live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4)))
    show(identities, 10, [RED], live((0, 1, HERE)))
    show(identities, 60, [BLUE, BLUE], together)
    show(identities, 10, [RED, GREEN], live((0, 1, HERE), (1, 2, FAR)))
    go(identities, 5)
    found = show(identities, 1, [RED, GREEN, BLUE], live((2, 3, HERE), (3, 4, FAR), (4, 5, (0.5, 0.5, 0.1, 0.4))))
    assert found == [1, 2, 5]


def test_a_new_track_in_a_slot_is_not_its_former_one() -> None:
    """Slot 1's first track was on slot 0's; the second one never was."""
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED, GREEN], live((0, 1, HERE), (1, 2, NEAR)))
    show(identities, 2, [RED, RED], live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4))))
    far = live((1, 3, (0.9, 0.5, 0.1, 0.4)))
    assert show(identities, 10, [0.8 * RED + 0.6 * GREY], far) == [3]
    assert show(identities, 10, [RED], far) == [3]


def test_a_coasting_track_somebody_walks_over_starts_anew_afterwards() -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED, GREEN], live((0, 1, HERE), (1, 2, NEAR)))
    show(identities, 5, [GREEN, GREEN], live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4)), unseen=(0,)))
    # Back in view, but the colours are hidden for two frames; then the person in red is lost and returns.
    show(identities, 2, [BLUE, GREEN], live((0, 1, HERE), (1, 2, NEAR)))
    show(identities, 2, [RED, GREEN], live((0, 1, HERE), (1, 2, NEAR)))
    go(identities, 5)
    assert show(identities, 3, [RED], live((3, 3, HERE))) == [1]


def test_a_track_that_took_an_ended_ones_person_is_that_one() -> None:
    identities = Identities(NUM_SLOTS)
    show(identities, 10, [RED, GREEN], live((0, 1, HERE), (1, 2, NEAR)))
    show(identities, 2, [RED, RED], live((0, 1, HERE), (1, 2, (0.31, 0.5, 0.1, 0.4))))
    # Track 1 ends; the other one has the person in red.
    assert show(identities, 10, [RED], live((1, 2, HERE))) == [1]
    # Who left it is remembered as well.
    assert show(identities, 5, [RED, GREEN], live((1, 1, HERE), (2, 3, NEAR))) == [1, 2]


def test_an_id_stands_once_in_a_frame_and_was_given_by_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random lives, crossings and classes; all three ways to change an id are taken."""
    taken = dict.fromkeys(("_become", "_exchange", "_reclaim"), 0)
    for name in taken:
        monkeypatch.setattr(Identities, name, counted(name, taken))
    for seed in range(10):
        random = np.random.default_rng(seed)
        identities, last = Identities(NUM_SLOTS), 0
        palette = np.abs(random.normal(size=(3, 256))).astype(np.float32) ** 4
        palette /= np.linalg.norm(palette, axis=1, keepdims=True)
        lives: dict[int, int] = {}
        place = random.uniform(0.2, 0.8, (NUM_SLOTS, 2))
        looks = random.integers(0, 3, NUM_SLOTS)
        for _ in range(200):
            for slot in range(NUM_SLOTS):
                if random.random() < 0.015:
                    lives.pop(slot, None)
                if slot not in lives and random.random() < 0.2:
                    lives[slot] = last = last + 1
            place = np.clip(place + random.normal(0, 0.02, place.shape), 0.3, 0.7)
            if random.random() < 0.1:
                random.shuffle(looks)
            if not lives:
                go(identities, 1)
                continue
            slots = sorted(lives)
            boxes = [(*place[slot], 0.1, 0.4) for slot in slots]
            unseen = tuple(slot for slot in slots if random.random() < 0.05)
            kinds = tuple(slot % 2 for slot in slots)
            tracks = live(*zip(slots, map(lives.get, slots), boxes, strict=True), unseen=unseen, kinds=kinds)  # type: ignore[arg-type]
            found = identities.update(palette[looks[slots]], tracks)
            assert len(set(found.tolist())) == len(found)
            assert found.min() >= 1
            assert found.max() <= last
    assert min(taken.values()) > 2, taken


def counted(name: str, taken: dict[str, int]) -> Callable[..., None]:
    """A method of `Identities` that counts how often it changed an id."""
    method = getattr(Identities, name)

    def work(self: Identities, *arguments: Any) -> None:
        before = self._id.copy()
        method(self, *arguments)
        taken[name] += not np.array_equal(before, self._id)

    return work


def test_colours_upside_down_are_other_colours() -> None:
    picture = np.full((1, 100, 100, 3), 110, np.uint8)
    picture[0, 20:50, 10:30], picture[0, 50:80, 10:30] = (80, 98, 200), (48, 122, 134)
    picture[0, 20:50, 70:90], picture[0, 50:80, 70:90] = (48, 122, 134), (80, 98, 200)
    one, other = signatures(picture, 0, np.array([[0.2, 0.5, 0.2, 0.6], [0.8, 0.5, 0.2, 0.6]], np.float32))
    assert one @ other < 0.2


def test_a_box_that_is_no_number_has_some_colours() -> None:
    picture = np.zeros((1, 20, 20, 3), np.uint8)
    assert signatures(picture, 0, np.full((1, 4), np.nan, np.float32)).shape == (1, 256)


def test_colours_are_the_same_in_bytes_and_in_every_stage_s_input() -> None:
    random = np.random.default_rng(1)
    inputs = yuv_normalise(random.integers(0, 256, (2, 60, 90, 3), np.uint8))
    boxes = random.uniform(-0.1, 1.1, (5, 4)).astype(np.float32)  # also beyond the picture
    expected = signatures(input_bytes(inputs), 1, boxes)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)
    for frame in (inputs, torch.from_numpy(inputs)):
        np.testing.assert_array_equal(signatures(frame, 1, boxes), expected)


def test_colours_tell_people_apart() -> None:
    picture = np.full((100, 100, 3), 128, np.uint8)
    picture[20:60, 10:30], picture[60:80, 10:30] = (80, 98, 200), (48, 122, 134)  # red above black
    picture[20:60, 70:90], picture[60:80, 70:90] = (208, 122, 134), (80, 180, 98)  # white above blue
    noise = np.random.default_rng(2).integers(-8, 9, picture.shape)
    frame = np.stack([picture, np.clip(picture + noise, 0, 255).astype(np.uint8)])
    boxes = np.array([[0.2, 0.5, 0.2, 0.6], [0.8, 0.5, 0.2, 0.6]], np.float32)
    likeness = signatures(frame, 0, boxes) @ signatures(frame, 1, boxes).T
    assert likeness.diagonal().min() > 0.8
    assert likeness[0, 1] < 0.2
    assert likeness[1, 0] < 0.2


SHAPES = Shapes(height=60, width=90, d_model=2, num_detect=2, num_track=2, slot_columns=2)
RULES = TrackerConfig(
    birth_score=0.5, miss_score=0.5, reset_score=0.5, max_misses=2, output_score=0.4, coast=True, min_area_px=0
)


def frames_of(rules: TrackerConfig) -> tuple[list[list[int]], list[np.ndarray]]:
    """Somebody in a red coat is seen for ten frames, then not for five, then again: ids and decisions by frame."""
    decided, ids, sources = Rules(rules, SHAPES), [], []
    picture = np.full((1, 60, 90, 3), 128, np.uint8)
    picture[:, 10:50, 30:60] = (90, 100, 200)
    held = False
    for frame in range(25):
        there = not 10 <= frame < 15
        logits = np.full((1, 1, 2, 2), -9.0, np.float32)
        logits[0, 0, 1 if held else 0, 0] = 9.0 if there else -9.0
        boxes = np.broadcast_to(np.array([0.5, 0.5, 0.25, 0.6], np.float32)[None, :, None, None], (1, 4, 2, 2))
        output = FrameOutput((logits,), (boxes,), np.zeros((1, 2, 2, 2)), picture)
        decision, (tracks,) = decided.decide(output)
        held = bool((decision.source[0, 0] >= 0).any())
        ids.append(tracks.written(rules, 5400).track_id.tolist())
        sources.append(decision.source.copy())
    return ids, sources


def test_the_rules_change_ids_and_nothing_that_the_networks_see() -> None:
    without, with_colours = frames_of(RULES), frames_of(replace(RULES, appearance=True))
    for one, other in zip(without[1], with_colours[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [ids for ids in without[0] if ids] == [[1]] * 10 + [[2]] * 10
    assert [ids for ids in with_colours[0] if ids] == [[1]] * 20


def test_it_is_of_coasting_tracks_and_on_in_street_and_for_real_videos() -> None:
    assert street().tracker.appearance
    assert mot17_small().tracker.appearance
    ids, _ = frames_of(replace(RULES, appearance=True, coast=False))
    assert ids[-1] == [2]
