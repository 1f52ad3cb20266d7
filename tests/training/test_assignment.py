"""The story of a clip, frame by frame. Slots 0..3 detect, 4..7 track; objects are 10, 20, ... at fixed places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.config import PRESETS, ModelConfig, TrainConfig
from motrlab.data.transforms import FrameObjects
from motrlab.tracking.step import FrameOutput
from motrlab.tracking.tracker import EMPTY, Decision
from motrlab.training.assignment import NO_OBJECT, ClipAssignment, FrameMatch

MakeOutput = Callable[..., FrameOutput]
PLACE = {10: (0.2, 0.3, 0.1, 0.2), 20: (0.5, 0.3, 0.1, 0.2), 30: (0.8, 0.3, 0.1, 0.2), 40: (0.2, 0.7, 0.1, 0.2)}
NOWHERE = (0.05, 0.95, 0.02, 0.02)
D = 4


def objects(*ids: int, hidden: tuple[int, ...] = ()) -> FrameObjects:
    boxes = np.array([PLACE[i] for i in ids], np.float32).reshape(-1, 4)
    return FrameObjects(boxes, np.array(ids, np.int64), np.array([0.1 if i in hidden else 1.0 for i in ids]))


class Story:
    """An assignment fed with outputs that put named slots on named objects, the rest nowhere."""

    def __init__(
        self, frames: list[list[FrameObjects]], model: ModelConfig, config: TrainConfig, make_output: MakeOutput
    ) -> None:
        self.model, self.make_output, self.batch = model, make_output, len(frames[0])
        self.assignment = ClipAssignment(frames, model, config, [np.random.default_rng(0) for _ in range(self.batch)])

    def frame(self, *on: dict[int, int | tuple[float, ...]]) -> Decision:
        """`on`: per clip, slot → object it sits on (or a box)."""
        num_slots = self.model.num_slots
        scores = np.full((2, self.batch, num_slots), 0.1)
        boxes = np.tile(np.array(NOWHERE), (2, self.batch, num_slots, 1))
        for clip, places in enumerate(on):
            for slot, where in places.items():
                boxes[:, clip, slot] = PLACE[where] if isinstance(where, int) else where
                scores[:, clip, slot] = 0.8
        return self.assignment.decide(self.make_output(scores, boxes))

    @property
    def match(self) -> FrameMatch:
        return self.assignment.matches[-1]

    def valid(self, clip: int = 0) -> list[bool]:
        """Slots that carry a class loss, the same in both layers."""
        first, second = np.broadcast_to(self.match.valid, (2, self.batch, self.model.num_slots))[:, clip].tolist()
        assert first == second
        return first

    def positives(self, clip: int = 0) -> dict[int, int]:
        """Slot → object, the same in both layers."""
        found = []
        layers, clips, slots = self.match.index
        for layer in range(2):
            here = (layers == layer) & (clips == clip)
            places = self.match.box[here]
            names = [min(PLACE, key=lambda i: float(np.abs(np.array(PLACE[i]) - box).sum())) for box in places]
            found.append(dict(zip(slots[here].tolist(), names, strict=True)))
        assert found[0] == found[1]
        return found[0]

    def followed(self, clip: int = 0) -> dict[int, int]:
        """Live track slot (its number among all slots) → object."""
        live = np.nonzero(self.assignment.live[clip])[0]
        return {D + int(slot): int(self.assignment.object_id[clip, slot]) for slot in live}


Tell = Callable[..., Story]


@pytest.fixture
def tell(slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput) -> Tell:
    """`tell([objects(...), ...], drop_probability=1)` → a story of one clip."""

    def make(frames: list[FrameObjects], **changes: float) -> Story:
        return Story([[f] for f in frames], slots, replace(quiet, **changes), make_output)  # type: ignore[arg-type]

    return make


def sources(decision: Decision, clip: int = 0) -> list[int]:
    found = decision.source[clip]
    return found[found != EMPTY].tolist()


def test_newborns_go_to_detect_slots_and_become_tracks(tell: Tell) -> None:
    story = tell([objects(10, 20)])
    decision = story.frame({1: 10, 3: 20})
    assert story.positives() == {1: 10, 3: 20}
    assert story.valid() == [True] * 4 + [False] * 4
    assert sorted(sources(decision)) == [1, 3]
    assert sorted(story.followed().values()) == [10, 20]


def test_a_track_keeps_its_object_while_it_is_visible(tell: Tell) -> None:
    story = tell([objects(10, 20)] * 3)
    story.frame({1: 10, 3: 20})
    track = {who: slot for slot, who in story.followed().items()}
    # The tracks have swapped places, and detect slots sit on both people: whose track it is does not change.
    decision = story.frame({track[10]: 20, track[20]: 10, 0: 10, 2: 20})
    assert story.positives() == {track[10]: 10, track[20]: 20}
    assert sum(story.valid()[D:]) == 2
    assert sources(decision) == []  # but no overlap with their own people: not carried on
    story.frame({0: 10, 2: 20})
    assert story.positives() == {0: 10, 2: 20}  # newborn again


def test_objects_with_a_track_are_no_target_of_detect_slots(tell: Tell) -> None:
    story = tell([objects(10), objects(10, 20)])
    story.frame({0: 10})
    (track,) = story.followed()
    decision = story.frame({track: 10, 0: 10, 1: 20})
    assert story.positives() == {track: 10, 1: 20}
    assert sorted(sources(decision)) == [1, track]


def test_newborns_never_take_track_slots(tell: Tell) -> None:
    story = tell([objects(10), objects(10, 20, 30)])
    story.frame({0: 10})
    (track,) = story.followed()
    # Empty and live track slots sit on the newborns, every detect slot is elsewhere.
    story.frame({track: 20, 5: 20, 6: 30, 7: 30})
    newborn = {slot: who for slot, who in story.positives().items() if who != 10}
    assert set(newborn.values()) == {20, 30}
    assert all(slot < D for slot in newborn)


def test_a_hidden_object_leaves_its_track_a_negative_that_lives_on(tell: Tell) -> None:
    story = tell([objects(10, 20), objects(10, 20, hidden=(10,)), objects(20), objects(10, 20)])
    story.frame({0: 10, 1: 20})
    track = {who: slot for slot, who in story.followed().items()}
    for _ in range(2):  # hidden, then not even annotated
        decision = story.frame({track[10]: 10, track[20]: 20, 2: 10})
        assert story.positives() == {track[20]: 20}
        assert story.valid()[track[10]]
        assert story.match.num_objects == 2  # one visible, one disappeared
        assert set(sources(decision)) == set(track.values())
        track = {who: slot for slot, who in story.followed().items()}
        assert set(track) == {10, 20}
    story.frame({track[10]: 10, track[20]: 20, 2: 10})
    assert story.positives() == {track[10]: 10, track[20]: 20}
    assert story.match.num_objects == 2


def test_hidden_objects_are_no_detection_target(tell: Tell) -> None:
    story = tell([objects(10, 20, hidden=(10,))])
    decision = story.frame({0: 10, 1: 20})
    assert story.positives() == {1: 20}
    assert story.match.num_objects == 1
    assert sources(decision) == [1]


@pytest.mark.parametrize("preset", PRESETS)
def test_nobody_fully_hidden_is_a_detection_target(
    preset: str, slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput
) -> None:
    own = PRESETS[preset]().train
    config = replace(quiet, min_visibility=own.min_visibility, track_min_visibility=own.track_min_visibility)
    frame = replace(objects(10, 20), visibility=np.array([0.0, 1.0]))
    story = Story([[frame]], slots, config, make_output)
    decision = story.frame({0: 10, 1: 20})
    assert story.positives() == {1: 20}
    assert sources(decision) == [1]


def test_tracks_may_be_supervised_on_people_whom_detect_slots_are_not(tell: Tell) -> None:
    story = tell([objects(10), objects(10, 20, hidden=(10, 20))], track_min_visibility=0.0)
    story.frame({0: 10})
    (track,) = story.followed()
    decision = story.frame({track: 10, 1: 20})
    assert story.positives() == {track: 10}
    assert story.match.num_objects == 1
    assert sources(decision) == [track]


@pytest.mark.parametrize(("below", "judged"), [("leave_out", True), ("ignore", False)])
def test_detect_slots_on_hidden_people(
    below: str, judged: bool, slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput
) -> None:
    """Background, or not judged at all; a slot that is matched with somebody visible always is."""
    beside = objects(10, 20, 30, hidden=(10, 30))
    beside.boxes[2] = beside.boxes[1] + np.array([0.01, 0, 0, 0], np.float32)  # hidden behind person 20
    story = Story([[beside]], slots, replace(quiet, below_visibility=below), make_output)
    story.frame({0: 10, 1: 20})
    assert story.positives() == {1: 20}
    assert story.valid()[:D] == [judged, True, True, True]


def test_detect_slots_in_a_region_to_be_ignored(tell: Tell) -> None:
    """Neither somebody nor background, however much larger the region is than the slot's box."""
    frame = objects(10, 20)
    frame.visibility[0], frame.boxes[0, 2:] = -1, 4 * frame.boxes[0, 2:]
    story = tell([frame])
    story.frame({0: 10, 1: 20})
    assert story.positives() == {1: 20}
    assert story.valid()[:D] == [False, True, True, True]


