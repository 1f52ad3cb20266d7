"""The camera's motion found in pictures, and what the tracker makes of it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from motrlab.config import TrackerConfig, street
from motrlab.data.preprocess import preprocess, preprocess_bytes
from motrlab.errors import UserError
from motrlab.tracking.camera import STILL, CameraMotion, grey_pictures
from motrlab.tracking.rules import Rules
from motrlab.tracking.sequence import track_frames
from motrlab.tracking.step import FrameOutput, Shapes
from motrlab.tracking.tracker import Tracker

HEIGHT, WIDTH = 192, 320


def scene(scale: float = 1.0, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A window of a large picture of blobs, moved about its middle; grey `[192, 320]`."""
    coarse = np.random.default_rng(3).integers(0, 256, (60, 90), np.uint8)
    large = cv2.resize(coarse, (900, 600), interpolation=cv2.INTER_CUBIC)
    matrix = cv2.getRotationMatrix2D((450, 300), angle, scale)
    matrix[:, 2] += np.array([WIDTH / 2 - 450, HEIGHT / 2 - 300]) + shift
    return np.asarray(cv2.warpAffine(large, matrix, (WIDTH, HEIGHT)), np.uint8)


def at(motion: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """Where a point, in pixels, goes."""
    size = np.array([WIDTH, HEIGHT])
    return np.asarray((motion[:, :2] @ (np.array(point) / size) + motion[:, 2]) * size)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (6.0, 0.0), (-3.5, 2.0), (1.0, -8.0)])
def test_a_pan_is_found(shift: tuple[float, float]) -> None:
    camera = CameraMotion()
    np.testing.assert_array_equal(camera.update(scene()), STILL)
    found = camera.update(scene(shift=shift))
    for point in ((0, 0), (160, 96), (320, 192)):
        np.testing.assert_allclose(at(found, point), np.add(point, shift), atol=0.4)


def test_zoom_and_roll_are_found() -> None:
    camera = CameraMotion()
    camera.update(scene())
    found = camera.update(scene(scale=1.03, angle=1.0))
    turn = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), 1.0, 1.03)
    for point in ((20, 20), (160, 96), (300, 170)):
        np.testing.assert_allclose(at(found, point), turn @ [*point, 1], atol=0.8)


def test_somebody_who_walks_is_no_camera() -> None:
    camera, walker = CameraMotion(), np.random.default_rng(0).integers(0, 256, (110, 50), np.uint8)
    first, second = scene(), scene(shift=(2.0, 0.0))
    first[50:160, 100:150] = walker
    second[50:160, 112:162] = walker
    camera.update(first)
    np.testing.assert_allclose(at(camera.update(second), (160, 96)), (162, 96), atol=0.4)


def test_where_nothing_can_be_followed_nothing_moves() -> None:
    camera = CameraMotion()
    for grey in (np.full((HEIGHT, WIDTH), 90, np.uint8), scene(), np.full((HEIGHT, WIDTH), 90, np.uint8)):
        np.testing.assert_array_equal(camera.update(grey), STILL)
    noise = [np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH), np.uint8) for i in range(2)]
    camera.update(noise[0])
    np.testing.assert_array_equal(camera.update(noise[1]), STILL)  # a cut
    np.testing.assert_array_equal(camera.update(scene()[:90, :150]), STILL)  # another size
    np.testing.assert_array_equal(CameraMotion().update(np.zeros((1, 1), np.uint8)), STILL)


