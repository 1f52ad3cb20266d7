from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from motrlab.boxes import box_cxcywh_to_xyxy
from motrlab.config import mot17, street
from motrlab.data.preprocess import preprocess
from motrlab.data.transforms import (
    TRANSFORM_SETS,
    ClipSample,
    Compose,
    FrameObjects,
    RandomSelectOne,
    SeqBgrToYuv444,
    SeqColourJitter,
    SeqNetworkInput,
    SeqNormalize,
    SeqRandomAffine,
    SeqRandomFlip,
    SeqRandomSizeCrop,
    SeqResize,
    SeqToTensor,
    Transform,
    TransformSet,
    change_view,
    network_input,
    nv12_chroma,
    reference_transforms,
    transform_set,
)
from motrlab.errors import UserError

HEIGHT, WIDTH = 90, 160
BRIGHT = (250, 240, 230)


def clip(rects: list[tuple[int, int, int, int]], num_frames: int = 2) -> ClipSample:
    """Dark frames with bright rectangles (xyxy px); frame t is shifted by 2 t px; ids count from 10."""
    images, objects = [], []
    ids, seen = np.arange(10, 10 + len(rects)), np.full(len(rects), 0.8, np.float32)
    for t in range(num_frames):
        image = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
        rows = []
        for x0, y0, x1, y1 in rects:
            image[max(y0, 0) : max(y1, 0), max(x0 + 2 * t, 0) : max(x1 + 2 * t, 0)] = BRIGHT
            rows.append([(x0 + x1) / 2 + 2 * t, (y0 + y1) / 2, x1 - x0, y1 - y0])
        images.append(image)
        boxes = (np.array(rows).reshape(-1, 4) / [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)
        objects.append(FrameObjects(boxes, ids, seen))
    return ClipSample(images=images, objects=objects)


def bright_extent(image: np.ndarray) -> np.ndarray:
    """xyxy px of the pixels brighter than half way."""
    rows, columns = np.nonzero(image.mean(-1) > 130)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


GEOMETRIC: dict[str, Transform] = {
    "flip": SeqRandomFlip(1.0),
    "resize, fixed": SeqResize([(70, 200)]),
    "resize, short side": SeqResize([60, 120]),
    "resize, long side bound": SeqResize([120], max_size=180),
    "crop": SeqRandomSizeCrop(70, 85),
    "affine": SeqRandomAffine(96, 128),
    "affine, mirrored": SeqRandomAffine(96, 128, flip_probability=1.0),
    "affine, far out": SeqRandomAffine(60, 100, zoom=(-0.9, -0.5)),
    "affine, small": SeqRandomAffine(30, 40, zoom=(0, 0)),
    "all of the reference's": Compose([SeqRandomFlip(), SeqResize([80, 120]), SeqRandomSizeCrop(70, 85)]),
}


@pytest.mark.parametrize("case", GEOMETRIC)
def test_boxes_follow_the_pixels(case: str) -> None:
    sample = clip([(60, 30, 90, 66)])
    for seed in range(8):
        found = GEOMETRIC[case](sample, np.random.default_rng(seed))
        for image, people in zip(found.images, found.objects, strict=True):
            if len(people.ids) == 0:
                assert image.mean() < 60
                continue
            height, width = image.shape[:2]
            expected = box_cxcywh_to_xyxy(people.boxes)[0] * [width, height, width, height]
            expected = expected.clip(0, [width, height, width, height])
            np.testing.assert_allclose(bright_extent(image), expected, atol=1.01)
            assert people.ids.tolist() == [10]


@pytest.mark.parametrize("case", GEOMETRIC)
def test_frames_without_people(case: str) -> None:
    found = GEOMETRIC[case](clip([]), np.random.default_rng(0))
    for people in found.objects:
        assert people.boxes.shape == (0, 4)
        assert people.ids.shape == people.visibility.shape == (0,)


def test_one_choice_for_the_whole_clip() -> None:
    sample = clip([(60, 30, 90, 66)])
    sample = dataclasses.replace(sample, images=[sample.images[0]] * 2, objects=[sample.objects[0]] * 2)
    for chosen in TRANSFORM_SETS.values():
        for seed in range(5):
            found = chosen(street().model)(sample, np.random.default_rng(seed))
            np.testing.assert_array_equal(found.images[0], found.images[1])
            np.testing.assert_array_equal(found.objects[0].boxes, found.objects[1].boxes)


@pytest.mark.parametrize(
    ("rect", "shown"),
    [
        ((10, 10, 30, 50), 0.8),
        ((70, 10, 90, 50), 0.4),  # half of it behind the new edge
        ((90, 10, 110, 50), None),
        ((-10, 10, 10, 50), 0.8),  # half outside the old picture: the gt has counted that already
        ((75, 20, 85, 40), 0.4),
    ],
    ids=["inside", "half", "gone", "outside before", "half, small"],
)
def test_visibility_falls_with_the_share_that_left(rect: tuple[int, int, int, int], shown: float | None) -> None:
    found = change_view(clip([rect], 1), (2.0, 1.0), (0.0, 0.0))  # the left half of the picture
    assert len(found.objects[0].boxes) == (0 if shown is None else 1)
    if shown is not None:
        assert found.objects[0].visibility[0] == pytest.approx(shown)
        assert found.objects[0].visibility.dtype == found.objects[0].boxes.dtype == np.float32
        expected = np.array([rect[0] + rect[2], (rect[0] + rect[2]) / 2]) / WIDTH
        assert found.objects[0].boxes[0, 0] == pytest.approx(expected[0])  # kept unclipped


def test_a_wider_view_shows_nothing_more() -> None:
    found = change_view(clip([(-10, 10, 10, 50)], 1), (0.5, 0.5), (0.25, 0.25))
    assert found.objects[0].visibility[0] == pytest.approx(0.8)


def test_a_drawn_zoom_keeps_picture_and_view_in_each_other() -> None:
    sample = clip([(0, 0, WIDTH, HEIGHT)], 1)
    for seed in range(30):
        found = SeqRandomAffine(48, 64)(sample, np.random.default_rng(seed))
        x0, y0, x1, y1 = box_cxcywh_to_xyxy(found.objects[0].boxes)[0]
        zoom = x1 - x0
        assert zoom == pytest.approx(y1 - y0, abs=1e-5)
        assert np.exp(-0.25) - 1e-5 <= zoom <= np.exp(0.3) + 1e-5
        low, high = sorted((0.0, 1 - float(zoom)))
        assert low - 1e-5 <= x0 <= high + 1e-5
        assert low - 1e-5 <= y0 <= high + 1e-5


def test_colour_jitter_leaves_boxes_and_keeps_frames_alike() -> None:
    sample = clip([(60, 30, 90, 66)])
    found = SeqColourJitter(permute_probability=1.0)(sample, np.random.default_rng(3))
    assert found.objects is sample.objects
    np.testing.assert_array_equal(found.images[0][0, 0], found.images[1][0, 0])
    assert not np.array_equal(found.images[0], sample.images[0])
    same = SeqColourJitter(gain=0, brightness=0, permute_probability=0)(sample, np.random.default_rng(3))
    np.testing.assert_array_equal(same.images[0], sample.images[0])


def test_colour_jitter_permutes_a_quarter_of_the_clips() -> None:
    image = np.tile(np.array([50, 100, 150], np.uint8), (2, 2, 1))
    sample = dataclasses.replace(clip([], 1), images=[image])
    jitter = SeqColourJitter(gain=0.0, brightness=0.0)
    rng = np.random.default_rng(0)
    changed = [not np.array_equal(jitter(sample, rng).images[0], image) for _ in range(400)]
    assert np.mean(changed) == pytest.approx(0.25 * 5 / 6, abs=0.06)  # one permutation of six changes nothing


def test_select_one_takes_each_with_its_probability() -> None:
    choice = RandomSelectOne([SeqResize([(10, 10)]), SeqResize([(20, 20)])], [0.2, 0.8])
    rng = np.random.default_rng(0)
    sizes = [choice(clip([]), rng).images[0].shape[0] for _ in range(200)]
    assert set(sizes) == {10, 20}
    assert sizes.count(20) == pytest.approx(160, abs=20)


def test_validation_is_the_deployed_preprocessing_to_the_bit() -> None:
    sample = clip([(60, 30, 90, 66)])
    expected = np.stack([preprocess(image, 40, 56) for image in sample.images])
    found = Compose([SeqResize([(40, 56)]), SeqNetworkInput()])(sample, np.random.default_rng(0))
    np.testing.assert_array_equal(found.tensor.numpy(), expected)


def test_the_three_steps_to_the_network_are_the_one() -> None:
    sample, rng = clip([(60, 30, 90, 66)]), np.random.default_rng(0)
    bgr = SeqToTensor()(sample, rng)
    np.testing.assert_array_equal(bgr.tensor[0, :, 40, 70].numpy(), sample.images[0][40, 70])
    yuv = SeqBgrToYuv444()(bgr, rng)
    assert yuv.tensor[0, 1].mean() == pytest.approx(128, abs=3)  # hardly any colour
    found = SeqNormalize()(yuv, rng).tensor
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, SeqNetworkInput()(sample, rng).tensor, atol=1e-5, rtol=0)


