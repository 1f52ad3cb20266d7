from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.clips import ClipDataset
from motrlab.data.motchallenge import SequenceInfo, read_annotations
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.preprocess import preprocess
from motrlab.data.store import FrameStore
from motrlab.data.transforms import (
    ClipSample,
    Compose,
    FrameObjects,
    SeqBgrToYuv444,
    SeqNormalize,
    SeqRandomFlip,
    SeqResize,
    SeqToTensor,
    Transform,
)
from motrlab.viz.clips import (
    apply_each,
    clip_sheet,
    colourful_crop,
    crowd_sheet,
    network_input_to_bgr,
    sample_sheet,
    sample_table,
    still_sheet,
)
from motrlab.viz.overlay import track_colour
from tests.tiny import tiny

HEIGHT, WIDTH = 40, 80
NOBODY = FrameObjects(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, np.float32))


def sample(num_frames: int = 2) -> ClipSample:
    """Grey frames, a blue patch in the upper left quarter, and in the lower right one the box of person 3."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[:20, :40] = (200, 60, 30)
    box = np.array([[0.75, 0.75, 0.25, 0.25]], np.float32)
    people = FrameObjects(box, np.array([3]), np.full(1, 0.5, np.float32))
    return ClipSample(images=[image] * num_frames, objects=[people] * num_frames)


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Centre `(x, y)` of the pixels of exactly that colour."""
    rows, columns = np.nonzero((picture == colour).all(-1))
    assert len(rows), "nothing of that colour"
    return np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])


def test_the_network_input_can_be_looked_at() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    np.testing.assert_array_equal(network_input_to_bgr(preprocess(image, 6, 8)), image)


def test_a_crop_where_colours_change() -> None:
    crop = colourful_crop(sample(), size_px=8)
    assert crop.images[0].shape == (8, 8, 3)
    assert len(np.unique(crop.images[0].reshape(-1, 3), axis=0)) == 2  # both colours: the patch's edge
    assert all(len(people.ids) == 0 for people in crop.objects)
    assert np.array_equal(colourful_crop(sample(), size_px=8).images[0], crop.images[0])


def test_a_clip_is_shown_as_the_network_sees_it() -> None:
    pictures = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    pictures[:, :, ::2] = (255, 0, 0)  # columns of blue: NV12 has no such colour
    clip = ClipSample(images=list(pictures), objects=[NOBODY] * 2)
    plain = clip_sheet([clip, clip], width=WIDTH)
    assert plain.shape == (2 * HEIGHT + 6, 2 * WIDTH + 6, 3)
    assert plain[3, 2].tolist() == [255, 0, 0]
    assert plain[3, 3].tolist() == [0, 0, 0]
    halved = clip_sheet([dataclasses.replace(clip, nv12=True)], width=WIDTH)
    assert abs(int(halved[3, 2, 0]) - int(halved[3, 3, 0])) == 29  # luma alone tells them apart


def test_each_transform_starts_from_the_clip() -> None:
    found = apply_each(sample(), {"a": SeqRandomFlip(1.0), "b": SeqResize([(20, 40)])})
    assert list(found) == ["before", "a", "b"]
    assert found["b"].objects[0].boxes[0, 0] == pytest.approx(0.75)  # not mirrored
    assert found["a"].objects[0].boxes[0, 0] == pytest.approx(0.25)


def test_chance_is_of_the_seed() -> None:
    flips = {"flip": SeqRandomFlip(0.5)}
    found = [apply_each(sample(), flips, seed)["flip"].objects[0].boxes[0, 0] for seed in range(20)]
    assert found == [apply_each(sample(), flips, seed)["flip"].objects[0].boxes[0, 0] for seed in range(20)]
    assert {round(float(x), 2) for x in found} == {0.25, 0.75}


NORMALISED = Compose([SeqToTensor(), SeqBgrToYuv444(), SeqNormalize()])
CASES: dict[str, tuple[Transform, float]] = {"flip": (SeqRandomFlip(1.0), 0.25), "normalised": (NORMALISED, 0.75)}


@pytest.mark.parametrize("case", CASES)
def test_boxes_lie_where_they_belong(case: str) -> None:
    transform, x = CASES[case]
    sheet = sample_sheet(apply_each(sample(), {case: transform}), columns=2, width=WIDTH * 2)
    cell = sheet[sheet.shape[0] - 2 * HEIGHT :, : 2 * WIDTH]  # below: what the transform made of it
    centre = coloured(cell, track_colour(3))
    np.testing.assert_allclose(centre, [x * 2 * WIDTH, 0.75 * 2 * HEIGHT], atol=12)  # with the label above


def test_planes_are_shown_side_by_side_each_with_its_boxes() -> None:
    sheet = sample_sheet({"tensor": SeqToTensor()(sample(1), np.random.default_rng())}, columns=1, width=2 * WIDTH)
    cell = sheet[-2 * HEIGHT :]
    blue, green, red = cell[5, 5], cell[5, WIDTH + 5], cell[HEIGHT + 5, 5]
    assert [int(p[0]) for p in (blue, green, red)] == [200, 60, 30]
    for left, top in ((0, 0), (WIDTH, 0), (0, HEIGHT)):
        coloured(cell[top : top + HEIGHT, left : left + WIDTH], track_colour(3))


