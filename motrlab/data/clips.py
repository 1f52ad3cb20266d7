"""Training clips: which frames, cut into steps by the curriculum, as batches of one length.

A clip is a pure function of `(seed, step, index)`, so training resumed at a step sees what it would have seen.
Shapes: T frames of a clip, B clips of a step, H × W the network's input.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from motrlab.boxes import box_ltwh_to_cxcywh
from motrlab.config import Config, ModelConfig, TrainConfig
from motrlab.data.crowding import crowded
from motrlab.data.motchallenge import SequenceInfo
from motrlab.data.pictures import Image, decode_image
from motrlab.data.still_motion import SeqStillMotion
from motrlab.data.store import FrameStore
from motrlab.data.transforms import ClipSample, FrameObjects, network_input, transform_set
from motrlab.data.validate import picture_size
from motrlab.data.workers import shared_memory_free
from motrlab.errors import UserError, tell

ClipKey = tuple[int, int, int]  # step, index in the step, number of frames
_PREFETCHED = 4  # batches that a loader process makes ahead
_QUEUES = 1 << 20  # bytes of shared memory, more than enough for the semaphores of their queues
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
Objects = list[list[FrameObjects]]  # [frame][clip]


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """B clips of T frames as the network takes them: `images float32 [T, B, 3, H, W]`. `objects[t][b]` are in main
    memory whatever the device.
    """

    images: torch.Tensor
    objects: Objects


@dataclass(frozen=True, kw_only=True)
class LoadedClips:
    """The same as a loader delivers them: `pixels uint8 [T, B, H, W, 3]`, BGR at the network's size, which is a quarter
    of the bytes between processes and to a device. `nv12`: how they become input, see `network_input`.
    """

    pixels: torch.Tensor
    objects: Objects
    nv12: bool = False

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The network's input, on a device."""
        pixels = self.pixels.to(device, non_blocking=non_blocking)
        return ClipBatch(images=network_input(pixels, nv12=self.nv12), objects=self.objects)


def collate(clips: Sequence[ClipSample]) -> LoadedClips:
    """Clips of one length → a batch."""
    # In a loader worker this stacks straight into memory that the trainer sees.
    pixels = default_collate([torch.from_numpy(np.stack(clip.images)) for clip in clips])
    objects = [list(row) for row in zip(*(clip.objects for clip in clips), strict=True)]
    return LoadedClips(pixels=pixels.transpose(0, 1), objects=objects, nv12=clips[0].nv12)


class SequencePeople:
    """A sequence's people (or other tracked objects) by frame: flag not 0, boxes as fractions.

    Of stills also the regions to be ignored, with visibility -1. (In videos flag 0 is mostly of what is no person.)
    """

    def __init__(self, store: FrameStore, name: str) -> None:
        info = store.info(name)
        labels = store.annotations(name)
        counted = labels.counts(info.tracked)
        people = labels.select(counted | (labels.regions(info.tracked) & info.stills))
        size = np.array([info.width, info.height, info.width, info.height])
        self._boxes = (box_ltwh_to_cxcywh(people.ltwh) / size).astype(np.float32)
        self._ids = people.track_id
        self._visibility = np.where(people.flag != 0, people.visibility, -1).astype(np.float32)
        self._kinds = info.tracked.kinds(people.class_id).clip(0)
        self._first = np.searchsorted(people.frame, np.arange(1, info.num_frames + 2))  # row of each frame's first box
        self.frames = np.unique(labels.frame[counted])  # that have anybody

    def at(self, frame: int) -> FrameObjects:
        """Those of a frame, counted from 1."""
        rows = slice(self._first[frame - 1], self._first[frame])
        return FrameObjects(self._boxes[rows], self._ids[rows], self._visibility[rows], self._kinds[rows])