def test_sets_end_at_the_networks_size() -> None:
    model = street().model
    for chosen in TRANSFORM_SETS.values():
        for seed in range(6):
            found = chosen(model)(clip([(60, 30, 90, 66)]), np.random.default_rng(seed))
            assert [image.shape for image in found.images] == [(model.height, model.width, 3)] * 2


def test_an_unknown_set_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="unknown augmentation 'none'; one of street, reference"):
        transform_set("none")


def test_a_set_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORM_SETS, "plain", TransformSet(lambda model: SeqResize([(8, 16)]), 0.0, 1.0))
    found = transform_set("plain")(street().model)(clip([]), np.random.default_rng(0))
    assert [image.shape for image in found.images] == [(8, 16, 3)] * 2


TO_TENSOR: dict[str, tuple[Transform, float]] = {  # and the brightness half way between background and rectangle
    "to tensor": (SeqToTensor(), 130),
    "yuv": (Compose([SeqToTensor(), SeqBgrToYuv444()]), 130),
    "normalised": (Compose([SeqToTensor(), SeqBgrToYuv444(), SeqNormalize()]), 0),
    "one pass": (SeqNetworkInput(), 0),
    "one pass, nv12": (SeqNetworkInput(nv12=True), 0),
}


@pytest.mark.parametrize("case", TO_TENSOR)
def test_tensors_show_the_rectangle_where_its_box_is(case: str) -> None:
    sample, (transform, threshold) = clip([(60, 30, 90, 66), (-10, 3, 7, 21)]), TO_TENSOR[case]
    found = transform(sample, np.random.default_rng(0))
    assert found.objects is sample.objects
    for frame, people in zip(found.tensor, found.objects, strict=True):
        expected = np.zeros((HEIGHT, WIDTH), bool)
        for x0, y0, x1, y1 in np.rint(box_cxcywh_to_xyxy(people.boxes) * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(int):
            expected[y0:y1, max(x0, 0) : x1] = True
        np.testing.assert_array_equal(frame[0].numpy() > threshold, expected)  # blue or luma


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)], ids=["even", "odd", "one row"])
def test_nv12_has_one_colour_for_four_pixels(size: tuple[int, int]) -> None:
    height, width = size
    yuv = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (2, 3, height, width)).astype(np.float32))
    found = nv12_chroma(yuv)
    torch.testing.assert_close(found[:, 0], yuv[:, 0].round())
    for y in range(height):
        for x in range(width):
            four = yuv[:, 1:, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2]
            torch.testing.assert_close(found[:, 1:, y, x], four.mean((2, 3)).round(), atol=1e-3, rtol=0)
    assert torch.equal(nv12_chroma(found), found)  # nothing more to lose
    assert torch.equal(nv12_chroma(yuv[0]), found[0])


