"""The `mot17` preset, random weights, through everything that quantisation does: seconds and memory of each step.

    python benchmarks/mot17_quantisation.py [--frames 2]

800×1422 input, 256 + 256 slots. Images are noise with rectangles: accuracy is not the question, size is. Peak memory is
that of the process so far (it never falls), so each step's own need is at most what it adds.
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

import numpy as np
import torch
from motrlab.deploy.export import export_portable
from motrlab.deploy.rewrite import rewrite_for_onnxruntime
from motrlab.quantization.prepare import example_inputs
from torch import Tensor

from motrlab.config import Config, mot17
from motrlab.data.clips import ClipBatch
from motrlab.deploy.integer import integer_share
from motrlab.deploy.runtime import BASE_OUTPUTS, QIM_OUTPUTS, graph_file, load_network
from motrlab.model.motr import build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.qat import qat_config, qat_loss, refresh_weight_scales
from motrlab.quantization.quantized import QuantizedMotr


def main() -> None:
    parser = argparse.ArgumentParser(description="the mot17 preset through calibration, QAT, conversion and runtimes")
    parser.add_argument("--frames", type=int, default=2, help="frames of calibration, and of the QAT clip")
    options = parser.parse_args()
    config = replace(mot17(), calibration=replace(mot17().calibration, num_frames=options.frames, num_sequences=1))
    with measured("model folded, captured and prepared"):
        quantised = QuantizedMotr(folded_copy(build_motr(config.model)), config.scheme)
    with measured(f"calibration, {options.frames} frames"):
        calibrate(quantised, [list(images(config, options.frames))], config)
    train(quantised, config, options.frames)
    with tempfile.TemporaryDirectory() as folder:
        deploy(quantised, Path(folder))


@contextmanager
def measured(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:<52}{time.perf_counter() - began:>9.1f} s   peak so far {peak:5.1f} GiB", flush=True)


def images(config: Config, number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(number):
        shape = (1, 3, config.model.height, config.model.width)
        yield torch.randint(-128, 128, shape, generator=generator) / 128


def train(quantised: QuantizedMotr, config: Config, frames: int) -> None:
    boxes = torch.tensor([[0.3, 0.4, 0.05, 0.3], [0.7, 0.6, 0.05, 0.3]])
    batch = ClipBatch(
        images=torch.cat(list(images(config, frames)))[:, None],
        boxes=[[boxes]] * frames,
        ids=[[torch.tensor([1, 2])]] * frames,
        visibility=[[torch.ones(2)]] * frames,
    )
    adapted = qat_config(config)
    optimizer = torch.optim.AdamW(quantised.parameters(), lr=config.qat.lr, weight_decay=config.qat.weight_decay)
    for step in range(2):
        quantised.mode("train")
        with measured(f"QAT step {step + 1}, one clip of {frames} frames"):
            loss = qat_loss(quantised, batch, adapted, [np.random.default_rng(step)])
            optimizer.zero_grad()
            loss.mean.backward()
            optimizer.step()
        assert torch.isfinite(loss.total), "the loss is not finite"
    refresh_weight_scales(quantised)


def deploy(quantised: QuantizedMotr, folder: Path) -> None:
    with measured("conversion to ONNX"):
        export_portable(quantised, folder)
    with measured("rewrite for ONNX Runtime"):
        for graph in ("base", "qim"):
            rewrite_for_onnxruntime(folder / f"{graph}.onnx", folder / f"{graph}.ort.onnx")
    for graph in ("base", "qim"):
        share = integer_share(folder / f"{graph}.ort.onnx")
        print(f"{graph}: {share.macs_share:.1%} of MACs and {share.nodes_share:.1%} of products on integer kernels")
    parts = (
        (
            "base",
            example_inputs(quantised.config)[0],
            BASE_OUTPUTS,
            ("image", "track_query", "track_mask", "track_reference"),
        ),
        ("qim", example_inputs(quantised.config)[1], QIM_OUTPUTS, ("embedding", "query", "mask")),
    )
    for graph, inputs, outputs, names in parts:
        values = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        found = {}
        for backend, runtime in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
            with measured(f"{graph} loaded by {runtime}"):
                network = load_network(graph_file(folder, graph, backend), outputs, 2, backend)
            with measured(f"{graph}, one frame on {runtime}, two threads"):
                found[runtime] = network(values)
        for name, *pair in zip(outputs, *found.values(), strict=True):
            print(f"{graph} {name}: largest difference of the two {np.abs(pair[0] - pair[1]).max():.3g}")


if __name__ == "__main__":
    main()
