"""The `mot17` preset, random weights, through everything that quantisation does: seconds and memory of each step.

    python benchmarks/mot17_quantisation.py [--frames 2] [--repeats 5]

800×1422 input, 256 + 256 slots. Images are noise: accuracy is not the question, size is. Peak memory is that of the
process so far (it never falls), so each step's own need is at most what it adds. Then a frame of both graphs on ONNX
Runtime, fp32 and fixed point in turn, and the outputs of torch, ONNX Runtime and OpenVINO compared bit by bit.
`--preset smoke` goes the same way in seconds.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.config.presets import load_preset
from motrlab.data.clips import ClipBatch
from motrlab.data.preprocess import input_bytes
from motrlab.data.transforms import FrameObjects
from motrlab.deploy.kernel_graph import kernel_graphs
from motrlab.deploy.kernel_layers import integer_share
from motrlab.deploy.kernels import load_network
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.deploy.perf import time_in_turn
from motrlab.deploy.portable import portable_graphs
from motrlab.deploy.runtime import INPUTS, OUTPUTS
from motrlab.model.motr import build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.declare import example_inputs
from motrlab.quantization.qat import QatClips, qat_config
from motrlab.quantization.quantized import QuantizedMotr

NAMES = {graph: (INPUTS[graph], OUTPUTS[graph]) for graph in OUTPUTS}
Inputs = dict[str, dict[str, Any]]  # graph → its inputs by name


def main() -> None:
    parser = argparse.ArgumentParser(description="a preset through calibration, QAT, conversion and runtimes")
    parser.add_argument("--preset", default="mot17")
    parser.add_argument("--frames", type=int, default=2, help="frames of calibration, and of the QAT clip")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each graph")
    options = parser.parse_args()
    config = load_preset(options.preset)
    config = replace(config, calibration=replace(config.calibration, num_frames=options.frames, num_sequences=1))
    with measured("model folded and its tensors declared"):
        model = build_motr(config.model)
        quantised = QuantizedMotr(folded_copy(model), config.scheme)
    with measured(f"calibration, {options.frames} frames"):
        calibrate(quantised, [list(images(config, options.frames))], config)
    train(quantised, config, options.frames)
    with tempfile.TemporaryDirectory() as folder:
        convert(quantised, Path(folder))
        inputs = random_inputs(config)
        for threads in (1, 2):
            frame(Path(folder), inputs, threads, options.repeats, config.scheme.weight_bits)
        compare(quantised, Path(folder), inputs)


@contextmanager
def measured(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<52}{time.perf_counter() - began:>9.2f} s   peak so far {peak:5.1f} GiB", flush=True)


def images(config: Config, number: int, seed: int = 0) -> Iterator[Tensor]:
    """Network inputs `[1, 3, H, W]` on the grid of bytes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        shape = (1, 3, config.model.height, config.model.width)
        yield torch.randint(-128, 128, shape, generator=generator) / 128


def train(quantised: QuantizedMotr, config: Config, frames: int) -> None:
    """Two steps of QAT; ends in mode `evaluate`."""
    boxes = np.array([[0.3, 0.4, 0.05, 0.3], [0.7, 0.6, 0.05, 0.3]], np.float32)
    people = FrameObjects(boxes, np.array([1, 2]), np.ones(2, np.float32))
    batch = ClipBatch(images=torch.cat(list(images(config, frames)))[:, None], objects=[[people]] * frames)
    adapted = qat_config(config)
    optimizer = torch.optim.AdamW(quantised.parameters(), lr=config.qat.lr, weight_decay=config.qat.weight_decay)
    quantised.mode("train")
    for step in range(2):
        with measured(f"QAT step {step + 1}, one clip of {frames} frames"):
            loss = QatClips(quantised, adapted)(batch, [np.random.default_rng(step)])
            optimizer.zero_grad()
            loss.mean.backward()
            optimizer.step()
            quantised.advance()
        assert torch.isfinite(loss.total), "the loss is not finite"
    quantised.mode("evaluate")


