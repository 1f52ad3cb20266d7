from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from motrlab.config import Config
from motrlab.data.clips import (
    ClipDataset,
    LoadedClips,
    StepSampler,
    collate,
    largest_reduction,
    make_loader,
    steps_of_epochs,
)
from motrlab.data.motchallenge import SequenceInfo, read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.preprocess import preprocess
from motrlab.data.store import FrameStore
from motrlab.data.transforms import SeqResize, nv12_chroma
from motrlab.errors import UserError
from tests.tiny import tiny

ROWS = (
    "1,1,10,10,20,30,1,1,1\n1,2,50,10,20,30,0,1,1\n1,3,60,10,20,30,1,7,1\n2,1,-8,10,20,30,1,1,0.25\n"
    "5,4,30,20,10,20,1,1,0\n"
)


@pytest.fixture
def store(make_sequence: Callable[..., Path], tmp_path: Path) -> FrameStore:
    sources = []
    for name, frames in (("A", 9), ("B", 5), ("C", 2)):
        folder = make_sequence(name, num_frames=frames, gt=ROWS if name != "C" else "", seed=frames)
        info = read_sequence_info(folder)
        files = tuple(info.frame_path(folder, frame) for frame in range(1, frames + 1))
        sources.append(SequenceSource(info=info, files=files, annotations=read_annotations(folder / "gt/gt.txt", info)))
    write_store(tmp_path / "lmdb", sources)
    return FrameStore(tmp_path / "lmdb")


@pytest.fixture
def config() -> Config:
    base = tiny()
    model = dataclasses.replace(base.model, height=24, width=40)
    return dataclasses.replace(base, model=model, train=dataclasses.replace(base.train, steps=4, stride_max=3))


def dataset(store: FrameStore, config: Config, seed: int = 0, **train: object) -> ClipDataset:
    return ClipDataset(store, dataclasses.replace(config.train, **train), config.model, seed)  # type: ignore[arg-type]


def assert_same(a: LoadedClips, b: LoadedClips) -> None:
    assert torch.equal(a.pixels, b.pixels)
    for row_a, row_b in zip(a.objects, b.objects, strict=True):
        for x, y in zip(row_a, row_b, strict=True):
            for name in ("boxes", "ids", "visibility"):
                np.testing.assert_array_equal(getattr(x, name), getattr(y, name), strict=True)


def test_frames_stay_in_one_sequence(store: FrameStore, config: Config) -> None:
    data = dataset(store, config, reverse_probability=0.5, stride_max=10)
    rng = np.random.default_rng(0)
    names, strides = [], set()
    for _ in range(300):
        name, frames, _ = data.draw_frames(rng, 3)
        steps = set(np.diff(frames).tolist())
        assert len(steps) == 1
        assert min(frames) >= 1
        assert max(frames) <= store.info(name).num_frames
        names.append(name)
        strides |= {(name, *steps)}
    assert strides == {("A", s) for s in (-4, -3, -2, -1, 1, 2, 3, 4)} | {("B", s) for s in (-2, -1, 1, 2)}
    assert names.count("A") == pytest.approx(300 * 9 / 14, abs=30)  # by frames; C is shorter than the clip


def test_clips_longer_than_every_sequence_are_refused(store: FrameStore, config: Config) -> None:
    assert len(dataset(store, config)[0, 0, 9].objects) == 9
    with pytest.raises(UserError, match="clips of 10 frames, but no sequence has more than 9"):
        dataset(store, config)[0, 0, 10]


def test_a_clip_is_a_function_of_its_key(store: FrameStore, config: Config) -> None:
    for augmentation in ("street", "reference"):
        data, again = (dataset(store, config, augmentation=augmentation) for _ in range(2))
        again[3, 1, 2]  # what was asked before does not matter
        assert_same(collate([data[7, 0, 2]]), collate([again[7, 0, 2]]))
        other = dataset(store, config, seed=1, augmentation=augmentation)
        images = [data[7, 0, 2].images, data[7, 1, 2].images, data[8, 0, 2].images, other[7, 0, 2].images]
        assert not any(np.array_equal(images[0], image) for image in images[1:])