def test_a_large_picture_moves_by_the_same_fractions() -> None:
    found = []
    for factor in (1, 4):
        camera = CameraMotion()
        for shift in ((0.0, 0.0), (5.0, -2.0)):
            picture = cv2.resize(scene(shift=shift), None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            moved = camera.update(np.asarray(picture, np.uint8))
        found.append(moved)
    np.testing.assert_allclose(found[0], found[1], atol=0.003)


def test_all_stages_see_the_same_grey() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    as_bytes, as_input = preprocess_bytes(image, 24, 40)[None], preprocess(image, 24, 40)[None]
    greys = [grey_pictures(x) for x in (as_bytes, as_input, torch.from_numpy(as_input))]
    assert all(len(grey) == 1 and grey[0].shape == (24, 40) and grey[0].dtype == np.uint8 for grey in greys)
    np.testing.assert_array_equal(greys[1], greys[2])
    np.testing.assert_array_equal(greys[0], greys[1])


# The tracker

COAST = TrackerConfig(
    birth_score=0.5, miss_score=0.5, reset_score=0.5, max_misses=9, suppress_iou=0.6, coast=True, coast_written=9
)


def frames(place: list[float | None]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and boxes of one detect and one track slot: born at the first place, then seen at others or not (None)."""
    found = []
    for number, x in enumerate(place):
        scores = np.array([[0.9 * (number == 0), 0.9 * (number > 0 and x is not None)]], np.float32)
        box = [x if x is not None else 0.5, 0.5, 0.1, 0.2]
        found.append((scores, np.array([[box, box]], np.float32)))
    return found


def test_a_coasting_track_moves_with_the_picture() -> None:
    pan = np.array([[[1, 0, -0.05], [0, 1, 0.02]]])
    tracker = Tracker(COAST, 1, 1)
    for number, (scores, boxes) in enumerate(frames([0.8, 0.75, 0.7, None, None])):
        decision = tracker.update(scores, boxes, None if number == 0 else pan)
        if number == 2:  # seen where the picture has taken it: it does not move in the scene
            np.testing.assert_allclose(tracker.velocity[0, 0, 0], 0, atol=1e-6)
    np.testing.assert_allclose(tracker.box[0, 0, 0], 0.6, atol=1e-5)
    assert decision.shift is not None
    np.testing.assert_allclose(boxes[0, 1] + decision.shift[0, :, 0], tracker.box[0, 0], atol=1e-6)
    blind = Tracker(COAST, 1, 1)
    for scores, boxes in frames([0.8, 0.75, 0.7, None, None]):
        blind.update(scores, boxes)
    assert blind.box[0, 0, 0] > 0.65, "the velocity follows late"


def test_a_zoom_makes_it_larger_and_faster() -> None:
    tracker = Tracker(COAST, 1, 1)
    for scores, boxes in frames([0.5, 0.52]):
        tracker.update(scores, boxes)
    speed, size = tracker.velocity[0, 0].copy(), tracker.box[0, 0, 2:].copy()
    (_, (scores, boxes)) = frames([0.5, None])
    tracker.update(scores, boxes, np.array([[[1.1, 0, 0], [0, 1.1, 0]]]))
    np.testing.assert_allclose(tracker.velocity[0, 0], 1.1 * speed, rtol=1e-5)
    np.testing.assert_allclose(tracker.box[0, 0, 2:], 1.1 * size, rtol=1e-5)
    np.testing.assert_allclose(tracker.box[0, 0, 0], 1.1 * (0.52 + speed[0]), rtol=1e-5)


def test_no_motion_is_the_same_to_the_bit() -> None:
    one, two = Tracker(COAST, 1, 1), Tracker(COAST, 1, 1)
    for scores, boxes in frames([0.5, 0.53, None, 0.6, None, None]):
        a, b = one.update(scores, boxes), two.update(scores, boxes, STILL[None])
        np.testing.assert_array_equal(a.source, b.source)
        np.testing.assert_array_equal(np.asarray(a.shift), np.asarray(b.shift))
    np.testing.assert_array_equal(one.box, two.box)


# The frame step

SHAPES = Shapes(height=HEIGHT, width=WIDTH, d_model=4, num_detect=1, num_track=1, slot_columns=1)


class OnePerson:
    """Graphs that see somebody in the first three frames, who stands still in the scene; `shifts` px of the picture."""

    detect_query = np.zeros((1, 4, 1, 1), np.float32)

    def __init__(self, shifts: list[float], batch: int = 1) -> None:
        self.shifts, self.batch, self.frame = shifts, batch, -1

    def base(self, frame: object, query: object, mask: object, reference: object) -> tuple[object, ...]:
        self.frame += 1
        seen = 9.0 if self.frame < 3 else -9.0
        logits = np.array([9.0 if self.frame == 0 else -9.0, seen if self.frame else -9.0], np.float32)
        box = np.array([0.5 + self.shifts[self.frame] / WIDTH, 0.5, 0.1, 0.4], np.float32)
        shape = (self.batch, 1, 2, 1)
        boxes = np.broadcast_to(box[None, :, None, None], (self.batch, 4, 2, 1)).copy()
        return (np.broadcast_to(logits.reshape(1, 1, 2, 1), shape).copy(),), (boxes,), np.zeros((self.batch, 4, 2, 1))

    def qim(self, embedding: np.ndarray, query: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return query

    def decode(self, boxes: np.ndarray) -> np.ndarray:
        return boxes


@pytest.mark.parametrize("as_bytes", [True, False])
def test_the_frame_step_follows_the_camera(as_bytes: bool) -> None:
    shifts = [0.0, 4.0, 8.0, 11.0, 9.0, 2.0]
    images = [cv2.cvtColor(scene(shift=(shift, 0)), cv2.COLOR_GRAY2BGR) for shift in shifts]
    make = preprocess_bytes if as_bytes else preprocess
    last = {}
    for on in (False, True):
        rules = replace(COAST, camera_motion=on)
        *_, found = track_frames(  # type: ignore[misc]
            OnePerson(shifts), images, lambda i: make(i, HEIGHT, WIDTH)[None], SHAPES, rules
        )
        last[on] = (found.ltwh[0, 0] + found.ltwh[0, 2] / 2) - WIDTH / 2
    assert last[True] == pytest.approx(2.0, abs=1.5)
    assert last[False] > 8


def test_streams_have_a_camera_each() -> None:
    rules = Rules(replace(COAST, camera_motion=True), SHAPES, batch=2)
    graphs = OnePerson([0.0] * 4, batch=2)
    for shift in (0.0, 3.0, 6.0, 9.0):
        pictures = np.stack([scene(), scene(shift=(shift, 0))])
        frame = np.repeat(pictures[..., None], 3, -1)
        logits, boxes, embedding = graphs.base(None, None, None, None)
        rules(FrameOutput(logits, boxes, embedding, frame))  # type: ignore[arg-type]
    still, moved = rules.tracker.box[:, 0, 0].tolist()
    assert still == pytest.approx(0.5, abs=0.003)
    assert moved == pytest.approx(0.5 + 3 / WIDTH, abs=0.003)


def test_it_is_off_by_default_and_of_coasting_tracks() -> None:
    assert not street().tracker.camera_motion
    with pytest.raises(UserError, match="camera_motion is of coasting tracks"):
        TrackerConfig(camera_motion=True)


def test_real_pictures(mot_root: object) -> None:
    """A camera on a tripod; people walk through the picture."""
    folder = mot_root / "MOT17-09-DPM" / "img1"  # type: ignore[operator]
    camera, found = CameraMotion(), []
    for file in sorted(folder.iterdir())[:12]:
        image = cv2.imread(str(file))
        assert image is not None
        (grey,) = grey_pictures(preprocess_bytes(np.asarray(image, np.uint8), 256, 448)[None])
        found.append(camera.update(grey))
    moved = np.array([m[:, :2] @ [0.5, 0.5] + m[:, 2] - 0.5 for m in found[1:]]) * [448, 256]
    assert np.abs(moved).max() < 1.0
