"""A training step of the `street` preset against Hugging Face's Deformable DETR, on the same images, in one run.

    python benchmarks/train_step_vs_deformable_detr.py

Wants `pip install transformers`, best in an environment of its own: nothing else here needs it. A step is forward,
loss, backward, gradient norm and update (Muon as in the preset, AdamW for theirs) in float32; loading is not in it.
Every repeat times both on the same images in turn, and the ratio is taken within a repeat, in seconds and in seconds of
processor time (which neighbours on the machine disturb less).

Alike: the backbone (ours, in both), width, heads, feed-forward width, layers, slots, box refinement, a loss after every
decoder layer, no dropout. Deformable DETR brings its own matcher and loss. It runs three times: with our single feature
level and sampling points, and the backbone as we run it, channels last in memory; the same with the backbone as Hugging
Face runs one, channel by channel; and with the four levels of four points each that it has by default.

ours, clips of n frames    the step of float training: all frames encoded at once, then frame after frame the decoder,
                           tracklet-aware assignment and QIM, with gradients through the track queries. More work than
                           Deformable DETR does, and in more and smaller pieces: it has neither tracks, nor attention
                           among them, nor an overlap bias
ours, single frames        the same code on clips of one frame: detection alone
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.config import Config, ModelConfig, street
from motrlab.data.clips import ClipBatch, ClipDataset, collate
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street
from motrlab.model.efficientnet import EfficientNet
from motrlab.model.motr import build_motr
from motrlab.training.assignment import ClipAssignment
from motrlab.training.criterion import SetCriterion
from motrlab.training.optimizer import make_optimizer, parameter_groups
from motrlab.training.replay import clip_generators
from motrlab.training.trainee import float_trainee

IMAGES = 8  # of a step, or the largest multiple of the clip length below
LR = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description="our training step against Deformable DETR's, in one run")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", action="store_true", help="also where the time goes, by part and by operator")
    options = parser.parse_args()
    config = street()
    torch.manual_seed(0)
    lengths = sorted({1, *config.train.clip_frames})
    batches = make_batches(config, lengths)
    steps = (OurStep(config), DetrStep(config), DetrStep(config, channels_last=False), DetrStep(config, levels=4))
    for step in steps:
        print(f"{step.name}: {sum(p.numel() for p in step.module.parameters()):,} parameters")
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s), {options.repeats} repeats: median (quartiles); theirs:")
        print("one level, channels last / channels first / four levels of four points, channels last")
        for length, parts in batches.items():
            compare(steps, length, parts, options.repeats)
    if options.parts:
        torch.set_num_threads(1)
        for length in (min(batches), max(batches)):
            for step in steps[:2]:
                print_parts(step, batches[length], options.repeats)
        print_operators(steps[0], batches[max(batches)])


def make_batches(config: Config, lengths: Sequence[int], count: int = 4) -> dict[int, list[ClipBatch]]:
    """By clip length, network-ready batches of generated videos, augmented as in training."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = replace(config.street, num_videos=3, num_unseen=0, num_frames=60)
        generate_street(videos, folder / "street", num_workers=1)
        prepare(folder / "street", folder / "data", num_workers=1)
        data = ClipDataset(FrameStore(folder / "data" / "train_lmdb"), config.train, config.model, config.seed)

        def batch(step: int, length: int) -> ClipBatch:
            return collate([data[step, clip, length] for clip in range(IMAGES // length)]).to("cpu")

        return {length: [batch(step, length) for step in range(count)] for length in lengths}


# The two steps


class OurStep:
    """Float training as `motrlab.training.trainer` does it, for one process and no accumulation."""

    name = "ours"

    def __init__(self, config: Config) -> None:
        self.config, self.motr = config, build_motr(config.model)
        self.trainee = float_trainee(self.motr, config)
        self.module = self.trainee.clips
        groups = parameter_groups(self.module, replace(config.train, lr=LR))
        self.optimizer = make_optimizer(groups, config.train.beta2)
        self.count = 0

    def __call__(self, batch: ClipBatch) -> float:
        """One update; the loss before it."""
        self.count += 1
        self.trainee.prepare(self.count)
        num_frames, num_clips = batch.images.shape[:2]
        keys = [(self.count, clip, num_frames) for clip in range(num_clips)]
        loss = self.module(batch, clip_generators(self.config.seed, keys))
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.train.clip_norm)
        self.optimizer.step()
        return float(loss.mean.detach())

    @contextlib.contextmanager
    def timed(self, watch: Stopwatch) -> Iterator[None]:
        """Within, `watch` is told of the parts of every step."""
        base = self.motr.base
        with contextlib.ExitStack() as stack:
            for arguments in (
                (base.backbone, "forward", "backbone", "backward, encoder"),
                (base, "encode", "encoder", "backward, all behind"),
                (base, "decode", "decoder and heads"),
                (self.motr.qim, "forward", "QIM"),
                (ClipAssignment, "decide", "assignment"),
                (SetCriterion, "__call__", "criterion"),
                (self.module, "forward", "rest of the forward pass"),
                (self.optimizer, "step", "AdamW"),
            ):
                stack.enter_context(watch.wrapped(*arguments))
            yield


class Maps(nn.Module):
    """Our backbone as a list of one map, which is what Deformable DETR asks of its own."""

    def __init__(self, config: ModelConfig, channels_last: bool) -> None:
        super().__init__()
        self.backbone, self.channels_last = EfficientNet(config), channels_last

    def forward(self, images: Tensor) -> list[Tensor]:
        # What is exported leaves the layout alone, and is the same network.
        with mock.patch.object(torch.compiler, "is_exporting", return_value=not self.channels_last):
            return [self.backbone(images)]


class DetrStep:
    """`DeformableDetrForObjectDetection` of the same shapes, with its own matcher and loss."""

    def __init__(self, config: Config, *, channels_last: bool = True, levels: int = 1) -> None:
        self.name = f"Deformable DETR, {levels} level(s), backbone with channels {'last' if channels_last else 'first'}"
        self.config = config
        self.module = build_detr(config.model, channels_last, levels)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=LR, fused=True)

    def __call__(self, batch: ClipBatch) -> float:
        """One update; the loss before it."""
        self.module.train()
        boxes = [torch.from_numpy(people.boxes) for frame in batch.objects for people in frame]
        labels = [{"class_labels": torch.zeros(len(b), dtype=torch.int64), "boxes": b} for b in boxes]
        loss = self.module(batch.images.flatten(0, 1), labels=labels).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.train.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    @contextlib.contextmanager
    def timed(self, watch: Stopwatch) -> Iterator[None]:
        """Within, `watch` is told of the parts of every step."""
        model: Any = self.module.model
        with contextlib.ExitStack() as stack:
            for arguments in (
                (model.backbone.model, "forward", "backbone", "backward, encoder"),
                (model.encoder, "forward", "encoder", "backward, all behind"),
                (model.decoder, "forward", "decoder"),
                (self.module, "forward", "rest of the forward pass"),
                (self.optimizer, "step", "AdamW"),
            ):
                stack.enter_context(watch.wrapped(*arguments))
            yield


def build_detr(config: ModelConfig, channels_last: bool, levels: int) -> Any:
    """Deformable DETR of our shapes on our backbone; with more than one level, as many points on each as by default.

    Ends the program with one line where it is not installed.
    """
    try:
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
    except ImportError:
        sys.exit("transformers is not installed: pip install transformers (in an environment of its own), then again")
    backbone = EfficientNet(config)
    stages = [8, 8, 8, backbone.out_channels]  # only the last is looked at, and all are replaced below
    shapes = DeformableDetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=stages, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        ),
        num_labels=1, num_queries=config.num_slots, d_model=config.d_model, num_feature_levels=levels,
        encoder_layers=config.encoder_layers, decoder_layers=config.decoder_layers,
        encoder_ffn_dim=config.ffn_channels, decoder_ffn_dim=config.ffn_channels,
        encoder_attention_heads=config.num_heads, decoder_attention_heads=config.num_heads,
        encoder_n_points=config.encoder_points if levels == 1 else 4,
        decoder_n_points=config.decoder_points if levels == 1 else 4,
        dropout=0.0, auxiliary_loss=True, with_box_refine=True, class_cost=2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about CUDA kernels
        detr = DeformableDetrForObjectDetection(shapes)
    detr.model.backbone.model = Maps(config, channels_last)
    return detr


