"""Training clips: which frames, cut into steps by the curriculum, as batches of one length.

A clip is a pure function of `(seed, step, index)`, so training resumed at a step sees what it would have seen.
Shapes: T frames of a clip, B clips of a step, H × W the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from motrlab.boxes import box_ltwh_to_cxcywh
from motrlab.config import Config, ModelConfig, TrainConfig
from motrlab.data.store import FrameStore
from motrlab.data.transforms import TRAINING_TRANSFORMS, USEFUL_SCALE, ClipSample
from motrlab.errors import UserError

ClipKey = tuple[int, int, int]  # step, index in the step, number of frames


@dataclass(frozen=True, kw_only=True)
class Clip:
    """`images float32 [T, 3, H, W]`, the network's input. Per frame, T of each: `boxes float32 [n, 4]` cxcywh in
    fractions of the picture, possibly reaching outside it; `ids int64 [n]`, one per person throughout the clip;
    `visibility float32 [n]`, 0 to 1.
    """

    images: torch.Tensor
    boxes: list[torch.Tensor]
    ids: list[torch.Tensor]
    visibility: list[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """`images float32 [T, B, 3, H, W]`; `boxes[t][b]`, `ids[t][b]`, `visibility[t][b]` as in `Clip`."""

    images: torch.Tensor
    boxes: list[list[torch.Tensor]]
    ids: list[list[torch.Tensor]]
    visibility: list[list[torch.Tensor]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The batch on another device."""

        def move(values: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
            return [[v.to(device, non_blocking=non_blocking) for v in row] for row in values]

        images = self.images.to(device, non_blocking=non_blocking)
        return ClipBatch(images=images, boxes=move(self.boxes), ids=move(self.ids), visibility=move(self.visibility))

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader worker sends every tensor through a file of its own: join the many small ones.
        counts = [[len(ids) for ids in row] for row in self.ids]
        flat = [torch.cat([v for row in rows for v in row]).numpy() for rows in (self.boxes, self.ids, self.visibility)]
        return _rebuild_batch, (self.images, counts, *flat)


def _rebuild_batch(
    images: torch.Tensor,
    counts: list[list[int]],
    boxes: NDArray[np.float32],
    ids: NDArray[np.int64],
    visibility: NDArray[np.float32],
) -> ClipBatch:
    num_clips = images.shape[1]
    lengths = [n for row in counts for n in row]

    def split(values: NDArray[Any]) -> list[list[torch.Tensor]]:
        parts = torch.from_numpy(values).split(lengths)
        return [list(parts[i : i + num_clips]) for i in range(0, len(parts), num_clips)]

    return ClipBatch(images=images, boxes=split(boxes), ids=split(ids), visibility=split(visibility))


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Clips of one length → a batch."""
    num_frames = len(clips[0].boxes)

    def turn(values: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        return [[clip[t] for clip in values] for t in range(num_frames)]

    return ClipBatch(
        images=torch.stack([clip.images for clip in clips], dim=1),
        boxes=turn([clip.boxes for clip in clips]),
        ids=turn([clip.ids for clip in clips]),
        visibility=turn([clip.visibility for clip in clips]),
    )


class _People:
    """A sequence's people by frame: flag 1 and class 1, boxes as fractions."""

    def __init__(self, store: FrameStore, name: str) -> None:
        info, people = store.info(name), store.annotations(name).people
        size = np.array([info.width, info.height, info.width, info.height])
        self.boxes = (box_ltwh_to_cxcywh(people.ltwh) / size).astype(np.float32)
        self.ids = people.track_id
        self.visibility = people.visibility.astype(np.float32)
        self.first = np.searchsorted(people.frame, np.arange(1, info.num_frames + 2))  # row of each frame's first box

    def rows(self, frame: int) -> slice:
        return slice(self.first[frame - 1], self.first[frame])


class ClipDataset(Dataset[Clip]):
    """Maps a `ClipKey` to a clip: frames of one sequence, evenly spaced, augmented by one random choice.

    Sequences are drawn in proportion to their frames, those shorter than the clip never. The stride is drawn from
    1 to `stride_max` and shortened where the sequence is too short for it. Raises UserError for an empty store.
    """

    def __init__(self, store: FrameStore, config: TrainConfig, model: ModelConfig, seed: int) -> None:
        if not store.sequences:
            raise UserError(f"{store.path}: no sequences to train on")
        self.store, self.config, self.model, self.seed = store, config, model, seed
        self.transform = TRAINING_TRANSFORMS[config.augmentation](model)
        self._people: dict[str, _People] = {}

    def __getitem__(self, key: ClipKey) -> Clip:
        step, index, num_frames = key
        rng = np.random.default_rng((self.seed, step, index))
        name, frames = self.draw_frames(rng, num_frames)
        sample = self.transform(self._load(name, frames), rng)
        return Clip(
            images=sample.tensor,
            boxes=[torch.from_numpy(v) for v in sample.boxes],
            ids=[torch.from_numpy(v) for v in sample.ids],
            visibility=[torch.from_numpy(v) for v in sample.visibility],
        )

    def draw_frames(self, rng: np.random.Generator, num_frames: int) -> tuple[str, list[int]]:
        """A sequence's name and `num_frames` of its frames. Raises UserError when every sequence is shorter."""
        lengths = np.array([s.num_frames if s.num_frames >= num_frames else 0 for s in self.store.sequences])
        if not lengths.any():
            longest = max(s.num_frames for s in self.store.sequences)
            raise UserError(f"{self.store.path}: clips of {num_frames} frames, but no sequence has more than {longest}")
        info = self.store.sequences[rng.choice(len(lengths), p=lengths / lengths.sum())]
        stride = int(rng.integers(1, self.config.stride_max + 1))
        stride = min(stride, (info.num_frames - 1) // max(1, num_frames - 1))
        first = int(rng.integers(1, info.num_frames - stride * (num_frames - 1) + 1))
        frames = [first + stride * i for i in range(num_frames)]
        if rng.random() < self.config.reverse_probability:
            frames.reverse()
        return info.name, frames

    def _load(self, name: str, frames: list[int]) -> ClipSample:
        if name not in self._people:
            self._people[name] = _People(self.store, name)
        people = self._people[name]
        info, rows = self.store.info(name), [people.rows(frame) for frame in frames]
        useful = USEFUL_SCALE[self.config.augmentation]
        reduce = largest_reduction(info.height, info.width, self.model.height * useful, self.model.width * useful)
        return ClipSample(
            images=[self.store.image(name, frame, reduce) for frame in frames],
            boxes=[people.boxes[r] for r in rows],
            ids=[people.ids[r] for r in rows],
            visibility=[people.visibility[r] for r in rows],
        )


def largest_reduction(height: int, width: int, needed_height: float, needed_width: float) -> int:
    """The largest of 1, 2, 4, 8 by which a picture may be decoded smaller and keep at least the needed size."""
    return next((r for r in (8, 4, 2) if height / r >= needed_height and width / r >= needed_width), 1)


class StepSampler(Sampler[list[ClipKey]]):
    """The keys of every step from `start_step` to the end of the training."""

    def __init__(self, config: TrainConfig, start_step: int = 0) -> None:
        self.config, self.start_step = config, start_step

    def clip_frames(self, step: int) -> int:
        """Frames of a clip: `clip_frames[i]` after `i` of the milestones have passed."""
        passed = sum(step >= milestone * self.config.steps for milestone in self.config.clip_milestones)
        return self.config.clip_frames[passed]

    def keys(self, step: int) -> list[ClipKey]:
        num_frames = self.clip_frames(step)
        return [(step, i, num_frames) for i in range(max(1, self.config.frames_per_step // num_frames))]

    def __iter__(self) -> Iterator[list[ClipKey]]:
        return (self.keys(step) for step in range(self.start_step, self.config.steps))

    def __len__(self) -> int:
        return max(0, self.config.steps - self.start_step)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def make_loader(store: FrameStore, config: Config, start_step: int = 0) -> DataLoader[Any]:
    """`ClipBatch` of each step from `start_step`, in order; `config.num_workers` processes, 0: in this one."""
    worker_init: Callable[[int], None] | None = _start_worker if config.num_workers else None
    return DataLoader(
        ClipDataset(store, config.train, config.model, config.seed),
        batch_sampler=StepSampler(config.train, start_step),
        collate_fn=collate,
        num_workers=config.num_workers,
        worker_init_fn=worker_init,
        prefetch_factor=4 if config.num_workers else None,
        persistent_workers=config.num_workers > 0,
    )
