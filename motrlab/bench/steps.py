"""Training steps of a preset on a device: time by phase, memory, kernel launches; eager and compiled.

A step is what the trainer does for one process: clips from the loader, to the device, forward, backward, update. Phases
end when the device has finished, which costs a little that the trainer does not pay: `step_ms` is of whole steps,
waited for once at the end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from motrlab.config import Config
from motrlab.data.clips import LoadedClips, StepSampler, keep_freed_memory, make_loader
from motrlab.data.store import FrameStore
from motrlab.model.efficientnet import freeze_stages
from motrlab.model.motr import Motr, build_motr
from motrlab.training.optimizer import make_optimizer, parameter_groups
from motrlab.training.replay import clip_generators
from motrlab.training.trainee import float_trainee

PHASES = ("loader", "transfer", "forward", "backward", "update")
COMPILED = ("", "default", "reduce-overhead")  # modes of `torch.compile`; "": eager; the last replays CUDA graphs
_WARM_UP = 3  # steps: kernels are chosen, memory is taken, parts are compiled
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


def compile_parts(model: Motr, mode: str, backend: str = "inductor") -> None:
    """Let `torch.compile` have what a step runs between its decisions: encoder, decoder, QIM. In place; "" nothing.

    The decisions between them are NumPy and stay outside, so there is no graph break.
    """
    if mode:
        how: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
        how |= {"mode": mode} if backend == "inductor" else {}
        for owner, name in ((model.base, "encode"), (model.base, "value_maps"), (model.base, "decode")):
            setattr(owner, name, torch.compile(getattr(owner, name), **how))
        model.qim.forward = torch.compile(model.qim.forward, **how)  # type: ignore[method-assign]


@dataclass
class Stepper:
    """A training on a device, step by step. `config.train.clip_frames` has one length."""

    config: Config
    store: FrameStore
    device: torch.device
    bf16: bool = False
    mode: str = ""
    backend: str = "inductor"

    def __post_init__(self) -> None:
        model = build_motr(self.config.model, self.config.seed)
        freeze_stages(model.base.backbone, self.config.train.frozen_stages)
        compile_parts(model, self.mode, self.backend)
        self.trainee = float_trainee(model, self.config)
        self.module = self.trainee.clips.to(self.device)
        groups = parameter_groups(self.module, self.config.train)
        self.optimizer = make_optimizer(groups, self.config.train.beta2)
        loader = make_loader(self.store, self.config)
        assert isinstance(loader.batch_sampler, StepSampler)
        self.sampler, self.batches = loader.batch_sampler, self._endless(loader)
        self.count = 0

    @staticmethod
    def _endless(loader: Any) -> Iterator[LoadedClips]:
        while True:
            yield from loader

    def step(self, lap: Callable[[str], None]) -> None:
        """One update; `lap` is told after each phase."""
        number, self.count = self.count % self.config.train.steps, self.count + 1
        (keys,) = self.sampler.micro_batches(number)
        loaded = next(self.batches)
        lap("loader")
        batch = loaded.to(self.device, non_blocking=True)
        lap("transfer")
        self.trainee.prepare(number)
        self.optimizer.zero_grad(set_to_none=True)
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # outputs of the step before may be written over
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.module(batch, clip_generators(self.config.seed, keys))
        lap("forward")
        loss.mean.backward()
        lap("backward")
        nn.utils.clip_grad_norm_(self.module.parameters(), self.config.train.clip_norm)
        self.optimizer.step()
        lap("update")


def measure(stepper: Stepper, repeats: int, deadline: float = float("inf")) -> dict[str, Any]:
    """Medians over `repeats` steps (fewer, at least two, where `deadline`, of `time.monotonic`, has passed)."""
    device = stepper.device
    keep_freed_memory()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    for _ in range(_WARM_UP):
        stepper.step(lambda _: None)
    wait(device)
    warm = time.perf_counter() - started
    whole: list[float] = []
    laps: dict[str, list[float]] = {name: [] for name in PHASES}
    while len(whole) < repeats and (len(whole) < 2 or time.monotonic() < deadline):
        whole.append(_timed(stepper, lambda _: None))
        _timed(stepper, _Laps(device, laps))
    config = stepper.config
    found = {f"{name}_ms": statistics.median(values) * 1e3 for name, values in laps.items()}
    length = config.train.clip_frames[0]
    clips = len(stepper.sampler.keys(0))
    return {
        "clips": clips, "frames": length, "size": f"{config.model.width}x{config.model.height}",
        "repeats": len(whole), "warm_up_s": warm, "step_ms": statistics.median(whole) * 1e3, **found,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if cuda else None,
        **(_launches(stepper) if cuda else {}),
    }  # fmt: skip


class _Laps:
    def __init__(self, device: torch.device, laps: dict[str, list[float]]) -> None:
        self.device, self.laps, self.last = device, laps, time.perf_counter()

    def __call__(self, name: str) -> None:
        wait(self.device)
        now = time.perf_counter()
        self.laps[name].append(now - self.last)
        self.last = now


def _timed(stepper: Stepper, lap: Callable[[str], None]) -> float:
    started = time.perf_counter()
    stepper.step(lap)
    wait(stepper.device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """For all that the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _launches(stepper: Stepper) -> dict[str, Any]:
    """Of one step: kernels launched, and how long the device was busy."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        _timed(stepper, lambda _: None)
    events = profile.key_averages()
    count = sum(e.count for e in events if e.key in _LAUNCHES)
    return {"launches": count, "busy_ms": sum(e.self_device_time_total for e in events) / 1e3}


def one_length(config: Config) -> Config:
    """With clips of the greatest length of the curriculum, which makes the most of a step's frame loop."""
    length = max(config.train.clip_frames)
    train = replace(config.train, clip_frames=(length,), clip_milestones=(), clip_epochs=())
    if config.train.clips_per_step:
        train = replace(train, clips_per_step=1)  # `mot17`: one clip on each of eight GPUs
    return replace(config, train=train)