def test_cells_keep_the_first_clips_scale() -> None:
    sheet = sample_sheet(apply_each(sample(1), {"half": SeqResize([(20, 40)])}), columns=2, width=WIDTH)
    half = sheet[-HEIGHT:, WIDTH + 6 :]
    assert half[3, 3].tolist() == pytest.approx([200, 60, 30], abs=2)
    assert half[17, 3].tolist() == pytest.approx([90, 90, 90], abs=2)
    assert half[35, 70].tolist() == [32, 32, 32]  # empty


def test_the_table_has_the_numbers() -> None:
    lines = sample_table(apply_each(sample(), {"half": SeqResize([(20, 40)]), "input": NORMALISED})).splitlines()
    assert [line.split() for line in lines] == [
        ["transform", "height", "width", "people", "visibility", "mean"],
        ["before", "40", "80", "1", "1", "0.50", "92"],
        ["half", "20", "40", "1", "1", "0.50", "92"],
        ["input", "40", "80", "1", "1", "0.50", "-0.08"],  # (117.47 - 128) / 128
    ]
    nobody = dataclasses.replace(sample(1), objects=[NOBODY])
    assert sample_table({"before": nobody}).splitlines()[1].split()[3:5] == ["0", "-"]


def test_a_pseudo_clip_is_shown_beside_its_still(tmp_path: Path) -> None:
    info = SequenceInfo(name="S", num_frames=1, width=80, height=60, frame_rate=1.0, stills=True)
    cv2.imwrite(str(tmp_path / "1.jpg"), np.full((60, 80, 3), 90, np.uint8))
    (tmp_path / "gt.txt").write_text("1,3,20,15,16,30,1,1,1\n")
    source = SequenceSource(
        info=info, files=(tmp_path / "1.jpg",), annotations=read_annotations(tmp_path / "gt.txt", info)
    )
    write_store(tmp_path / "lmdb", [source])
    config = tiny()
    train = dataclasses.replace(config.train, still_share=1.0)
    sheet = still_sheet(ClipDataset(FrameStore(tmp_path / "lmdb"), train, config.model, 0), 2, 3, width=160)
    height = 96 + 18  # as wide as the network's input, 160 × 96, under a caption
    assert sheet.shape == (2 * height + 6, 4 * 160 + 3 * 6, 3)
    still = sheet[18 : 18 + 96, :160]
    colour = track_colour(3)
    rows, columns = np.nonzero((still == colour).all(-1))
    np.testing.assert_allclose([columns.min(), columns.max()], np.array([20, 36]) * 96 / 60, atol=3)
    np.testing.assert_allclose(rows.max(), 45 * 96 / 60, atol=3)
    for row in range(2):
        for column in range(1, 4):
            cell = sheet[row * (height + 6) + 18 :][:96, column * 166 :][:, :160]
            assert (cell == colour).all(-1).any(), "somebody is in the view"


def test_a_crowd_is_shown_beside_both_times(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"{frame}.png" for frame in (1, 2))
    for file, left in zip(files, (8, 56), strict=True):
        image = np.full((60, 80, 3), 90, np.uint8)
        image[:, 40] = 255
        image[15:45, left : left + 16] = (left, 0, 200)
        cv2.imwrite(str(file), image)
    rows = "1,3,8,15,16,30,1,1,1\n2,4,56,15,16,30,1,1,1\n"
    config, train = tiny(), tiny().train
    for name, text in (("walks", rows), ("nobody", "")):
        info = SequenceInfo(name="V", num_frames=2, width=80, height=60, frame_rate=1.0)
        (tmp_path / "gt.txt").write_text(text)
        source = SequenceSource(info=info, files=files, annotations=read_annotations(tmp_path / "gt.txt", info))
        write_store(tmp_path / name, [source])
    train = dataclasses.replace(train, still_share=1.0)  # of what is trained with, not of what is shown here
    sheet = crowd_sheet(ClipDataset(FrameStore(tmp_path / "walks"), train, config.model, 0), 1, width=160)
    assert sheet.shape == (120 + 18, 3 * 160 + 2 * 6, 3)
    shown = [
        [left for left in (8, 56) if abs(cell[18 + 60, 2 * (left + 8)].astype(int) - (left, 0, 200)).max() < 3]
        for cell in (sheet[:, :160], sheet[:, 166:], sheet[:, 332:])
    ]
    assert sorted(shown[0] + shown[1]) == [8, 56], "one of them at each time"
    assert shown[2] == [8, 56]
    nobody = crowd_sheet(ClipDataset(FrameStore(tmp_path / "nobody"), train, config.model, 0), width=160)
    assert nobody.shape == (18, 3 * 160, 3), "a line of text"
    assert len(np.unique(nobody)) > 2