def convert(quantised: QuantizedMotr, folder: Path) -> None:
    """All files of `quantised` in `folder`, and its float form in `folder/float`; how much of it is integer."""
    with measured("graphs for integer kernels"):
        for graph, model in kernel_graphs(quantised).items():
            save_onnx(model, folder / f"{graph}.ort.onnx")
    with measured("portable graphs"):
        for graph, model in portable_graphs(quantised).items():
            save_onnx(model, folder / f"{graph}.onnx")
    with measured("float graphs"):
        for graph, model in portable_graphs(quantised.model).items():
            save_onnx(model, folder / "float" / f"{graph}.onnx")
    for graph in NAMES:
        share = integer_share(folder / f"{graph}.ort.onnx")
        told = f"{share.macs_share:.1%} of MACs, {share.nodes_share:.1%} of products on integer kernels"
        print(f"{graph}: {told}; {share.num_nodes} nodes; inexact operators: {', '.join(share.inexact) or 'none'}")


def random_inputs(config: Config) -> Inputs:
    """One frame with half of the track slots live; `image` as network input."""
    random = np.random.default_rng(0)
    live = random.permutation(np.arange(config.model.num_track) % 2).astype(np.float32)
    found: Inputs = {}
    for graph, examples in example_inputs(config.model).items():
        values = [random.normal(0, 1, x.shape).astype(np.float32) for x in examples]
        found[graph] = dict(zip(NAMES[graph][0], values, strict=True))
    base, qim = found["base"], found["qim"]
    base["image"] = next(images(config, 1, seed=1)).numpy()
    base["track_mask"] = qim["mask"] = live.reshape(1, 1, 1, -1)
    base["track_query"] *= live.reshape(1, 1, *base["track_query"].shape[2:])
    base["track_reference"] = random.uniform(0.2, 0.8, base["track_reference"].shape).astype(np.float32)
    qim["embedding"], qim["query"] = qim["embedding"] * live, qim["query"] * live
    return found


def for_kernels(inputs: dict[str, Any]) -> dict[str, Any]:
    """As `*.ort.onnx` takes them: the image in bytes."""
    return {name: input_bytes(x) if name == "image" else x for name, x in inputs.items()}


def frame(folder: Path, inputs: Inputs, threads: int, repeats: int, weight_bits: int) -> None:
    """A frame on ONNX Runtime, fp32 and fixed point in turn."""
    for graph, (_, outputs) in NAMES.items():
        fixed = load_network(folder / f"{graph}.ort.onnx", outputs, threads, weight_bits=weight_bits)
        floating = load_network(folder / "float" / f"{graph}.onnx", outputs, threads)
        candidates = {
            "fp32": (floating, [inputs[graph]]),
            "fixed point": (fixed, [for_kernels(inputs[graph])]),
        }
        medians = {name: 1e3 * np.median(x) for name, x in time_in_turn(candidates, repeats).items()}
        told = ", ".join(f"{name} {value:.2f} ms" for name, value in medians.items())
        print(f"{graph}, {threads} thread(s): {told}: {medians['fp32'] / medians['fixed point']:.2f}", flush=True)


@torch.no_grad()
def compare(quantised: QuantizedMotr, folder: Path, inputs: Inputs) -> None:
    """Whether torch, ONNX Runtime and OpenVINO give the same bits."""
    for graph, (_, outputs) in NAMES.items():
        given, path = for_kernels(inputs[graph]), folder / f"{graph}.ort.onnx"
        found = {"torch": as_arrays(getattr(quantised.graphs, graph)(*map(torch.from_numpy, inputs[graph].values())))}
        for backend in ("onnxruntime", "openvino"):
            with measured(f"{graph} loaded by {backend}"):
                network = load_network(path, outputs, 2, backend, weight_bits=quantised.scheme.weight_bits)
            with measured(f"{graph}, one frame on {backend}, two threads"):
                found[backend] = network(given)
        for backend in ("onnxruntime", "openvino"):
            for name, expected, value in zip(outputs, found["torch"], found[backend], strict=True):
                differing = int((expected != value.reshape(expected.shape)).sum())
                print(f"{graph} {name}: {backend} differs from torch in {differing} of {expected.size} values")


def as_arrays(outputs: Any) -> list[Any]:
    """What a graph of torch gives, of the last decoder layer."""
    if isinstance(outputs, Tensor):
        return [outputs.numpy()]
    logits, boxes, embedding = outputs
    return [x.numpy() for x in (logits[-1], boxes[-1], embedding)]


if __name__ == "__main__":
    main()
