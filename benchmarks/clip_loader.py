"""Clip loading side by side: our LMDB of JPEG bytes, PIL on JPEG folders as public MOTR reads them, an LMDB of PNG.

    python benchmarks/clip_loader.py

The same clips of the same 1080p frames, the same output (the network's input, `float32 [T, B, 3, H, W]` in the
training process), the same number of worker processes and clips a batch, in one run: every repeat times one pass over
all clips with each loader in turn, and the ratios are taken within a repeat, in seconds and in seconds of processor
time (which neighbours on the machine disturb less). Before that a batch of each is compared.

ours       JPEG bytes from LMDB, decoded by OpenCV (at a reduced size where that is large enough), one resize; bytes
           between the processes, network input made in the training process
pil        `Image.open`, PIL's resize (it filters over the area), array to tensor, normalised; YUV by PIL's convert
png lmdb   PNG bytes from LMDB, OpenCV decode and resize, then to tensor, to YUV, normalised one after the other
png, ours  the same PNG bytes through our own transforms and transport: the share of the file format

Frames are the untouched 1080p ones of MOT17-02, 04, 10 and 13 where MOTRLAB_MOT_ROOT names a folder with them,
otherwise street frames rendered at that size. Everything is read once before it is timed: no disk is measured.

    python benchmarks/clip_loader.py --pseudo

instead: augmented clips of videos against pseudo-clips of single frames of the same videos, and against clips with the
people of another time (`crowd_share`), by length, in this process and in turn: `street` on videos of its own, and where
there are real sequences `mot17_small` and `mot17` on them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from motrlab.config import Config, StreetConfig, mot17, mot17_small, street
from motrlab.data.clips import ClipDataset, LoadedClips, collate, start_worker
from motrlab.data.motchallenge import Annotations, SequenceInfo, read_annotations
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import JPEG_QUALITY, generate_street, street_names, street_scene
from motrlab.data.street_render import Renderer
from motrlab.data.transforms import (
    ClipSample,
    Compose,
    FrameObjects,
    SeqBgrToYuv444,
    SeqNormalize,
    SeqResize,
    SeqToTensor,
)

WIDTH, HEIGHT = 1920, 1080
REAL = ("MOT17-02-FRCNN", "MOT17-04-FRCNN", "MOT17-10-FRCNN", "MOT17-13-FRCNN")
LONG = ("MOT17-09-DPM",)  # real sequences that are long enough for every clip
NUM_FRAMES = 11  # of each of the two sequences; there are 22 real ones
Key = tuple[str, tuple[int, ...]]  # a sequence, frames of it from 1
Loader = DataLoader[Any]
Ready = Callable[[Any], torch.Tensor]  # what a loader delivers → `float32 [T, B, 3, H, W]`


def main() -> None:
    parser = argparse.ArgumentParser(description="clip loaders side by side in one run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10, help="batches of a pass")
    parser.add_argument("--clips", type=int, default=2, help="clips of a batch")
    parser.add_argument("--frames", type=int, default=3, help="frames of a clip")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pseudo", action="store_true", help="clips that training makes up against clips of videos")
    options = parser.parse_args()
    one_thread(0)
    if options.pseudo:
        compare_pseudo(options.repeats)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_frames(folder / "jpeg")
        write_store(folder / "lmdb", sources)
        write_png_lmdb(folder / "png", sources)
        print_sizes(folder, sources)
        rng = np.random.default_rng(0)
        count = options.batches * options.clips
        keys = [draw_key(rng, sources, options.frames) for _ in range(count)]
        batches = [keys[i : i + options.clips] for i in range(0, count, options.clips)]
        for size in ((800, 1422), (400, 711)):
            print(f"\n{WIDTH}x{HEIGHT} to {size[1]}x{size[0]}: {options.workers} workers, {len(batches)} batches of "
                  f"{options.clips} clips of {options.frames} frames, {options.repeats} repeats")  # fmt: skip
            compare(make_loaders(folder, batches, size, options.workers), options.clips * len(batches), options.repeats)


def one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


# Frames


def write_frames(folder: Path) -> list[SequenceSource]:
    """Two sequences of JPEG files below `folder`, real frames where there are any."""
    jpegs = real_jpegs() or rendered_jpegs()
    nobody = read_annotations_of_nobody(folder)
    sources = []
    for which, name in enumerate(("A", "B")):
        (folder / name).mkdir(parents=True)
        files = []
        for frame, data in enumerate(jpegs[which * NUM_FRAMES : (which + 1) * NUM_FRAMES], 1):
            files.append(folder / name / f"{frame:06d}.jpg")
            files[-1].write_bytes(data)
        info = SequenceInfo(name=name, num_frames=NUM_FRAMES, width=WIDTH, height=HEIGHT, frame_rate=30.0)
        sources.append(SequenceSource(info=info, files=tuple(files), annotations=nobody))
    return sources


def real_jpegs() -> list[bytes]:
    root = os.environ.get("MOTRLAB_MOT_ROOT", "")
    files = [file for name in REAL for file in sorted((Path(root) / name / "img1").glob("*.jpg"))] if root else []
    if len(files) < 2 * NUM_FRAMES:
        return []
    print("frames: untouched ones of", ", ".join(REAL))
    return [file.read_bytes() for file in files]


def rendered_jpegs() -> list[bytes]:
    print("frames: street, rendered")
    config = StreetConfig(num_videos=2, num_unseen=0, num_frames=2 * NUM_FRAMES, width=WIDTH, height=HEIGHT)
    scenes = [Renderer(street_scene(name, config)) for name in street_names(config)]
    images = [scene.render(2 * frame)[0] for scene in scenes for frame in range(NUM_FRAMES)]
    return [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes() for image in images]


def read_annotations_of_nobody(folder: Path) -> Annotations:
    folder.mkdir(parents=True)
    (folder / "gt.txt").write_text("", encoding="utf-8")
    info = SequenceInfo(name="A", num_frames=NUM_FRAMES, width=WIDTH, height=HEIGHT, frame_rate=30.0)
    return read_annotations(folder / "gt.txt", info)


def write_png_lmdb(folder: Path, sources: Sequence[SequenceSource]) -> None:
    with lmdb.open(str(folder), map_size=4 << 30) as environment, environment.begin(write=True) as transaction:
        for source in sources:
            for frame, file in enumerate(source.files, 1):
                image = cv2.imread(str(file), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
                assert image is not None
                transaction.put(f"{source.info.name}/{frame:06d}".encode(), cv2.imencode(".png", image)[1].tobytes())


def print_sizes(folder: Path, sources: Sequence[SequenceSource]) -> None:
    jpegs = sum(file.stat().st_size for source in sources for file in source.files)
    print(f"JPEG files: {jpegs / 1e6:.2f} MB")
    for name in ("lmdb", "png"):
        stored = sum(file.stat().st_blocks * 512 for file in (folder / name).iterdir())
        print(f"{name:<10}: {stored / 1e6:.2f} MB on disk, {stored / jpegs:.3f} of the JPEG files")


def draw_key(rng: np.random.Generator, sources: Sequence[SequenceSource], num_frames: int) -> Key:
    stride = int(rng.integers(1, (NUM_FRAMES - 1) // max(1, num_frames - 1) + 1))
    first = int(rng.integers(1, NUM_FRAMES - stride * (num_frames - 1) + 1))
    return sources[int(rng.integers(len(sources)))].info.name, tuple(first + stride * i for i in range(num_frames))


# Loaders


class OurClips(ClipDataset):
    """Our data set asked for clips by name and frames; `augmentation=None`: the network's size and nothing else."""

    def __init__(self, folder: Path, size: tuple[int, int], augmentation: str | None = None) -> None:
        model = replace(mot17().model, height=size[0], width=size[1])
        train = replace(mot17().train, augmentation=augmentation or "reference")
        super().__init__(FrameStore(folder / "lmdb"), train, model, seed=0)
        if augmentation is None:
            self.transform = SeqResize([size])

    def __getitem__(self, key: Any) -> ClipSample:
        name, frames = key
        return self.transform(self.load(name, frames), np.random.default_rng(frames))


