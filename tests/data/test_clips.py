from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from motrlab.config import Config, smoke
from motrlab.data.clips import ClipBatch, ClipDataset, StepSampler, collate, largest_reduction, make_loader
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.store import FrameStore, SequenceSource, write_store
from motrlab.errors import UserError

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
    base = smoke()
    model = dataclasses.replace(base.model, height=24, width=40)
    return dataclasses.replace(base, model=model, train=dataclasses.replace(base.train, steps=4, stride_max=3))


def dataset(store: FrameStore, config: Config, seed: int = 0, **train: object) -> ClipDataset:
    return ClipDataset(store, dataclasses.replace(config.train, **train), config.model, seed)  # type: ignore[arg-type]


def assert_same(a: ClipBatch, b: ClipBatch) -> None:
    assert torch.equal(a.images, b.images)
    for name in ("boxes", "ids", "visibility"):
        for row_a, row_b in zip(getattr(a, name), getattr(b, name), strict=True):
            assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(row_a, row_b, strict=True))


def test_frames_stay_in_one_sequence(store: FrameStore, config: Config) -> None:
    data = dataset(store, config, reverse_probability=0.5, stride_max=10)
    rng = np.random.default_rng(0)
    names, strides = [], set()
    for _ in range(300):
        name, frames = data.draw_frames(rng, 3)
        steps = set(np.diff(frames).tolist())
        assert len(steps) == 1
        assert min(frames) >= 1
        assert max(frames) <= store.info(name).num_frames
        names.append(name)
        strides |= {(name, *steps)}
    assert strides == {("A", s) for s in (-4, -3, -2, -1, 1, 2, 3, 4)} | {("B", s) for s in (-2, -1, 1, 2)}
    assert names.count("A") == pytest.approx(300 * 9 / 14, abs=30)  # by frames; C is shorter than the clip


def test_clips_longer_than_every_sequence_are_refused(store: FrameStore, config: Config) -> None:
    assert len(dataset(store, config)[0, 0, 9].boxes) == 9
    with pytest.raises(UserError, match="clips of 10 frames, but no sequence has more than 9"):
        dataset(store, config)[0, 0, 10]


def test_a_clip_is_a_function_of_its_key(store: FrameStore, config: Config) -> None:
    for augmentation in ("street", "reference"):
        data, again = (dataset(store, config, augmentation=augmentation) for _ in range(2))
        again[3, 1, 2]  # what was asked before does not matter
        assert_same(collate([data[7, 0, 2]]), collate([again[7, 0, 2]]))
        other = dataset(store, config, seed=1, augmentation=augmentation)
        images = [data[7, 0, 2].images, data[7, 1, 2].images, data[8, 0, 2].images, other[7, 0, 2].images]
        assert not any(torch.equal(images[0], image) for image in images[1:])


def test_only_people_that_count_are_targets(store: FrameStore, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(store, config)
    monkeypatch.setattr(data, "draw_frames", lambda rng, num_frames: ("A", [1, 2, 3, 5]))
    monkeypatch.setattr(
        data, "transform", lambda sample, rng: dataclasses.replace(sample, tensor=torch.zeros(4, 3, 2, 2))
    )
    found = data[0, 0, 4]
    assert [ids.tolist() for ids in found.ids] == [[1], [1], [], [4]]  # flag 0 and class 7 left out
    assert [v.tolist() for v in found.visibility] == [[1.0], [0.25], [], [0.0]]
    expected = torch.tensor([[2 / 96, 25 / 64, 20 / 96, 30 / 64]])
    torch.testing.assert_close(found.boxes[1], expected)
    assert found.boxes[2].shape == (0, 4)
    assert found.ids[0].dtype == torch.int64


def test_the_curriculum(config: Config) -> None:
    train = dataclasses.replace(
        config.train, steps=100, frames_per_step=8, clip_frames=(2, 3, 9), clip_milestones=(0.5, 0.75)
    )
    sampler = StepSampler(train, start_step=98)
    assert [sampler.clip_frames(step) for step in (0, 49, 50, 74, 75, 99)] == [2, 2, 3, 3, 9, 9]
    assert sampler.keys(0) == [(0, 0, 2), (0, 1, 2), (0, 2, 2), (0, 3, 2)]
    assert sampler.keys(50) == [(50, 0, 3), (50, 1, 3)]
    assert list(sampler) == [[(98, 0, 9)], [(99, 0, 9)]]
    assert len(sampler) == 2
    assert len(StepSampler(train, start_step=100)) == 0


def test_batches_survive_the_way_between_processes(store: FrameStore, config: Config) -> None:
    data = dataset(store, config)
    clips = [data[0, i, 3] for i in range(4)]
    batch = collate(clips)
    assert batch.images.shape == (3, 4, 3, 24, 40)
    assert torch.equal(batch.images[2, 1], clips[1].images[2])
    assert batch.boxes[2][1] is clips[1].boxes[2]
    assert_same(batch, pickle.loads(pickle.dumps(batch)))
    assert_same(batch, batch.to("cpu"))
    empty = ClipBatch(images=batch.images[:1, :1], boxes=[[torch.zeros(0, 4)]],
                      ids=[[torch.zeros(0, dtype=torch.int64)]], visibility=[[torch.zeros(0)]])  # fmt: skip
    assert_same(empty, pickle.loads(pickle.dumps(empty)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_goes_on_with_the_same_steps(num_workers: int, store: FrameStore, config: Config) -> None:
    whole = list(make_loader(store, dataclasses.replace(config, num_workers=0)))
    resumed = list(make_loader(store, dataclasses.replace(config, num_workers=num_workers), start_step=1))
    assert len(whole) == 4
    assert len(resumed) == 3
    for a, b in zip(whole[1:], resumed, strict=True):
        assert_same(a, b)


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