def test_only_people_that_count_are_targets(store: FrameStore, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(store, config)
    monkeypatch.setattr(data, "draw_frames", lambda rng, num_frames: ("A", [1, 2, 3, 5], False))
    monkeypatch.setattr(data, "transform", lambda sample, rng: sample)
    found = data[0, 0, 4].objects
    assert [people.ids.tolist() for people in found] == [[1], [1], [], [4]]  # flag 0 and class 7 left out
    assert [people.visibility.tolist() for people in found] == [[1.0], [0.25], [], [0.0]]
    np.testing.assert_allclose(found[1].boxes, [[2 / 96, 25 / 64, 20 / 96, 30 / 64]], rtol=1e-6)
    assert found[2].boxes.shape == (0, 4)
    assert found[0].ids.dtype == np.int64


def test_the_curriculum(config: Config) -> None:
    train = dataclasses.replace(
        config.train, steps=100, frames_per_step=8, clip_frames=(2, 3, 9), clip_milestones=(0.5, 0.75)
    )
    sampler = StepSampler(train, 16, start_step=98)
    assert [sampler.clip_frames(step) for step in (0, 49, 50, 74, 75, 99)] == [2, 2, 3, 3, 9, 9]
    assert sampler.keys(0) == [(0, 0, 2), (0, 1, 2), (0, 2, 2), (0, 3, 2)]
    assert sampler.keys(50) == [(50, 0, 3), (50, 1, 3)]
    assert list(sampler) == [[(98, 0, 9)], [(99, 0, 9)]]
    assert len(sampler) == 2
    assert len(StepSampler(train, 16, start_step=100)) == 0


def test_the_curriculum_by_epochs(config: Config) -> None:
    """The reference's 2, 3, 4, 5 frames from epochs 0, 100, 180, 240; an epoch of 60 clips at 12 frames a step."""
    train = dataclasses.replace(
        config.train, steps=4000, frames_per_step=12, clip_frames=(2, 3, 4, 5), clip_milestones=(0.1, 0.2, 0.3),
        clip_epochs=(100.0, 180.0, 240.0),
    )  # fmt: skip
    sampler, clips = StepSampler(train, 60), 0
    for step in range(4000):
        length = 2 + sum(step >= end for end in (1000, 2200, 3400))  # 6, 4, 3 and 2 clips a step
        assert sampler.clip_frames(step) == length
        clips += len(sampler.keys(step))
        passed = sum(clips / 60 > epoch for epoch in train.clip_epochs)
        assert length == 2 + passed
    found = [steps_of_epochs(train, 60, epoch) for epoch in (0, 1, 100, 102, 180, 240, 250)]
    assert found == [0, 10, 1000, 1030, 2200, 3400, 3700]


def test_the_loader_counts_epochs_in_the_frames_of_its_store(store: FrameStore, config: Config) -> None:
    train = dataclasses.replace(
        config.train, steps=20, frames_per_step=4, clip_frames=(1, 2), clip_milestones=(0.5,), clip_epochs=(2.0,)
    )
    loader = make_loader(store, dataclasses.replace(config, train=train))
    lengths = [clips.pixels.shape[0] for clips in loader]
    assert lengths == [1] * 8 + [2] * 12  # 16 frames: two epochs are 32 clips, four a step


def write_grey_videos(folder: Path, names: dict[str, int], num_frames: int) -> FrameStore:
    """Videos whose every frame is one grey, `names[video] + frame`, so that a picture says which one it is.

    Ids 1 and 2 are in all of them; frame f has person 1 at x = f, person 2 from frame 3 on only.
    """
    sources = []
    for name, level in names.items():
        info = SequenceInfo(name=name, num_frames=num_frames, width=64, height=32, frame_rate=10.0)
        (folder / name).mkdir(parents=True)
        rows = []
        for frame in range(1, num_frames + 1):
            cv2.imwrite(str(folder / name / f"{frame:06d}.jpg"), np.full((32, 64, 3), level + frame, np.uint8))
            rows += [
                f"{frame},{who},{frame},{level // 10},6,12,1,1,{1 / who}" for who in (1, 2) if who == 1 or frame > 2
            ]
        (folder / name / "gt.txt").write_text("\n".join(rows))
        files = tuple(folder / name / f"{frame:06d}.jpg" for frame in range(1, num_frames + 1))
        annotations = read_annotations(folder / name / "gt.txt", info)
        sources.append(SequenceSource(info=info, files=files, annotations=annotations))
    write_store(folder / "lmdb", sources)
    return FrameStore(folder / "lmdb")


def test_pictures_and_people_of_a_clip_are_of_one_video(tmp_path: Path, config: Config) -> None:
    """Two videos with the same ids: every frame's picture and boxes belong to one of them, and to one frame."""
    levels = {"A": 40, "B": 140}
    data = dataset(write_grey_videos(tmp_path, levels, 12), config, stride_max=10, reverse_probability=0.5)
    data.transform = SeqResize([(32, 64)])
    seen = set()
    for index in range(80):
        clip = data[0, index, 3]
        greys = [round(float(image.mean())) for image in clip.images]
        (level,) = {level for level in levels.values() for grey in greys if 0 < grey - level <= 12}
        frames = [grey - level for grey in greys]
        assert len(set(np.diff(frames).tolist())) == 1
        for frame, people in zip(frames, clip.objects, strict=True):
            assert people.ids.tolist() == ([1, 2] if frame > 2 else [1])
            np.testing.assert_allclose(
                people.boxes[0] * [64, 32, 64, 32], [frame + 3.0, level // 10 + 6, 6, 12], rtol=1e-5
            )
            assert people.visibility.tolist() == [1.0, 0.5][: len(people.ids)]
        seen.add(level)
    assert seen == set(levels.values())


def test_people_of_any_visibility_stay_in_the_clip(store: FrameStore, config: Config) -> None:
    """Leaving out and ignoring are the assignment's: either way the clip has the person and its visibility."""
    for below in ("leave_out", "ignore"):
        data = dataset(store, config, min_visibility=0.5, below_visibility=below, augmentation="street")
        found = [clip for i in range(60) for clip in [data[0, i, 2]]]
        low = [v for clip in found for people in clip.objects for v in people.visibility.tolist() if v < 0.5]
        assert 0.0 in low
        assert any(0 < v <= 0.25 for v in low)


def test_frames_without_people_make_a_clip(store: FrameStore, config: Config) -> None:
    """C has nobody at all, most frames of A have nobody."""
    data = dataset(store, config, augmentation="reference")
    empty = [clip for i in range(40) for clip in [data[0, i, 2]] if not any(len(p.ids) for p in clip.objects)]
    assert empty
    batch = collate(empty[:2])
    assert all(people.boxes.shape == (0, 4) for row in batch.objects for people in row)
    assert_same(batch, pickle.loads(pickle.dumps(batch)))


@pytest.mark.parametrize("nv12", [False, True])
def test_images_travel_as_bytes_and_become_input_where_they_are_used(
    nv12: bool, store: FrameStore, config: Config
) -> None:
    data = dataset(store, config, nv12=nv12)
    clips = [data[0, i, 3] for i in range(2)]
    batch = collate(clips)
    assert batch.pixels.dtype == torch.uint8
    ready = pickle.loads(pickle.dumps(batch)).to("cpu")
    assert ready.images.dtype == torch.float32
    assert isinstance(ready.objects[0][0].boxes, np.ndarray)  # decisions are made in NumPy, whatever the device
    for i, clip in enumerate(clips):
        expected = torch.stack([torch.from_numpy(preprocess(image, 24, 40)) for image in clip.images])
        expected = nv12_chroma(expected * 128 + 128) / 128 - 1 if nv12 else expected
        assert torch.equal(ready.images[:, i], expected)


def test_batches_survive_the_way_between_processes(store: FrameStore, config: Config) -> None:
    data = dataset(store, config)
    clips = [data[0, i, 3] for i in range(4)]
    batch = collate(clips)
    assert batch.pixels.shape == (3, 4, 24, 40, 3)
    np.testing.assert_array_equal(batch.pixels[2, 1], clips[1].images[2])
    assert batch.objects[2][1] is clips[1].objects[2]
    assert_same(batch, pickle.loads(pickle.dumps(batch)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_goes_on_with_the_same_steps(num_workers: int, store: FrameStore, config: Config) -> None:
    whole = list(make_loader(store, dataclasses.replace(config, num_workers=0)))
    resumed = list(make_loader(store, dataclasses.replace(config, num_workers=num_workers), start_step=1))
    assert len(whole) == 4
    assert len(resumed) == 3
    for a, b in zip(whole[1:], resumed, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize(("free", "num_workers"), [(2**20, 0), (2**22, 2)])
def test_a_small_shared_memory_gets_no_loader_processes(
    free: int, num_workers: int, store: FrameStore, config: Config, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """/dev/shm of a container is often small; torch would end in an error of 70 lines."""
    monkeypatch.setattr("motrlab.data.clips.shared_memory_free", lambda: free)
    loader = make_loader(store, dataclasses.replace(config, num_workers=2))
    assert loader.num_workers == num_workers
    assert ("/dev/shm has 1.0 MB free" in capsys.readouterr().err) == (num_workers == 0)
    if not num_workers:
        assert_same(next(iter(loader)), next(iter(make_loader(store, dataclasses.replace(config, num_workers=0)))))


@pytest.mark.parametrize(
    ("size", "needed", "reduce"),
    [((1080, 1920), (259, 432), 4), ((270, 480), (259, 432), 1), ((540, 960), (270, 480), 2), ((8000, 9000), (1, 1), 8),
     ((370, 1224), (259, 432), 1)],
    ids=["1080p", "street", "exactly", "at most 8", "short side"],
)  # fmt: skip
def test_pictures_are_decoded_no_larger_than_useful(
    size: tuple[int, int], needed: tuple[float, float], reduce: int
) -> None:
    assert largest_reduction(*size, *needed) == reduce


def write_stills(folder: Path) -> FrameStore:
    """A video of grey frames with nobody, and three stills of two sizes: a person, nobody, two people; ids 1, 2, 3."""
    (folder / "video").mkdir(parents=True)
    sources, sizes = [], [(40, 20), (64, 32), (120, 240)]
    for name, shapes, rows in (
        ("V", [(64, 32)] * 4, []),
        (
            "S",
            sizes,
            ["1,1,10,5,10,10,1,1,1", "3,2,0,0,60,120,1,1,0.5", "3,3,60,120,60,120,1,1,1", "3,4,1,1,5,5,0,1,1"],
        ),
    ):
        files = tuple(folder / "video" / f"{name}{i}.jpg" for i in range(1, len(shapes) + 1))
        for level, (file, (width, height)) in enumerate(zip(files, shapes, strict=True)):
            cv2.imwrite(str(file), np.full((height, width, 3), 60 + 60 * level, np.uint8))
        width, height = np.max(shapes, axis=0).tolist()
        info = SequenceInfo(
            name=name, num_frames=len(files), width=width, height=height, frame_rate=1.0, stills=name == "S"
        )
        (folder / f"{name}.txt").write_text("\n".join(rows))
        annotations = read_annotations(folder / f"{name}.txt", info)
        sources.append(SequenceSource(info=info, files=files, annotations=annotations))
    write_store(folder / "lmdb", sources)
    return FrameStore(folder / "lmdb")


def test_stills_are_drawn_by_their_share_and_only_those_with_people(tmp_path: Path, config: Config) -> None:
    store = write_stills(tmp_path)
    assert [info.name for info in store.sequences] == ["V"]
    assert [info.name for info in store.stills] == ["S"]
    drawn = {}
    for share in (0.0, 0.4, 1.0):
        data = dataset(store, config, still_share=share)
        found = [data.draw_frames(np.random.default_rng(i), 3) for i in range(200)]
        drawn[share] = np.mean([name == "S" for name, *_ in found])
        assert {frame for name, frames, _ in found if name == "S" for frame in frames} <= {1, 3}
        assert all(len(set(frames)) == (1 if name == "S" else 3) for name, frames, _ in found)
        assert all(still == (name == "S") for name, _, still in found)
    assert drawn[0.0] == 0
    assert drawn[0.4] == pytest.approx(0.4, abs=0.08)
    assert drawn[1.0] == 1
    loader = make_loader(store, dataclasses.replace(config, num_workers=0))
    assert loader.dataset.num_frames() == 4  # type: ignore[attr-defined]


def test_boxes_of_stills_are_fractions_of_their_own_size(tmp_path: Path, config: Config) -> None:
    data = dataset(write_stills(tmp_path), config)
    first, third = (data.load("S", [frame, frame]) for frame in (1, 3))
    assert first.images[0].shape == (20, 40, 3)
    np.testing.assert_allclose(first.objects[1].boxes, [[15 / 40, 10 / 20, 10 / 40, 10 / 20]], rtol=1e-5)
    assert third.images[0].shape[0] == 120, "decoded no larger than useful"
    np.testing.assert_allclose(third.objects[0].boxes[:2], [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]], rtol=1e-5)
    assert third.objects[0].ids.tolist() == [2, 3, 4]
    assert third.objects[0].visibility.tolist() == [0.5, 1, -1], "flag 0: a region to be ignored"


@pytest.mark.parametrize("augmentation", ["street", "reference"])
def test_pseudo_clips_are_batched_with_clips_of_videos(augmentation: str, tmp_path: Path, config: Config) -> None:
    data = dataset(write_stills(tmp_path), config, still_share=0.5, augmentation=augmentation)
    clips = [data[0, i, 3] for i in range(12)]
    batch = collate(clips)
    assert batch.pixels.shape == (3, 12, 24, 40, 3)
    with_people = [clip for clip in clips if any(len(people.ids) for people in clip.objects)]
    assert 0 < len(with_people) < 12
    assert any(not np.array_equal(clip.objects[0].boxes, clip.objects[2].boxes) for clip in with_people)
    assert_same(batch, collate([data[0, i, 3] for i in range(12)]))


def test_frames_of_videos_are_stills_where_there_are_no_others(store: FrameStore, config: Config) -> None:
    data = dataset(store, config, still_share=1.0)
    found = {data.draw_still(np.random.default_rng(i)) for i in range(60)}
    assert found == {("A", 1), ("A", 2), ("A", 5), ("B", 1), ("B", 2), ("B", 5)}  # those with somebody who counts
    assert len(data[0, 0, 20].images) == 20  # however short the videos are


def test_a_share_of_clips_has_people_of_another_time(tmp_path: Path, config: Config) -> None:
    """One person walks to the right through six frames of a flat picture with an edge in it."""
    rows = [f"{frame},1,{10 * frame},10,8,20,1,1,1" for frame in range(1, 7)]
    info = SequenceInfo(name="V", num_frames=6, width=96, height=64, frame_rate=1.0)
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:, 80:] = 200
    files = tuple(tmp_path / f"{frame}.png" for frame in range(1, 7))
    for file in files:
        cv2.imwrite(str(file), image)
    (tmp_path / "gt.txt").write_text("\n".join(rows))
    source = SequenceSource(info=info, files=files, annotations=read_annotations(tmp_path / "gt.txt", info))
    write_store(tmp_path / "lmdb", [source])
    counts = {}
    for share in (0.0, 0.5, 1.0):
        data = dataset(FrameStore(tmp_path / "lmdb"), config, crowd_share=share, stride_max=1)
        data.transform = lambda sample, rng: sample
        counts[share] = [[len(people.ids) for people in data[0, i, 2].objects] for i in range(40)]
        assert all(a == b for a, b in counts[share]), "a guest walks along"
    assert counts[0.0] == [[1, 1]] * 40
    assert 5 < sum(count == [2, 2] for count in counts[0.5]) < 25
    assert sum(count == [2, 2] for count in counts[1.0]) > 25  # the others drew the same place
    draws = [data.another_time(np.random.default_rng(i), "V", [5, 3]) for i in range(60)]
    assert {tuple(frames) for frames in draws} == {(first, first + 2) for first in range(1, 5)}


def test_a_clip_of_one_frame_is_a_view_of_its_still(tmp_path: Path, config: Config) -> None:
    data = dataset(write_stills(tmp_path), config, still_share=1.0, crowd_share=1.0)
    data.transform = lambda sample, rng: sample
    views = [data[0, i, 1].images[0] for i in range(6)]
    stills = [data.load("S", [frame]).images[0] for frame in (1, 3)]
    assert not any(np.array_equal(view, still) for view in views for still in stills)


def test_stills_alone_are_no_videos(tmp_path: Path, make_sequence: Callable[..., Path], config: Config) -> None:
    folder = make_sequence("S", num_frames=2, gt="")
    info = dataclasses.replace(read_sequence_info(folder), stills=True)
    files = tuple(info.frame_path(folder, frame) for frame in (1, 2))
    annotations = read_annotations(folder / "gt/gt.txt", info)
    write_store(tmp_path / "lmdb", [SequenceSource(info=info, files=files, annotations=annotations)])
    with pytest.raises(UserError, match=r"stills only, no video to train on; set train\.still_share=1"):
        dataset(FrameStore(tmp_path / "lmdb"), config)
    with pytest.raises(UserError, match="nobody on any still"):
        dataset(FrameStore(tmp_path / "lmdb"), config, still_share=1.0)[0, 0, 2]