def test_nv12_of_pure_colours_stays_in_a_byte() -> None:
    """Blue takes U to 255.5: the byte is 255."""
    found = network_input(torch.tensor([[[[255, 0, 0]]]], dtype=torch.uint8), nv12=True)
    assert (found * 128 + 128).flatten().tolist() == [29.0, 255.0, 107.0]


def test_the_network_input_is_the_same_for_any_batch() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 6, 8, 3), np.uint8))
    found = network_input(images)
    assert found.shape == (2, 3, 3, 6, 8)
    for nv12 in (False, True):
        found = network_input(images, nv12=nv12)
        alone = SeqNetworkInput(nv12)(
            dataclasses.replace(clip([]), images=list(images[1].numpy())), np.random.default_rng()
        )
        assert torch.equal(found[1], alone.tensor)
    if torch.cuda.is_available():
        for nv12 in (False, True):  # a sum that ends half way may be rounded the other way
            torch.testing.assert_close(
                network_input(images.cuda(), nv12=nv12).cpu(),
                network_input(images, nv12=nv12),
                atol=nv12 / 128 + 1e-6,
                rtol=0,
            )


def test_colour_jitter_keeps_the_rectangle_in_its_box() -> None:
    sample = clip([(60, 30, 90, 66)])
    for seed in range(8):
        found = SeqColourJitter()(sample, np.random.default_rng(seed))
        assert found.objects is sample.objects
        for before, after in zip(sample.images, found.images, strict=True):
            np.testing.assert_array_equal(bright_extent(after), bright_extent(before))


