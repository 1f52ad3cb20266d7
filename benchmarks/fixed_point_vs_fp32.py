"""Fixed-point graphs against fp32 graphs of the same network on ONNX Runtime and in PyTorch, some calls of each in
turn.

    OMP_NUM_THREADS=1 python benchmarks/fixed_point_vs_fp32.py --run demo
    OMP_NUM_THREADS=1 python benchmarks/fixed_point_vs_fp32.py --preset mot17_small

Prints the processor, then for one and two threads: the medians of the forms of each graph and of the closed loop, and
their ratio; and the parts of the closed loop.

`--run` measures on real frames of the run's first test video; that run must have been converted (notebook 05).
`--preset` needs no run: the weights are random, calibrated on noise, and the frames are noise. The graphs take the same
time for every picture. The host's part is that of full slots, so it is more than on a video.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from motrlab.config import Config
from motrlab.config.presets import PRESETS, load_preset
from motrlab.data.preprocess import preprocess
from motrlab.deploy.conversion import save_artifact, save_float_graphs
from motrlab.deploy.eager import torch_networks
from motrlab.deploy.perf import STEP_STAGES, Form, measure_latency
from motrlab.doctor import cpu_features
from motrlab.errors import UserError
from motrlab.machine import hardware, may_saturate
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.chain import require
from motrlab.stages.deployment import measure_performance

FULL_HD = (1080, 1920)  # what MOT17 was filmed in
THREADS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="fixed-point against fp32, side by side in one run")
    parser.add_argument("--run", default="demo", help="a run that has been converted")
    parser.add_argument("--preset", choices=PRESETS, help="random weights on random frames instead of a run")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls of each graph")
    parser.add_argument("--frames", type=int, default=20, help="with --preset: frames of the closed loop")
    parser.add_argument("--weight-bits", type=int, choices=(7, 8), default=8, help="with --preset")
    options = parser.parse_args()
    print(processor())
    if options.preset:
        preset = load_preset(options.preset)
        config = replace(preset, scheme=replace(preset.scheme, weight_bits=options.weight_bits))
        metrics = measure_random(config, options.repeats, options.frames)
    else:
        metrics = measure_run(options.run, options.repeats)
    print(table(metrics))


def processor() -> str:
    """Its name, and what 8-bit products depend on."""
    machine, features = hardware(), cpu_features()
    vnni = [name for name in ("avx512_vnni", "avx_vnni", "amx_int8") if features[name]]
    kernels = "8-bit weights take the slower exact kernels" if may_saturate() else "the fast kernels are exact"
    return f"{machine['cpu']}, {machine['num_cpus']} usable; VNNI: {', '.join(vnni) or 'none'}; {kernels}"


def measure_run(name: str, repeats: int) -> Mapping[str, float]:
    try:
        run = Run.open(name, create=False)
        require(run, "fixed_point")
    except UserError as error:
        sys.exit(str(error))
    return measure_performance(run, repeats=repeats)


def measure_random(config: Config, repeats: int, num_frames: int) -> Mapping[str, float]:
    """Latency of the network of `config` with random weights, on random frames."""
    # Slots are filled in the first frames, and stay so.
    tracker = replace(config.tracker, birth_score=0.1, miss_score=0.0, reset_score=0.0, suppress_iou=None)
    config = replace(config, tracker=tracker)
    size = FULL_HD if config.preset.startswith("mot17") else (config.street.height, config.street.width)
    frames = list(noise(size, num_frames))
    with tempfile.TemporaryDirectory() as folder:
        artifact, floats = write_files(config, frames[:2], Path(folder))
        eager = {"torch": Form(lambda threads: torch_networks(folded_copy(lively_model(config)), threads))}
        return measure_latency(artifact, floats, frames, num_threads=THREADS, repeats=repeats, more=eager).metrics


def noise(size: tuple[int, int], number: int) -> Iterator[NDArray[np.uint8]]:
    """Pictures, BGR `uint8 [H, W, 3]`."""
    random = np.random.default_rng(0)
    for _ in range(number):
        yield random.integers(0, 256, (*size, 3), np.uint8)


@torch.no_grad()
def write_files(config: Config, frames: list[NDArray[np.uint8]], folder: Path) -> tuple[Path, Path]:
    """An artefact calibrated on `frames`, and the folder of its fp32 graphs."""
    model = folded_copy(lively_model(config))
    quantised = QuantizedMotr(copy.deepcopy(model), config.scheme)
    size = config.model.height, config.model.width
    calibrate(quantised, [[torch.from_numpy(preprocess(frame, *size))[None] for frame in frames]], config)
    artifact = save_artifact(folder / "artifact", quantised, config, {"weights": "random"})
    return artifact, save_float_graphs(folder / "float", model)


def lively_model(config: Config, seed: int = 0) -> Motr:
    """Random weights whose slots score around one half, so that there are tracks, and whose boxes move."""
    model, generator = build_motr(config.model, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in model.base.class_heads:
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.1)
            head.bias.zero_()
        for head in model.base.box_heads:
            head.out.weight.copy_(torch.randn(head.out.weight.shape, generator=generator) * 0.01)
    return model


def table(metrics: Mapping[str, float]) -> str:
    """Medians and ratios of each thread count, and the parts of the closed loop."""
    frames, repeats = int(metrics["num_frames"]), int(metrics["repeats"])
    lines = [f"{frames} frames in closed loop, {repeats} calls of each graph; medians; last: fp32 / fixed point"]
    for threads in THREADS:
        prefix = "" if threads == THREADS[0] else f"threads_{threads}."
        rows = {
            "base": ("base.fp32.p50_ms", "base.fixed_point.p50_ms", "speedup"),
            "qim": ("qim.fp32.p50_ms", "qim.fixed_point.p50_ms", "qim.speedup"),
            "closed loop": ("step.fp32_total.p50_ms", "step.total.p50_ms", "step.speedup"),
        }
        for row, names in rows.items():
            floating, fixed, ratio = (metrics[prefix + name] for name in names)
            told = f"fp32 {floating:8.3f} ms, fixed point {fixed:8.3f} ms: {ratio:.2f}"
            eager = metrics.get(f"{prefix}{row}.torch.p50_ms")
            told += f"; PyTorch, eager, {eager:8.3f} ms: {eager / fixed:.2f}" if eager else ""
            lines.append(f"{threads} thread{'s' if threads > 1 else ' '}  {row:<12}{told}")
        parts = (f"{part} {metrics[f'{prefix}step.{part}.p50_ms']:.3f}" for part in (*STEP_STAGES, "host"))
        lines.append(f"{threads} thread{'s' if threads > 1 else ' '}  parts, ms   {', '.join(parts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
