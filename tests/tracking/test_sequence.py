from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from motrlab.config import TrackerConfig
from motrlab.tracking.sequence import FrameTracks, track_frames, track_streams

RULES = TrackerConfig(birth_score=0.55, miss_score=0.5, reset_score=0.52, output_score=0.4, max_misses=2, min_area_px=1)


def video(seed: int, num_frames: int = 12, height: int = 40, width: int = 60) -> list[Any]:
    """Noise whose brightness jumps from frame to frame."""
    random = np.random.default_rng(seed)
    brightest = random.integers(20, 255, num_frames)
    return [random.integers(0, high, (height, width, 3)).astype(np.uint8) for high in brightest]


def shrink(image: Any) -> Any:
    """Mean brightness of four rows and six columns, from -2 to 2."""
    blocks = image[: image.shape[0] // 4 * 4, : image.shape[1] // 6 * 6].astype(np.float32)
    cells = blocks.reshape(4, blocks.shape[0] // 4, 6, blocks.shape[1] // 6, 3).mean((1, 3))
    return ((cells - 64) / 32).transpose(2, 0, 1)[None]


def run(graphs: Any, images: Any, sizes: Any, preprocess: Any = shrink, rules: Any = RULES) -> list[FrameTracks]:
    return list(track_frames(graphs, images, preprocess, sizes, rules))


def assert_same(a: list[Any], b: list[Any], tolerance: float = 1e-4) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.track_id.tolist() == other.track_id.tolist()
        np.testing.assert_allclose(one.ltwh, other.ltwh, atol=tolerance)


def test_numpy_equals_torch(numpy_graphs: Any, torch_graphs: Any, sizes: Any) -> None:
    images = video(1)
    found = run(numpy_graphs, images, sizes)
    assert len({i for f in found for i in f.track_id.tolist()}) > sizes.num_track  # births and deaths took place
    assert_same(found, run(torch_graphs, images, sizes, lambda image: torch.from_numpy(shrink(image))))


def test_one_result_a_frame_in_order(numpy_graphs: Any, sizes: Any) -> None:
    images, used = video(1), []

    def feed() -> Any:
        for number, image in enumerate(images):
            used.append(number)
            yield image

    for number, _ in enumerate(track_frames(numpy_graphs, feed(), shrink, sizes, RULES)):
        assert used == list(range(number + 1))  # a result comes before the next frame is read
    assert len(used) == len(images)
    backwards = run(numpy_graphs, images[::-1], sizes)
    forwards = run(numpy_graphs, images, sizes)
    different = [a.track_id.tolist() != b.track_id.tolist() for a, b in zip(forwards, backwards[::-1], strict=True)]
    assert any(different)


def test_every_sequence_starts_afresh(numpy_graphs: Any, sizes: Any) -> None:
    first = run(numpy_graphs, video(1), sizes)
    run(numpy_graphs, video(2), sizes)
    assert_same(run(numpy_graphs, video(1), sizes), first, tolerance=0)
    assert min(i for f in first for i in f.track_id.tolist()) == 1


def test_the_least_area_is_of_each_streams_image(numpy_graphs: Any, sizes: Any) -> None:
    """The same frames in two sizes: what is too small in one is large enough in the other."""
    small = video(1)
    large = [image.repeat(4, 0).repeat(4, 1) for image in small]
    rules = replace(RULES, min_area_px=40 * 60)
    found = list(track_streams(numpy_graphs, [small, large], shrink, sizes, rules))
    assert sum(len(frame[0].track_id) for frame in found if frame[0]) == 0
    assert sum(len(frame[1].track_id) for frame in found if frame[1]) > 0


@pytest.mark.parametrize("rules", [RULES, replace(RULES, coast=True, appearance=True)], ids=["plain", "colours"])
def test_streams_in_parallel_equal_streams_alone(numpy_graphs: Any, sizes: Any, rules: TrackerConfig) -> None:
    videos = [video(1, 12), video(2, 5), video(3, 9, 80, 66), []]
    together = list(track_streams(numpy_graphs, videos, shrink, sizes, rules))
    assert len(together) == 12
    for stream, images in enumerate(videos):
        found = [frame[stream] for frame in together]
        assert all(boxes is None for boxes in found[len(images) :])
        assert_same(found[: len(images)], run(numpy_graphs, images, sizes, rules=rules))


@pytest.mark.parametrize("videos", [[], [[]], [[], []]], ids=["none", "one empty", "two empty"])
def test_no_frames_at_all(videos: Any, numpy_graphs: Any, sizes: Any) -> None:
    assert list(track_streams(numpy_graphs, videos, shrink, sizes, RULES)) == []


def test_boxes_are_ltwh_pixels_of_each_image(numpy_graphs: Any, sizes: Any) -> None:
    images = [video(1, 1)[0], video(1, 1)[0].repeat(2, 0).repeat(2, 1)]  # the same picture, the second twice as large
    strict = replace(RULES, birth_score=0.0, output_score=0.0)
    small, large = track_frames(numpy_graphs, images, shrink, sizes, strict)
    one = track_frames(numpy_graphs, images[1:], shrink, sizes, strict)
    np.testing.assert_allclose(next(one).ltwh, small.ltwh * 2, rtol=1e-5)
    assert large.ltwh.max() > 1.5 * small.ltwh.max()


def test_seconds_of_every_part(numpy_graphs: Any, sizes: Any) -> None:
    seconds: dict[str, list[float]] = {}
    list(track_frames(numpy_graphs, video(1, 5), shrink, sizes, RULES, seconds))
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(
        ("preprocess", "base", "tracker", "gather", "qim", "state", "total"), 5
    )
    assert min(min(values) for values in seconds.values()) >= 0
