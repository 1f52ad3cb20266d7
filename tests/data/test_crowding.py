"""People of another time: pixels, boxes, ids and visibility belong together, and only where the camera is fixed."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.boxes import box_ltwh_to_cxcywh
from motrlab.data.crowding import crowded
from motrlab.data.transforms import ClipSample, FrameObjects

SIZE = np.array([160, 120])
RED, GREEN, BLUE = (0, 0, 250), (0, 250, 0), (250, 0, 0)
Person = tuple[int, tuple[int, int, int, int], tuple[int, int, int]]  # id, ltwh in px, colour


def background(shift: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.roll(rng.integers(60, 200, (120, 160, 3), np.uint8), shift, 1)


def clip(*frames: list[Person], shift: int = 0, visibility: float = 1.0) -> ClipSample:
    """Coloured boxes before a background; the last of a frame is in front."""
    images, objects = [], []
    for people in frames:
        image = background(shift)
        for _, (left, top, width, height), colour in people:
            image[top : top + height, left : left + width] = colour
        ltwh = np.array([box for _, box, _ in people], float).reshape(-1, 4)
        boxes = (box_ltwh_to_cxcywh(ltwh) / np.tile(SIZE, 2)).astype(np.float32)
        ids = np.array([track for track, *_ in people], np.int64)
        images.append(image)
        objects.append(FrameObjects(boxes, ids, np.full(len(ids), visibility, np.float32)))
    return ClipSample(images=images, objects=objects)


def colour_at(sample: ClipSample, frame: int, x: int, y: int) -> tuple[int, ...]:
    return tuple(sample.images[frame][y, x].tolist())


def test_guests_come_with_their_pixels_under_one_new_id() -> None:
    now = clip([(3, (10, 20, 20, 60), RED)], [(3, (14, 20, 20, 60), RED)])
    then = clip([(7, (100, 30, 20, 60), GREEN)], [(7, (106, 30, 20, 60), GREEN)], visibility=0.75)
    found = crowded(now, then)
    assert [people.ids.tolist() for people in found.objects] == [[3, 4], [3, 4]]
    assert [people.visibility.tolist() for people in found.objects] == [[1, 0.75]] * 2
    for frame, left in enumerate((100, 106)):
        np.testing.assert_array_equal(found.objects[frame].boxes[1], then.objects[frame].boxes[0])
        assert colour_at(found, frame, left + 10, 60) == GREEN
        assert colour_at(found, frame, 20, 50) == RED
        assert colour_at(found, frame, left, 30) == tuple(background()[30, left].tolist()), "corners are not his"
    assert colour_at(now, 0, 110, 60) == tuple(background()[60, 110].tolist()), "what was given is left as it is"


@pytest.mark.parametrize(("top", "front", "visibility"), [(30, GREEN, [0.5, 1]), (10, RED, [1, 0.5])])
def test_whose_feet_are_lower_is_in_front(top: int, front: tuple[int, int, int], visibility: list[float]) -> None:
    """Both are 60 px high; the guest covers half of the other's width, all but 10 px of the height, or is covered."""
    now, then = clip([(3, (40, 20, 20, 60), RED)]), clip([(7, (50, top, 20, 60), GREEN)])
    found = crowded(now, then)
    assert colour_at(found, 0, 55, 50) == front
    share = 1 - 0.5 * 7 / 8  # seven of eight rows of points
    expected = [share if value < 1 else 1 for value in visibility]
    np.testing.assert_allclose(found.objects[0].visibility, expected, rtol=1e-6)


def test_who_stands_where_he_stood_is_no_guest_but_who_moved_is() -> None:
    stays, walks = (40, 20, 20, 60), (90, 20, 20, 60)
    now = clip([(3, stays, RED), (5, walks, BLUE)], [(3, stays, RED), (5, walks, BLUE)])
    then = clip([(3, (42, 20, 20, 60), RED), (5, (130, 20, 20, 60), BLUE)], [(3, stays, RED)])
    found = crowded(now, then)
    assert [people.ids.tolist() for people in found.objects] == [[3, 5, 7], [3, 5]]
    assert colour_at(found, 0, 140, 50) == BLUE


def test_a_camera_that_moved_lends_nobody() -> None:
    now = clip([(3, (10, 20, 20, 60), RED)], [(3, (10, 20, 20, 60), RED)])
    moved = clip([(7, (100, 30, 20, 60), GREEN)], [(7, (100, 30, 20, 60), GREEN)], shift=5)
    assert crowded(now, moved) is now
    late = ClipSample(
        images=[then := clip([(7, (100, 30, 20, 60), GREEN)]).images[0], moved.images[1]], objects=moved.objects
    )
    assert then.shape == late.images[1].shape
    assert crowded(now, late) is now, "it moved within the other clip"


def test_frames_without_people() -> None:
    nobody, somebody = clip([], []), clip([], [(7, (100, 30, 20, 60), GREEN)])
    assert crowded(nobody, nobody).objects[0].ids.tolist() == []
    assert [p.ids.tolist() for p in crowded(nobody, somebody).objects] == [[], [1]]
    assert [p.ids.tolist() for p in crowded(somebody, nobody).objects] == [[], [7]]