class ClipDataset(Dataset[ClipSample]):
    """Maps a `ClipKey` to a clip: frames of one sequence, evenly spaced, augmented by one random choice.

    Videos are drawn in proportion to their frames, those shorter than the clip never. The stride is drawn from
    1 to `stride_max` and shortened where the video is too short for it.

    A share of `still_share` are pseudo-clips: one still image with somebody on it, every frame of the clip, moved by
    `SeqStillMotion`. Stills are the store's; where it has none, the frames of its videos. Raises UserError for an empty
    store, for one of other classes than the model's, and where clips of videos are wanted and there are none.
    """

    def __init__(self, store: FrameStore, config: TrainConfig, model: ModelConfig, seed: int) -> None:
        if not (store.sequences or store.stills):
            raise UserError(f"{store.path}: no sequences to train on")
        if not store.sequences and config.still_share < 1:
            raise UserError(f"{store.path}: stills only, no video to train on; set train.still_share=1, or add videos")
        store.classes.check(model.num_classes, str(store.path))
        self.store, self.config, self.model, self.seed = store, config, model, seed
        chosen = transform_set(config.augmentation)
        self.transform, self._useful_scale = chosen(model, config.colour_jitter), chosen.useful_scale
        self._needed = model.height * self._useful_scale, model.width * self._useful_scale
        self.still_motion = SeqStillMotion(*map(round, self._needed))
        self._people: dict[str, SequencePeople] = {}
        self._stills: tuple[list[str], NDArray[np.int64]] | None = None  # names, and where each ends among all stills

    def __getitem__(self, key: ClipKey) -> ClipSample:
        step, index, num_frames = key
        rng = np.random.default_rng((self.seed, step, index))
        name, frames, still = self.draw_frames(rng, num_frames)
        sample = self.load(name, frames)
        if still:
            sample = self.still_motion(sample, rng)
        elif self.config.crowd_share and rng.random() < self.config.crowd_share:
            sample = crowded(sample, self.load(name, self.another_time(rng, name, frames)))
        return self.transform(sample, rng)

    def num_frames(self) -> int:
        """Frames of an epoch: of all videos, or of all stills where there is no video."""
        return sum(info.num_frames for info in self.store.sequences or self.store.stills)

    def lengths(self, num_frames: int) -> NDArray[np.int64]:
        """Frames of every video, 0 of those with fewer than `num_frames`. Raises UserError if these are all."""
        lengths = np.array([info.num_frames for info in self.store.sequences], np.int64)
        if self.config.still_share < 1 and lengths.max() < num_frames:
            longest = f"no sequence has more than {lengths.max()}"
            raise UserError(f"{self.store.path}: clips of {num_frames} frames, but {longest}")
        return np.where(lengths < num_frames, 0, lengths)

    def draw_frames(self, rng: np.random.Generator, num_frames: int) -> tuple[str, list[int], bool]:
        """A sequence's name, `num_frames` of its frames, and whether they are to be a pseudo-clip: all are one still.

        Raises UserError when every video is shorter.
        """
        if self.config.still_share and rng.random() < self.config.still_share:
            name, frame = self.draw_still(rng)
            return name, [frame] * num_frames, True
        return *self.draw_video(rng, num_frames), False

    def draw_video(self, rng: np.random.Generator, num_frames: int) -> tuple[str, list[int]]:
        """The same of videos alone."""
        lengths = self.lengths(num_frames)
        info = self.store.sequences[rng.choice(len(lengths), p=lengths / lengths.sum())]
        stride = int(rng.integers(1, self.config.stride_max + 1))
        stride = min(stride, (info.num_frames - 1) // max(1, num_frames - 1))
        first = int(rng.integers(1, info.num_frames - stride * (num_frames - 1) + 1))
        frames = [first + stride * i for i in range(num_frames)]
        if rng.random() < self.config.reverse_probability:
            frames.reverse()
        return info.name, frames

    def another_time(self, rng: np.random.Generator, name: str, frames: Sequence[int]) -> list[int]:
        """As many frames of a sequence, as far apart, from another place."""
        span = max(frames) - min(frames)
        first = int(rng.integers(1, self.store.info(name).num_frames - span + 1))
        return [first + abs(frame - frames[0]) for frame in frames]

    def draw_still(self, rng: np.random.Generator) -> tuple[str, int]:
        """A sequence's name and a frame of it with people. Raises UserError where there is none."""
        if self._stills is None:
            names = [info.name for info in self.store.stills or self.store.sequences]
            self._stills = names, np.cumsum([len(self.people(name).frames) for name in names])
        names, ends = self._stills
        if not ends[-1]:
            raise UserError(f"{self.store.path}: nobody on any still; train.still_share needs images with people")
        index = int(rng.integers(ends[-1]))
        which = int(np.searchsorted(ends, index, side="right"))
        frames = self.people(names[which]).frames
        return names[which], int(frames[index - ends[which] + len(frames)])

    def people(self, name: str) -> SequencePeople:
        """A sequence's, read once."""
        if name not in self._people:
            self._people[name] = SequencePeople(self.store, name)
        return self._people[name]

    def load(self, name: str, frames: Sequence[int]) -> ClipSample:
        """Those frames of a sequence as they are, decoded no larger than the augmentation can make use of."""
        info = self.store.info(name)
        found = {frame: self._frame(info, frame) for frame in dict.fromkeys(frames)}
        images, objects = ([found[frame][i] for frame in frames] for i in range(2))
        return ClipSample(images=images, objects=objects, nv12=self.config.nv12)  # type: ignore[arg-type]

    def _frame(self, info: SequenceInfo, frame: int) -> tuple[Image, FrameObjects]:
        people = self.people(info.name).at(frame)
        if not info.stills:
            reduce = largest_reduction(info.height, info.width, *self._needed)
            return self.store.image(info.name, frame, reduce), people
        data = self.store.frame_bytes(info.name, frame)
        width, height = picture_size(data)  # each has its own
        image = decode_image(
            data, f"{self.store.path}: still {frame} of {info.name}", largest_reduction(height, width, *self._needed)
        )
        grown = np.array([info.width / width, info.height / height] * 2, np.float32)
        return image, replace(people, boxes=people.boxes * grown)


def largest_reduction(height: int, width: int, needed_height: float, needed_width: float) -> int:
    """The largest of 1, 2, 4, 8 by which a picture may be decoded smaller and keep at least the needed size."""
    return next((r for r in (8, 4, 2) if height / r >= needed_height and width / r >= needed_width), 1)


def steps_of_epochs(config: TrainConfig, num_frames: int, epochs: float) -> float:
    """Steps until `epochs` are over, where `num_frames` are trained on and `clip_epochs` rule the clip length.

    An epoch is as many clips as there are frames: every frame begins one clip of it on average. A step has fewer
    clips the longer they are, so later epochs take more steps.
    """
    starts = (0.0, *config.clip_epochs)
    ends = (*config.clip_epochs, math.inf)
    return sum(
        max(0.0, min(end, epochs) - start) * num_frames / _clips_per_step(config, length)
        for start, end, length in zip(starts, ends, config.clip_frames, strict=True)
    )


def _clips_per_step(config: TrainConfig, clip_frames: int) -> int:
    return config.clips_per_step or max(1, config.frames_per_step // clip_frames)


class StepSampler(Sampler[list[ClipKey]]):
    """The keys of every step from `start_step` to the end of a training on `num_frames` frames.

    Of several processes (`world`) the one numbered `rank` gets its share of every step's clips.
    """

    def __init__(
        self, config: TrainConfig, num_frames: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.config, self.start_step, self.rank, self.world = config, start_step, rank, world
        self.milestones = [fraction * config.steps for fraction in config.clip_milestones]
        if config.clip_epochs:
            self.milestones = [steps_of_epochs(config, num_frames, epoch) for epoch in config.clip_epochs]

    def clip_frames(self, step: int) -> int:
        """Frames of a clip: `clip_frames[i]` after `i` of the milestones have passed."""
        return self.config.clip_frames[sum(step >= milestone for milestone in self.milestones)]

    def keys(self, step: int) -> list[ClipKey]:
        num_frames = self.clip_frames(step)
        return [(step, i, num_frames) for i in range(_clips_per_step(self.config, num_frames))]

    def micro_batches(self, step: int) -> list[list[ClipKey]]:
        """The keys of this process: every `world`-th of the step's, dealt in turn to `accumulate` micro-batches."""
        own, parts = self.keys(step)[self.rank :: self.world], self.config.accumulate
        return [own[i::parts] for i in range(parts)]

    def __iter__(self) -> Iterator[list[ClipKey]]:
        return (keys for step in range(self.start_step, self.config.steps) for keys in self.micro_batches(step))

    def __len__(self) -> int:
        return max(0, self.config.steps - self.start_step) * self.config.accumulate


def start_worker(_: int) -> None:
    """For a loader's worker process: one thread, and memory that is kept for the next picture."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process keep what it frees: the next picture, or the next step, takes as much again."""
    with contextlib.suppress(OSError, AttributeError):  # not every system has glibc
        # glibc gives blocks of megabytes back at once, and getting them again costs a page fault for every 4 kB.
        for threshold in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            ctypes.CDLL("libc.so.6").mallopt(threshold, 1 << 30)


def make_loader(
    store: FrameStore, config: Config, start_step: int = 0, rank: int = 0, world: int = 1
) -> DataLoader[Any]:
    """`LoadedClips` of each micro-batch (`StepSampler`) from `start_step`, in order.

    In `config.num_workers` processes, or in this one where the shared memory has no room for what they hand over; the
    clips are the same.
    """
    data = ClipDataset(store, config.train, config.model, config.seed)
    workers: dict[str, Any] = {"worker_init_fn": start_worker, "persistent_workers": True}
    workers |= {"num_workers": _num_workers(config), "prefetch_factor": _PREFETCHED}
    return DataLoader(
        data,
        batch_sampler=StepSampler(config.train, data.num_frames(), start_step, rank, world),
        collate_fn=collate,
        **(workers if workers["num_workers"] else {}),
    )


def _num_workers(config: Config) -> int:
    train, model = config.train, config.model
    frames = max(length * _clips_per_step(train, length) for length in train.clip_frames)
    batches = config.num_workers * _PREFETCHED + 1  # and the one that is worked on
    needed, free = _QUEUES + batches * frames * model.height * model.width * 3, shared_memory_free()
    if not config.num_workers or needed <= free:
        return config.num_workers
    told = f"/dev/shm has {free / 1e6:.1f} MB free, processes that load clips need {needed / 1e6:.1f}"
    tell(f"motrlab: {told}: clips are loaded in this one, which takes longer (in a container: --shm-size=1g)")
    return 0