def test_tracked_people_are_shared_with_detect_slots_before_the_last_layer(
    slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput
) -> None:
    """Coopetition, CO-MOT (arXiv 2305.12724); what goes on to the next frame is the last layer's."""
    config = replace(quiet, coopetition=True)
    story = Story([[objects(10)], [objects(10, 20)]], slots, config, make_output)
    story.frame({0: 10})
    (track,) = story.followed()
    decision = story.frame({track: 10, 0: 10, 1: 20})
    layers, _, slot = story.match.index
    first, last = (
        {int(s): tuple(b) for s, b in zip(slot[layers == i], story.match.box[layers == i], strict=True)} for i in (0, 1)
    )
    assert first.keys() == {track, 0, 1}
    assert first[track] == first[0] == last[track]
    assert last.keys() == {track, 1}
    assert story.match.num_objects == 2
    assert sorted(sources(decision)) == [1, track]


def test_dropped_tracks_leave_newborns(tell: Tell) -> None:
    story = tell([objects(10, 20)] * 2, drop_probability=1.0)
    assert sources(story.frame({0: 10, 1: 20})) == []
    story.frame({2: 10, 3: 20})
    assert story.positives() == {2: 10, 3: 20}


def test_share_of_drops(tell: Tell) -> None:
    story = tell([objects(10, 20, 30, 40)] * 300, drop_probability=0.25)
    kept = 0
    for _ in range(300):
        follow: dict[int, int | tuple[float, ...]] = {**story.followed()}
        missing = [who for who in PLACE if who not in follow.values()]
        kept += len(sources(story.frame({**follow, **dict(enumerate(missing))})))
    assert kept / 1200 == pytest.approx(0.75, abs=0.05)  # four standard deviations


