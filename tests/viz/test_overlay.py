from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import (
    best_ious,
    contact_sheet,
    draw_frame,
    draw_over_each_other,
    image_jpeg,
    track_colour,
    tracks_of_frame,
    trails_until,
    write_image,
)

PEOPLE = [(1, 4, 10), (1, 9, 60), (2, 4, 12), (3, 4, 14), (3, 9, 66)]  # frame, id, left; id 9 is away in frame 2
ROWS = Tracks.from_rows([(frame, track_id, left, 20, 8, 30, 0.9) for frame, track_id, left in PEOPLE])


def grey(height: int = 90, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def tracks(*rows: tuple[int, float, float, float, float]) -> FrameTracks:
    table = np.array(rows, float).reshape(-1, 5)
    return FrameTracks(table[:, 0].astype(int), table[:, 1:], np.ones(len(table)))


def test_track_colours_are_stable_and_apart() -> None:
    colours = [track_colour(i) for i in range(40)]
    assert colours == [track_colour(i) for i in range(40)]
    assert len(set(colours)) == 40
    neighbours = np.abs(np.diff(np.array(colours), axis=0)).sum(1)
    assert neighbours.min() > 100
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_frame_rows_and_trails() -> None:
    assert tracks_of_frame(ROWS, 2).track_id.tolist() == [4]
    assert tracks_of_frame(ROWS, 7).ltwh.shape == (0, 4)
    trails = trails_until(ROWS, 3)
    np.testing.assert_array_equal(trails[4], [[14, 50], [16, 50], [18, 50]])
    np.testing.assert_array_equal(trails[9], [[64, 50], [70, 50]])
    assert trails_until(ROWS, 3, length=1)[4].tolist() == [[18, 50]]


def test_box_has_the_colour_of_its_id_and_the_input_stays() -> None:
    image = grey()
    drawn = draw_frame(image, tracks((5, 40, 30, 20, 40)), min_width_px=0)
    np.testing.assert_array_equal(image, grey())
    assert drawn.shape == image.shape
    assert tuple(drawn[50, 40]) == track_colour(5)  # left edge
    assert tuple(drawn[50, 50]) == (100, 100, 100)  # inside
    assert tuple(drawn[5, 150]) == (100, 100, 100)  # far away


@pytest.mark.parametrize(
    ("width", "minimum", "expected"),
    [(160, 640, 640), (500, 640, 1000), (640, 640, 640), (960, 640, 960), (160, 0, 160)],
)
def test_small_frames_are_enlarged_by_a_whole_factor(width: int, minimum: int, expected: int) -> None:
    drawn = draw_frame(grey(90, width), tracks((1, 10, 10, 20, 40)), min_width_px=minimum)
    assert drawn.shape == (90 * expected // width, expected, 3)


@pytest.mark.parametrize(
    "box", [(-50, -50, 20, 20), (150, 80, 40, 40), (0, 0, 160, 90), (10, 10, 0, 0), (5000, 5000, 9, 9)]
)
def test_boxes_may_leave_the_image(box: tuple[float, float, float, float]) -> None:
    drawn = draw_frame(grey(), tracks((123, *box)), min_width_px=0)
    assert (drawn != 100).any()  # at least the label is inside


def test_no_tracks_change_nothing() -> None:
    np.testing.assert_array_equal(draw_frame(grey(), tracks(), {}, min_width_px=0), grey())


def test_trails_fade() -> None:
    points = np.stack((np.arange(10.0, 150, 10), np.full(14, 60.0)), -1)
    drawn = draw_frame(grey(), tracks(), {3: points}, min_width_px=0)
    strength = np.abs(drawn.astype(int) - 100).sum(-1)
    assert 0 < strength[60, 15] < strength[60, 75] < strength[60, 135]


def test_gt_is_drawn_white() -> None:
    drawn = draw_frame(grey(), tracks(), gt=np.array([[40.0, 30, 20, 40]]), min_width_px=0)
    assert drawn[50, 40].min() > 230


def test_contact_sheet() -> None:
    sheet = contact_sheet([grey(), grey(), grey(45, 80)], 2, gap_px=6)
    assert sheet.shape == (2 * 90 + 6, 2 * 160 + 6, 3)
    assert tuple(sheet[100, 20]) == (100, 100, 100)  # the small one, enlarged, in the second row
    assert tuple(sheet[100, 300]) == (32, 32, 32)  # the empty place
    assert contact_sheet([grey()], 5).shape == grey().shape
    with pytest.raises(UserError, match="at least one image"):
        contact_sheet([], 2)


def test_pictures_are_written_as_they_are(tmp_path: Path) -> None:
    image = draw_frame(grey(), tracks((5, 40, 30, 20, 40)))
    write_image(tmp_path / "deep" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "deep" / "a.png")), image)
    with pytest.raises(UserError, match=r"a\.nothing: .*use \.png"):
        write_image(tmp_path / "a.nothing", image)
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize(("width", "expected"), [(40, 40), (200, 100)])
def test_jpeg_is_no_wider_than_asked(width: int, expected: int) -> None:
    data = image_jpeg(np.zeros((20, width, 3), np.uint8), max_width_px=100)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape[1] == expected


def test_two_stages_over_each_other() -> None:
    image = np.zeros((100, 1000, 3), np.uint8)  # wide enough to be read as it is
    first = FrameTracks(np.array([1]), np.array([[20.0, 30, 30, 50]]), np.ones(1))
    second = FrameTracks(np.array([1, 2]), np.array([[20.0, 30, 30, 50], [120, 30, 30, 50]]), np.ones(2))
    colours = ((255, 0, 0), (0, 0, 255))
    both = draw_over_each_other(image, first, second, colours)
    assert image.max() == 0
    assert both[55, 120].tolist() == [0, 0, 255]  # only the second has it
    assert (both[82:100, 120:140] == (0, 0, 255)).all(2).any()  # it has its label, below
    assert len(set(both[55, 20].tolist())) == 1 < both[55, 20, 0]  # one grey box where both agree, without a label
    assert not (both == (255, 0, 0)).all(2).any()
    moved = FrameTracks(first.track_id, first.ltwh + np.array([10, 0, 0, 0]), first.score)
    parted = draw_over_each_other(image, first, moved, colours)
    assert parted[55, 20].tolist() == [255, 0, 0]
    assert parted[55, 30].tolist() == [0, 0, 255]
    assert draw_over_each_other(image[:, :200], first, second, colours).shape == (500, 1000, 3)


def test_best_ious() -> None:
    first, second = np.array([[0.0, 0, 10, 10], [50, 50, 10, 10]]), np.array([[5.0, 0, 10, 10]])
    one, other = best_ious(first, second)
    np.testing.assert_allclose(one, [1 / 3, 0])
    np.testing.assert_allclose(other, [1 / 3])
    assert best_ious(first, second[:0])[0].tolist() == [0, 0]
