"""A training step of `mot17_small` in bfloat16: depthwise convolutions in float32, as here, against PyTorch's own way.

    OMP_NUM_THREADS=1 python benchmarks/depthwise_training.py

Steps of both, and of float32 altogether, in turn, on the same clips of the embedded videos with the preset's size.
Where a processor has no bfloat16, nothing is measured: training does not use it there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from motrlab.bench.steps import Stepper
from motrlab.config import load_preset
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street
from motrlab.machine import hardware
from motrlab.model.efficientnet import DepthwiseConv
from motrlab.training.distributed import cpu_has_bf16


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step with depthwise convolutions in float32 and without")
    parser.add_argument("--preset", default="mot17_small")
    parser.add_argument("--frames", type=int, default=2, help="of a clip")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if not cpu_has_bf16():
        sys.exit("this processor has no bfloat16: nothing to compare")
    base = load_preset(options.preset)
    train = replace(base.train, init="", clip_frames=(options.frames,), clip_milestones=())
    config = replace(base, train=train, num_workers=0)
    with tempfile.TemporaryDirectory() as folder:
        generate_street(replace(config.street, num_videos=1, num_unseen=1, num_frames=60), Path(folder) / "videos")
        prepare(Path(folder) / "videos", Path(folder) / "packed")
        store = FrameStore(Path(folder) / "packed" / "train_lmdb")
        seconds = measure({name: Stepper(config, store, torch.device("cpu"), bf16=name != "float32") for name in WAYS},
                          options.repeats)  # fmt: skip
    print(f"{options.preset}, clips of {options.frames} frames, {torch.get_num_threads()} thread, {hardware()['cpu']}")
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["bfloat16, all"], found, strict=True))
        print(f"{name:35s} {statistics.median(found) * 1e3:7.0f} ms  {ratio:.2f} times as fast as bfloat16, all")


WAYS = {
    "float32": DepthwiseConv.forward,
    "bfloat16, all": nn.Conv2d.forward,
    "bfloat16, depthwise in float32": DepthwiseConv.forward,
}


def measure(steppers: dict[str, Stepper], repeats: int) -> dict[str, list[float]]:
    """Seconds of every step, after two that warm up."""
    found: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(repeats + 2):
        for name, stepper in steppers.items():
            with mock.patch.object(DepthwiseConv, "forward", WAYS[name]):
                started = time.perf_counter()
                stepper.step(lambda _: None)
            found[name].append(time.perf_counter() - started)
    return {name: values[2:] for name, values in found.items()}


if __name__ == "__main__":
    main()