def test_heavy_drops_are_drawn_for_a_share_of_the_clips(
    slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput
) -> None:
    config = replace(quiet, drop_probability=0.1, heavy_drop_fraction=0.25)
    rng = np.random.default_rng(1)
    drawn = np.array([ClipAssignment([[objects()]], slots, config, [rng]).drop_probability[0] for _ in range(800)])
    heavy = drawn != 0.1
    assert heavy.mean() == pytest.approx(0.25, abs=0.06)
    assert 0.8 < drawn[heavy].max() <= 0.9
    assert drawn[heavy].min() < 0.05


def test_keep_iou(tell: Tell) -> None:
    aside = (0.2 + 0.05, 0.3, 0.1, 0.2)  # a third of the union in common
    for threshold, kept in ((0.3, [0]), (0.4, [])):
        story = tell([objects(10)], keep_iou=threshold)
        assert sources(story.frame({0: aside})) == kept
        assert story.positives() == {0: 10}  # supervised either way


def test_false_positives_follow_nobody(tell: Tell) -> None:
    beside = (0.22, 0.3, 0.1, 0.2)
    story = tell([objects(10, 20)] * 2, false_positive_ratio=1.0)
    decision = story.frame({0: 10, 1: 20, 2: beside})
    assert sorted(sources(decision)) == [0, 1, 2]  # slot 3 overlaps nobody
    (duplicate,) = [slot for slot, who in story.followed().items() if who == NO_OBJECT]
    assert decision.source[0, duplicate - D] == 2
    follow = {slot: (who if who in PLACE else 10) for slot, who in story.followed().items()}
    decision = story.frame(follow)
    assert duplicate not in story.positives()
    assert sorted(story.positives().values()) == [10, 20]
    assert story.valid()[duplicate]  # a negative
    assert story.match.num_objects == 2
    assert duplicate not in sources(decision)  # for one frame only