# Measuring


def compare(steps: Sequence[OurStep | DetrStep], length: int, batches: list[ClipBatch], repeats: int) -> None:
    """Ours, which comes first, and the others in turn on the same images."""
    spent = np.zeros((repeats + 1, len(steps), 2))  # wall and processor seconds
    for repeat in range(-1, repeats):  # the first fills the last row and is not counted
        batch = batches[repeat % len(batches)]
        for which, step in enumerate(steps):
            wall, cpu = time.perf_counter(), time.process_time()
            loss = step(batch)
            spent[repeat, which] = time.perf_counter() - wall, time.process_time() - cpu
            assert np.isfinite(loss), f"{step.name}: the loss is {loss}"
    spent = spent[:repeats]
    images = batches[0].images.shape[0] * batches[0].images.shape[1]
    print(f"ours, clips of {length} frames" if length > 1 else "ours, single frames", f"({images} images)")
    for clock, name in enumerate(("seconds", "processor time")):
        times = " / ".join(spread(spent[:, which, clock] * 1e3, " ms", 0) for which in range(len(steps)))
        ratios = " / ".join(spread(spent[:, i, clock] / spent[:, 0, clock], "x", 2) for i in range(1, len(steps)))
        print(f"    {name:<15} ours / theirs {times}; ours is faster by {ratios}", flush=True)


