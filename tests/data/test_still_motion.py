"""A still image as a clip: pixels and boxes move together, and who is behind something is less visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from motrlab.boxes import box_cxcywh_to_xyxy, box_ltwh_to_cxcywh
from motrlab.config import StreetConfig
from motrlab.data.motchallenge import find_sequences, read_annotations, read_sequence_info
from motrlab.data.pictures import decode_image
from motrlab.data.still_motion import SeqStillMotion, _hidden
from motrlab.data.street import generate_street
from motrlab.data.transforms import ClipSample, FrameObjects

CAMERA = SeqStillMotion(96, 160, occluders=0)
PEOPLE = ((40, 30, 70, 110), (150, 60, 190, 160), (250, 20, 280, 90))  # xyxy px
COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250))


def still(num_frames: int = 5) -> ClipSample:
    """A grey picture of 320×200 with a box of one pure colour for each of three people."""
    image = np.full((200, 320, 3), 90, np.uint8)
    for (left, top, right, bottom), colour in zip(PEOPLE, COLOURS, strict=True):
        image[top:bottom, left:right] = colour
    corners = np.array(PEOPLE)
    ltwh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    boxes = (box_ltwh_to_cxcywh(ltwh) / [320, 200, 320, 200]).astype(np.float32)
    objects = FrameObjects(boxes, np.array([4, 5, 6]), np.array([1, 1, 0.5], np.float32))
    return ClipSample(images=[image] * num_frames, objects=[objects] * num_frames)


def extent(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray | None:
    """xyxy in fractions of the pixels nearer to the colour than to grey."""
    near = np.abs(image.astype(int) - colour).sum(-1) < np.abs(np.subtract(colour, 90)).sum() / 2
    rows, columns = np.nonzero(near)
    if not len(rows):
        return None
    size = image.shape[1::-1]
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / np.tile(size, 2)


def test_boxes_and_ids_follow_the_pixels() -> None:
    found = 0
    for seed in range(30):
        clip = CAMERA(still(), np.random.default_rng(seed))
        assert [image.shape for image in clip.images] == [(96, 160, 3)] * 5
        for image, people in zip(clip.images, clip.objects, strict=True):
            assert image.min() < 90 or len(people.ids) == 0
            for track, box in zip(people.ids.tolist(), np.clip(box_cxcywh_to_xyxy(people.boxes), 0, 1), strict=True):
                shown = extent(image, COLOURS[track - 4])
                if shown is not None and (box[2:] - box[:2]).min() > 0.05:
                    np.testing.assert_allclose(shown, box, atol=1.5 / 96)
                    found += 1
    assert found > 200


def test_what_leaves_the_view_is_less_visible_and_then_gone() -> None:
    clips = [CAMERA(still(), np.random.default_rng(seed)) for seed in range(60)]
    shares = []
    for people in (people for clip in clips for people in clip.objects):
        full = np.where(people.ids == 6, 0.5, 1.0)
        corners = box_cxcywh_to_xyxy(people.boxes)
        inside = np.clip(corners, 0, 1)
        share = np.prod(inside[:, 2:] - inside[:, :2], 1) / np.prod(corners[:, 2:] - corners[:, :2], 1)
        np.testing.assert_allclose(people.visibility, full * share, atol=1e-4)
        assert (share > 0).all()
        shares += share.tolist()
    assert min(shares) < 0.3
    assert any(len(people.ids) < 3 for clip in clips for people in clip.objects)
    assert all(any(len(people.ids) for people in clip.objects) for clip in clips), "the view holds somebody"


def test_the_camera_moves_smoothly_and_stays_inside() -> None:
    steps = []
    for seed in range(40):
        clip = SeqStillMotion(96, 160, shake=0.0, occluders=0)(still(6), np.random.default_rng(seed))
        whole = [p.boxes[p.ids == 5][0] for p in clip.objects if 5 in p.ids]
        if len(whole) == 6:
            path = np.array(whole)[:, :2]
            steps.append(np.diff(path, axis=0))
            assert np.abs(np.diff(steps[-1], axis=0)).max() < 0.05  # no jumps; a pixel of the still is up to 0.015
    assert np.abs(np.concatenate(steps)).max() > 0.04
    assert np.mean([np.abs(step).max() for step in steps]) < 0.3


def test_one_random_choice_per_clip_and_the_same_again() -> None:
    for seed in (1, 2):
        one, two = (SeqStillMotion(96, 160)(still(), np.random.default_rng(seed)) for _ in range(2))
        for a, b in zip(one.images, two.images, strict=True):
            np.testing.assert_array_equal(a, b)
    other = SeqStillMotion(96, 160)(still(), np.random.default_rng(3))
    assert not np.array_equal(one.images[0], other.images[0])


def test_a_still_is_left_as_it_is() -> None:
    sample = still()
    before = sample.images[0].copy()
    for seed in range(10):
        SeqStillMotion(96, 160)(sample, np.random.default_rng(seed))
    np.testing.assert_array_equal(sample.images[0], before)
    assert sample.objects[0].visibility.tolist() == [1, 1, 0.5]


def test_the_proportions_of_an_upright_still_are_kept() -> None:
    image = np.full((640, 200, 3), 90, np.uint8)
    image[300:360, 80:120] = COLOURS[0]  # 40 × 60 px
    box = np.array([[100 / 200, 330 / 640, 40 / 200, 60 / 640]], np.float32)
    people = FrameObjects(box, np.array([4]), np.ones(1, np.float32))
    clip = CAMERA(ClipSample(images=[image] * 3, objects=[people] * 3), np.random.default_rng(0))
    width, height = (clip.objects[1].boxes[0, 2:] * [160, 96]).tolist()
    assert width / height == pytest.approx(40 / 60, rel=0.03)


def test_nothing_is_enlarged_beyond_the_largest_view() -> None:
    """The picture is 320×200: more pixels than its view of 16:9 has would only cost time."""
    small, large = (SeqStillMotion(h, w)(still(), np.random.default_rng(5)) for h, w in ((180, 320), (720, 1280)))
    for one, other, boxes, others in zip(small.images, large.images, small.objects, large.objects, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(boxes.boxes, others.boxes)
    assert small.images[0].shape == (180, 320, 3)


def test_things_pass_in_front_of_people() -> None:
    """With the same camera: what differs is what is in front, and whom it hides."""
    pasted = patches = hidden = 0
    for seed in range(60):
        plain, clip = (SeqStillMotion(96, 160, occluders=k)(still(), np.random.default_rng(seed)) for k in (0, 2))
        news = {track for people in clip.objects for track in people.ids.tolist()} - {4, 5, 6}
        assert news <= {7, 8}
        changed = [not np.array_equal(a, b) for a, b in zip(plain.images, clip.images, strict=True)]
        pasted += bool(news)
        patches += any(changed) and not news
        for before, after in zip(plain.objects, clip.objects, strict=True):
            old = after.ids < 7
            np.testing.assert_array_equal(after.boxes[old], before.boxes, "people stay where they were")
            np.testing.assert_array_equal(after.ids[old], before.ids)
            assert (after.visibility[old] <= before.visibility + 1e-6).all()
            hidden += int((after.visibility[old] < 0.7 * before.visibility).sum())
            assert (after.visibility >= 0)[~old].all()  # the second thing may hide the first
    assert pasted > 5
    assert patches > 5
    assert hidden > 50


def test_who_is_pasted_is_where_the_box_says() -> None:
    seen = 0
    for seed in range(60):
        plain, clip = (SeqStillMotion(96, 160, occluders=k)(still(), np.random.default_rng(seed)) for k in (0, 1))
        for before, image, people in zip(plain.images, clip.images, clip.objects, strict=True):
            if 7 not in people.ids:
                continue
            rows, columns = np.nonzero((before != image).any(-1))
            box = np.clip(box_cxcywh_to_xyxy(people.boxes[people.ids == 7])[0], 0, 1) * [160, 96, 160, 96]
            if len(rows):
                assert columns.min() >= box[0] - 0.01
                assert rows.min() >= box[1] - 0.01
                assert columns.max() < box[2] + 0.01
                assert rows.max() < box[3] + 0.01
                seen += 1
    assert seen > 20


def test_the_hidden_share() -> None:
    boxes = np.array([[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.0, 0.5, 0.4, 0.4]])
    front = np.array([0.4, 0.5, 0.2, 0.6], np.float32)  # from 0.3 to 0.5
    np.testing.assert_allclose(_hidden(boxes, front, round=False), [0.5, 0.5, 0, 0], atol=0.01)
    front = np.array([0.5, 0.5, 0.4, 0.4], np.float32)
    assert _hidden(boxes, front, round=True)[0] == pytest.approx(np.pi / 4, abs=0.04)
    assert _hidden(boxes[:0], front, round=True).shape == (0,)


def test_nobody_on_the_still() -> None:
    nobody = FrameObjects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    sample = ClipSample(images=[np.full((200, 320, 3), 90, np.uint8)] * 3, objects=[nobody] * 3)
    for seed in range(5):
        clip = SeqStillMotion(96, 160)(sample, np.random.default_rng(seed))
        assert all(len(people.ids) == 0 for people in clip.objects)
        assert all(people.ids.dtype == np.int64 for people in clip.objects)


def check_clip(clip: ClipSample, motion: SeqStillMotion, ids: set[int]) -> None:
    for image, people in zip(clip.images, clip.objects, strict=True):
        assert image.shape == (motion.height, motion.width, 3)
        assert people.boxes.dtype == people.visibility.dtype == np.float32
        assert len(set(people.ids.tolist())) == len(people.ids)
        assert ((people.visibility >= 0) & (people.visibility <= 1)).all()
    new = {track for people in clip.objects for track in people.ids.tolist()} - ids
    assert len(new) <= motion.occluders


def check_frames_of(folder: Path, motion: SeqStillMotion, num_seeds: int) -> None:
    """Pseudo-clips of the first frame that has anybody."""
    info = read_sequence_info(folder)
    gt = read_annotations(folder / "gt/gt.txt", info).people
    gt = gt.select(gt.frame == gt.frame[0])
    file = info.frame_path(folder, int(gt.frame[0]))
    image = decode_image(file.read_bytes(), file)
    boxes = box_ltwh_to_cxcywh(gt.ltwh) / np.tile(image.shape[1::-1], 2)
    people = FrameObjects(boxes.astype(np.float32), gt.track_id, gt.visibility.astype(np.float32))
    for seed in range(num_seeds):
        clip = motion(ClipSample(images=[image] * 4, objects=[people] * 4), np.random.default_rng(seed))
        check_clip(clip, motion, set(gt.track_id.tolist()))
        assert any(len(people.ids) for people in clip.objects)
        assert not np.array_equal(clip.images[0], clip.images[3])


def test_frames_of_street(tmp_path: Path) -> None:
    config = StreetConfig(num_videos=1, num_unseen=0, num_frames=8, width=240, height=135)
    generate_street(config, tmp_path / "street")
    for folder in find_sequences(tmp_path / "street"):
        check_frames_of(folder, SeqStillMotion(130, 216), 10)


def test_real_frames(mot_root: Path) -> None:
    for folder in find_sequences(mot_root)[:4]:
        check_frames_of(folder, SeqStillMotion(256, 448), 3)