class PngClips(Dataset[Any]):
    """PNG bytes from LMDB. `in_steps`: tensor, YUV and normalisation one after the other, in the worker."""

    def __init__(self, folder: Path, size: tuple[int, int], in_steps: bool) -> None:
        self.path, self.in_steps = folder / "png", in_steps
        self.resize = SeqResize([size])
        self.rest = Compose([SeqToTensor(), SeqBgrToYuv444(), SeqNormalize()])
        self.environment: lmdb.Environment | None = None

    def __getitem__(self, key: Key) -> Any:
        if self.environment is None:
            self.environment = lmdb.open(str(self.path), readonly=True, lock=False, readahead=False)
        with self.environment.begin(buffers=True) as transaction:
            data = [transaction.get(f"{key[0]}/{frame:06d}".encode()) for frame in key[1]]
            images: list[Any] = [cv2.imdecode(np.frombuffer(png or b"", np.uint8), cv2.IMREAD_COLOR) for png in data]
        rng = np.random.default_rng(0)
        nobody = FrameObjects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
        sample = self.resize(ClipSample(images=images, objects=[nobody] * len(images)), rng)
        return self.rest(sample, rng).tensor if self.in_steps else sample


class PilClips(Dataset[Any]):
    """JPEG files by PIL; the conversions cost no more than they must."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self.folder, self.size = folder / "jpeg", size

    def __getitem__(self, key: Key) -> list[torch.Tensor]:
        return [self._frame(self.folder / key[0] / f"{frame:06d}.jpg") for frame in key[1]]

    def _frame(self, path: Path) -> torch.Tensor:
        image = Image.open(path).resize(self.size[::-1], Image.Resampling.BILINEAR).convert("YCbCr")
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return tensor.float().div_(255).sub_(128 / 255).div_(128 / 255)


def ours_ready(clips: LoadedClips) -> torch.Tensor:
    return clips.to("cpu").images


def clips_first(batch: torch.Tensor) -> torch.Tensor:
    return batch.transpose(0, 1)


def frames_first(batch: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(batch)


def make_loaders(
    folder: Path, batches: list[list[Key]], size: tuple[int, int], num_workers: int
) -> dict[str, tuple[Loader, Ready]]:
    """Each loader and what makes the network's input of its batches."""

    def loader(
        data: Dataset[Any], collate_fn: Callable[[Any], Any], init: Callable[[int], None] = one_thread
    ) -> Loader:
        return DataLoader(
            data, batch_sampler=batches, collate_fn=collate_fn, num_workers=num_workers, prefetch_factor=4,
            persistent_workers=True, worker_init_fn=init,
        )  # fmt: skip

    return {
        "ours": (loader(OurClips(folder, size), collate, start_worker), ours_ready),
        "pil": (loader(PilClips(folder, size), default_collate), frames_first),
        "png lmdb": (loader(PngClips(folder, size, in_steps=True), default_collate), clips_first),
        "png, ours": (loader(PngClips(folder, size, in_steps=False), collate, start_worker), ours_ready),
        "ours, augmented": (loader(OurClips(folder, size, "reference"), collate, start_worker), ours_ready),
    }