def test_select_one_hands_over_what_the_chosen_one_did() -> None:
    sample = clip([(10, 30, 40, 66)])
    choice = RandomSelectOne([SeqRandomFlip(1.0), SeqResize([(45, 80)])])
    for seed in range(8):
        found = choice(sample, np.random.default_rng(seed))
        height, width = found.images[0].shape[:2]
        expected = box_cxcywh_to_xyxy(found.objects[0].boxes)[0] * [width, height, width, height]
        np.testing.assert_allclose(bright_extent(found.images[0]), expected, atol=1.01)


@pytest.mark.parametrize("augmentation", ["street", "reference"])
def test_colour_jitter_goes_with_both_sets(augmentation: str) -> None:
    def colours(strength: float | None, seed: int) -> np.ndarray:
        transform = transform_set(augmentation)(street().model, strength)
        found = transform(clip([(0, 0, WIDTH, HEIGHT)], 1), np.random.default_rng(seed))
        return found.images[0][found.images[0].shape[0] // 2, found.images[0].shape[1] // 2]

    for seed in range(4):
        plain, usual, strong = colours(0.0, seed), colours(1.0, seed), colours(3.0, seed)
        assert plain.tolist() == list(BRIGHT)
        assert usual.tolist() != plain.tolist()
        assert strong.tolist() != usual.tolist()
        np.testing.assert_array_equal(colours(None, seed), usual if augmentation == "street" else plain)


def test_the_reference_set_has_the_references_sizes() -> None:
    composed = reference_transforms(mot17().model)
    assert isinstance(composed, Compose)
    select = composed.transforms[1]
    assert isinstance(select, RandomSelectOne)
    resize, crop = select.transforms
    assert isinstance(resize, SeqResize)
    assert (resize.sizes[0], resize.sizes[-1], len(resize.sizes), resize.max_size) == (608, 992, 13, 1536)
    assert isinstance(crop, Compose)
    assert isinstance(crop.transforms[0], SeqResize)
    assert crop.transforms[0].sizes == [400, 500, 600]
    assert isinstance(crop.transforms[1], SeqRandomSizeCrop)
    assert (crop.transforms[1].min_size, crop.transforms[1].max_size) == (384, 600)