def test_clones_are_shifted_and_follow_nobody(tell: Tell) -> None:
    story = tell([objects(10)] * 2, clone_probability=1.0)
    decision = story.frame({0: 10})
    assert sources(decision) == [0, 0]
    follow = story.followed()
    assert sorted(follow.values()) == [NO_OBJECT, 10]
    assert decision.shift is not None
    original, clone = (next(s for s, who in follow.items() if who == w) - D for w in (10, NO_OBJECT))
    assert not decision.shift[0, :, original].any()
    moved = np.abs(decision.shift[0, :2, clone]) / PLACE[10][2:]  # in units of the box
    assert ((moved >= 0.3) & (moved <= 1.0)).all()
    assert not decision.shift[0, 2:, clone].any()
    story.frame({original + D: 10, clone + D: 10})
    assert story.positives() == {original + D: 10}


def test_reference_jitter_scales_with_the_box(tell: Tell) -> None:
    shifts = []
    for _ in range(60):
        story = tell([objects(10, 20, 30, 40)], reference_jitter=0.05)
        story.assignment.rngs = [np.random.default_rng(len(shifts))]
        decision = story.frame({0: 10, 1: 20, 2: 30, 3: 40})
        assert decision.shift is not None
        shifts.append(decision.shift[0])
    spread = np.std(shifts, axis=(0, 2))
    np.testing.assert_allclose(spread, 0.05 * np.array([0.1, 0.2, 0.1, 0.2]), rtol=0.25)


def test_capacity_is_never_exceeded(slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput) -> None:
    model = replace(slots, num_detect=8)
    config = replace(quiet, false_positive_ratio=1.0, clone_probability=1.0)
    people = objects(10, 20, 30, 40)
    extra = FrameObjects(np.array([(0.5, 0.7, 0.1, 0.2)], np.float32), np.array([50]), np.ones(1))
    crowd = FrameObjects(
        np.concatenate((people.boxes, extra.boxes)), np.append(people.ids, 50), np.append(people.visibility, 1.0)
    )
    story = Story([[crowd]] * 2, model, config, make_output)
    on: dict[int, int | tuple[float, ...]] = {0: 10, 1: 20, 2: 30, 3: 40, 4: (0.5, 0.7, 0.1, 0.2), 5: 10, 6: 20}
    decision = story.frame(on)
    assert decision.source.shape == (1, 4)
    assert len(sources(decision)) == 4
    ids = story.assignment.object_id[0][story.assignment.live[0]]
    assert set(ids.tolist()) <= {10, 20, 30, 40, 50}  # people come before false positives
    assert decision.shift is not None
    assert decision.shift.shape == (1, 4, 4)