# Pseudo-clips


def compare_pseudo(repeats: int) -> None:
    """Seconds of this process for the same number of clips, of videos, of stills and of two times in turn."""
    start_worker(0)
    print(f"ms of processor time a clip, {repeats} repeats; how much longer others take (lowest to highest)")
    with tempfile.TemporaryDirectory() as name:
        for config, store in pseudo_stores(Path(name)):
            for num_frames in config.train.clip_frames:
                kinds = {"video": (0.0, 0.0), "pseudo": (1.0, 0.0), "crowded": (0.0, 1.0)}
                each = [
                    ClipDataset(store, replace(config.train, still_share=a, crowd_share=b), config.model, 0)
                    for a, b in kinds.values()
                ]
                spent = np.array([[seconds(data, num_frames, n) for data in each] for n in range(repeats)])
                told = [f"{kind} {ms:6.2f}" for kind, ms in zip(kinds, np.median(spent, axis=0) * 1e3, strict=True)]
                told[1:] = [f"{text}, {spread(spent[:, i] / spent[:, 0])}" for i, text in enumerate(told[1:], 1)]
                print(f"{config.preset:<12} {num_frames} frames: " + "; ".join(told), flush=True)


def pseudo_stores(folder: Path) -> Iterator[tuple[Config, FrameStore]]:
    config = replace(street(), street=StreetConfig(num_videos=2, num_unseen=0, num_frames=40))
    generate_street(config.street, folder / "street")
    prepare(folder / "street", folder / "street-data")
    yield config, FrameStore(folder / "street-data" / "train_lmdb")
    if root := os.environ.get("MOTRLAB_MOT_ROOT"):
        prepare(Path(root), folder / "real-data", LONG)
        for preset in (mot17_small, mot17):
            yield preset(), FrameStore(folder / "real-data" / "train_lmdb")


def seconds(data: ClipDataset, num_frames: int, repeat: int) -> float:
    """Of a clip, the mean of twenty others in every repeat."""
    data[0, 0, num_frames]
    began = time.process_time()
    for index in range(20):
        data[repeat, index, num_frames]
    return (time.process_time() - began) / 20


# Measuring


def compare(loaders: dict[str, tuple[Loader, Ready]], num_clips: int, repeats: int) -> None:
    first = {name: first_batch(loader, ready) for name, (loader, ready) in loaders.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, (loader, ready) in loaders.items():
            cpu, began = cpu_seconds(), time.perf_counter()
            for batch in loader:
                assert ready(batch).dtype == torch.float32
            spent[name].append((time.perf_counter() - began, cpu_seconds() - cpu))
    ours = np.array(spent["ours"])
    header = ("clips/s", "CPU s/clip", "ours is faster by", "in CPU time", "difference in levels of 255")
    print(f"{'':<16}{header[0]:>8}{header[1]:>12}{header[2]:>24}{header[3]:>24}{header[4]:>35}")
    for name, values in spent.items():
        wall, work = (np.array(values) / ours).T
        taken, used = np.median(values, axis=0) / num_clips
        levels = difference(first["ours"], first[name])
        print(f"{name:<16}{1 / taken:8.2f}{used:12.3f}{spread(wall):>24}{spread(work):>24}{levels:>35}")


def first_batch(loader: Loader, ready: Ready) -> torch.Tensor:
    """The whole pass is taken, so that no worker is still at it when another loader is timed."""
    batches = map(ready, loader)
    first = next(batches)
    for _ in batches:
        pass
    return first


def cpu_seconds() -> float:
    """Of this process and the workers of all loaders, of which one at a time does something."""
    processes = [psutil.Process(), *map(psutil.Process, (child.pid for child in multiprocessing.active_children()))]
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


def spread(ratios: Any) -> str:
    return f"{np.median(ratios):.2f}x ({ratios.min():.2f} to {ratios.max():.2f})"


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> str:
    assert ours.shape == theirs.shape
    levels = (ours - theirs).abs().flatten() * 128
    return f"mean {levels.mean():.3f}, 99 % under {levels[::97].quantile(0.99):.2f}"


if __name__ == "__main__":
    main()