def spread(values: Any, unit: str, digits: int) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


class Stopwatch:
    """Processor time of the parts of a step, each without the parts within it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.running: list[float] = []  # of every part that runs: when it began, moved on by what was spent within it

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.process_time()
        self.running.append(began)
        yield
        self.cut(name)
        self.running.pop()
        if self.running:
            self.running[-1] += time.process_time() - began

    def cut(self, name: str) -> None:
        """What the innermost part has spent so far was part `name`."""
        now = time.process_time()
        self.spent[name] += now - self.running[-1]
        self.running[-1] = now

    def wrapped(self, owner: Any, method: str, name: str, later: str = "") -> contextlib.AbstractContextManager[Any]:
        """Time every call of `owner.method` as part `name`; `later` is the backward pass down to its first result."""
        original = getattr(owner, method)

        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                result = original(*arguments, **named)
            if later:
                first = result if isinstance(result, Tensor) else result[0]
                first.register_hook(lambda gradient: self.cut(later))
            return result

        return mock.patch.object(owner, method, call)


def print_parts(step: OurStep | DetrStep, batches: list[ClipBatch], repeats: int) -> None:
    """Lower quartile of processor time by part: what neighbours on the machine disturb least."""
    rows: list[dict[str, float]] = []
    for repeat in range(-1, repeats):
        watch = Stopwatch()
        with step.timed(watch), watch.wrapped(Tensor, "backward", "backward, backbone"), watch.part("everything else"):
            step(batches[repeat % len(batches)])
        rows.append(watch.spent)
    table = {part: float(np.percentile([row[part] for row in rows[1:]], 25)) for part in rows[0]}
    total = sum(table.values())
    frames, clips = batches[0].images.shape[:2]
    print(
        f"\n{step.name}, {clips} clips of {frames} frame(s), 1 thread: processor time of a step, {total * 1e3:.0f} ms"
    )
    for part, seconds in sorted(table.items(), key=lambda item: -item[1]):
        print(f"{part:<28}{seconds * 1e3:>8.1f} ms{100 * seconds / total:>7.1f} %")


def print_operators(step: OurStep | DetrStep, batches: list[ClipBatch]) -> None:
    """The operators that most of a step is spent in."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for batch in batches:
            step(batch)
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=50))


if __name__ == "__main__":
    main()
