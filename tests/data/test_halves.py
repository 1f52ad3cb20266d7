from __future__ import annotations

import numpy as np
import pytest

from motrlab.data.halves import cut, half_ranges
from motrlab.data.motchallenge import Annotations, Detections


@pytest.mark.parametrize(("num_frames", "train", "test"), [(8, 4, 4), (525, 262, 263), (1, 0, 1), (2, 1, 1)])
def test_first_half_is_floor_of_the_length(num_frames: int, train: int, test: int) -> None:
    first, second = half_ranges(num_frames)
    assert (len(first), len(second)) == (train, test)
    assert [*first, *second] == list(range(1, num_frames + 1))


def test_the_second_half_is_renumbered_from_one() -> None:
    frames, none = np.arange(1, 8), np.zeros(7, np.int64)
    boxes = np.arange(28.0).reshape(7, 4)
    whole = Annotations(frames, none, boxes, none, none, np.ones(7), True)
    train, test = (cut(whole, part) for part in half_ranges(7))
    assert train.frame.tolist() == [1, 2, 3]
    assert test.frame.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(test.ltwh, boxes[3:])
    detections = cut(Detections(frames, boxes, boxes[:, 0]), half_ranges(7)[1])
    assert detections.frame.tolist() == [1, 2, 3, 4]
    assert detections.score.tolist() == boxes[3:, 0].tolist()