def test_clips_of_a_batch_are_independent(slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput) -> None:
    first = [objects(10, 20), objects(10, 20, hidden=(20,)), objects(10)]
    second = [objects(30), objects(), objects(30, 40)]
    places: list[tuple[dict, dict]] = [({0: 10, 2: 20}, {1: 30}), ({4: 10, 5: 20}, {4: 30}), ({4: 10}, {4: 30, 0: 40})]
    both = Story([list(pair) for pair in zip(first, second, strict=True)], slots, quiet, make_output)
    alone = [Story([[f] for f in frames], slots, quiet, make_output) for frames in (first, second)]
    for on in places:
        together = both.frame(*on)
        single = [story.frame(o) for story, o in zip(alone, on, strict=True)]
        for clip, story in enumerate(alone):
            assert both.positives(clip) == story.positives()
            assert both.followed(clip) == story.followed()
            assert together.source[clip].tolist() == single[clip].source[0].tolist()
        assert both.match.num_objects == sum(story.match.num_objects for story in alone)
        assert [both.valid(clip) for clip in range(2)] == [story.valid() for story in alone]


def test_what_happens_to_a_clip_does_not_depend_on_its_neighbours(
    slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput
) -> None:
    """With every chance there is, from the clip's own generator."""
    config = replace(
        quiet,
        drop_probability=0.3,
        heavy_drop_fraction=0.5,
        false_positive_ratio=0.5,
        clone_probability=0.5,
        reference_jitter=0.1,
    )

    def run(clips: list[int]) -> list[Decision]:
        frames = [[objects(10, 20, 30, 40)] * len(clips)] * 4
        assignment = ClipAssignment(frames, slots, config, [np.random.default_rng(c) for c in clips])
        decisions = []
        for t in range(4):
            drawn = [np.random.default_rng((c, t)) for c in clips]
            scores = np.stack([rng.uniform(0.1, 0.9, (2, 8)) for rng in drawn], 1)
            boxes = np.stack([np.array(list(PLACE.values()))[rng.integers(0, 4, (2, 8))] for rng in drawn], 1)
            decisions.append(assignment.decide(make_output(scores, boxes)))
        return decisions

    together = run([1, 2, 3])
    assert any((d.source != EMPTY).any() for d in together)
    for index, clip in enumerate((1, 2, 3)):
        for both, alone in zip(together, run([clip]), strict=True):
            assert both.source[index].tolist() == alone.source[0].tolist()
            assert both.shift is not None
            assert alone.shift is not None
            np.testing.assert_array_equal(both.shift[index], alone.shift[0])


def test_layers_match_newborns_on_their_own(slots: ModelConfig, quiet: TrainConfig, make_output: MakeOutput) -> None:
    story = Story([[objects(10)]], slots, quiet, make_output)
    boxes = np.tile(np.array(NOWHERE), (2, 1, 8, 1))
    boxes[0, 0, 1], boxes[1, 0, 2] = PLACE[10], PLACE[10]
    decision = story.assignment.decide(make_output(np.full((2, 1, 8), 0.3), boxes))
    assert story.match.index.tolist() == [[0, 1], [0, 0], [1, 2]]
    assert sources(decision) == [2]  # the last layer's match goes on


def test_nobody_at_all(tell: Tell) -> None:
    story = tell([objects()] * 2)
    for _ in range(2):
        assert sources(story.frame({0: 10})) == []
        assert story.positives() == {}
        assert story.match.num_objects == 0


def test_tracks_and_newborns_are_supervised_with_the_class_of_their_object(tell: Tell) -> None:
    frame = replace(objects(10, 20), kinds=np.array([1, 0]))
    story = tell([frame, frame])
    plain = story.make_output

    def of_two_classes(scores: np.ndarray, boxes: np.ndarray) -> FrameOutput:
        output = plain(scores, boxes)
        return replace(output, logits=tuple(torch.cat((x, x), 1) for x in output.logits))

    story.make_output = of_two_classes
    for where in ({0: 10, 1: 20}, None):
        track = {who: slot for slot, who in story.followed().items()}
        story.frame(where or {track[10]: 10, track[20]: 20})
        assert story.positives() == (where or {track[10]: 10, track[20]: 20})
        names = [story.positives()[slot] for slot in story.match.index[2].tolist()]
        assert story.match.kind.tolist() == [{10: 1, 20: 0}[name] for name in names]
