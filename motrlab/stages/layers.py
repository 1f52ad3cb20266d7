"""The layer comparison of a run: float ↔ fake-quant ↔ fixed-point on its test videos."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from motrlab.data.preprocess import input_bytes
from motrlab.deploy.runtime import load_artifact
from motrlab.deploy.taps import TappedRuntime
from motrlab.files import write_bytes, write_text
from motrlab.machine import num_cpus
from motrlab.model.motr import folded_copy
from motrlab.quantization.analysis.comparison import compare_outputs, compare_taps, in_mode
from motrlab.quantization.analysis.debugging import TensorValues, inspect_tensors
from motrlab.quantization.analysis.layers import FORMS, FrameRow, SplitRow, summary, write_csv
from motrlab.quantization.analysis.listing import quantised_tensors
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.equalisation import equalise
from motrlab.run import Run
from motrlab.stages.accuracy import network_inputs
from motrlab.stages.data import open_store
from motrlab.stages.models import load_float, load_quantized
from motrlab.tracking.step import FrameStep
from motrlab.viz.curves import figure_png
from motrlab.viz.layers import FRAME_OUTPUTS, frame_sqnr, mean_db, tensor_sqnr


def compare_layers(run: Run, stage: str = "qat", num_frames: int = 8, *, num_videos: int = 2) -> dict[str, Any]:
    """Compare the model of `stage`, in its float and its quantised mode, with the artefact.

    On the first `num_frames` frames of the first `num_videos` test videos. Leaves `assets/layers.csv` (a row for each
    tensor), `layers_frames.csv` (each frame in closed loop), a picture of each, and of the calibrated model
    `layers_split.csv` (error of weights alone, of activations alone) and `layers_values.json` (ranges of channels,
    histograms); `tensors.csv` (the grid of every tensor, and where it comes from); and a record of stage `fixed_point`,
    kind `layers`.

    Raises UserError if either is missing, or if the artefact is not of this model: its scales are other ones.
    """
    started = time.time()
    quantised = load_quantized(run, stage)
    runtime = load_artifact(run.artifact, num_threads=num_cpus())
    tapped = TappedRuntime(run.artifact, quantised, num_threads=num_cpus())
    store = open_store(run)
    names = [info.name for info in store.sequences[:num_videos]]
    videos = {name: list(network_inputs(run, store, name, last=num_frames)) for name in names}
    rows = compare_taps(quantised, tapped, videos.values(), run.config)

    def track_deployed(images: Sequence[torch.Tensor]) -> Iterator[FrameStep]:
        frames: Iterator[Any] = (input_bytes(x.numpy()) for x in images)
        return closed_loop(runtime.graphs, frames, run.config)

    others = {"fake": in_mode(quantised, "evaluate", run.config), "fixed_point": track_deployed}
    frames = compare_outputs(in_mode(quantised, "float", run.config), others, videos, run.config)
    split, values = _inspect(run, [video[::2] for video in videos.values()])  # means need no more
    tables: dict[str, Sequence[Any]] = {"layers.csv": rows, "layers_frames.csv": frames, "layers_split.csv": split}
    tables["tensors.csv"] = quantised_tensors(quantised)
    write_text(run.assets / "layers_values.json", json.dumps([found.json() for found in values]))
    pictures = {"layers.png": tensor_sqnr(rows), "layers_frames.png": frame_sqnr(frames)}
    assets = [run.assets / "layers_values.json", *write_assets(run, tables, pictures)]
    num_frames = sum(map(len, videos.values()))
    metrics: dict[str, Any] = {"num_videos": len(names), "num_frames": num_frames, "compared_stage": stage}
    metrics |= summary(rows) | _closed_loop_metrics(frames) | _split_metrics(split)
    return run.add_record("fixed_point", "layers", metrics, started=started, assets=assets)


def _inspect(run: Run, videos: Iterable[Iterable[torch.Tensor]]) -> tuple[list[SplitRow], list[TensorValues]]:
    """Of the calibrated model against the float one: QAT trains weights that end on their grid."""
    quantised, floating = load_quantized(run, "calibration"), folded_copy(load_float(run))
    if run.config.calibration.equalise:
        equalise(floating)
    return inspect_tensors(quantised, videos, run.config, floating)


def _split_metrics(split: Sequence[SplitRow]) -> dict[str, float]:
    """SQNR of the outputs with weights, activations or all quantised."""
    outputs = [row for row in split if row.operator == "output"]
    found = {f"{r.tensor.replace(' ', '_')}.{form}_db": getattr(r, f"{form}_db") for r in outputs for form in FORMS}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def write_assets(run: Run, tables: Mapping[str, Sequence[Any]], figures: Mapping[str, Figure]) -> list[Path]:
    """Rows and pictures into files of these names among the run's assets; their paths."""
    for name, rows in tables.items():
        write_csv(run.assets / name, rows)
    for name, figure in figures.items():
        write_bytes(run.assets / name, figure_png(figure))
    return [run.assets / name for name in (*tables, *figures)]


def _closed_loop_metrics(frames: Sequence[FrameRow]) -> dict[str, float]:
    """Outputs of the first and of the last frame of every stage, mean of the videos."""
    numbers = {"first_frame": min(row.frame for row in frames), "last_frame": max(row.frame for row in frames)}
    metrics = {
        f"closed_loop.{stage}.{when}_{output}": mean_db(frames, stage, number, output)
        for stage in dict.fromkeys(row.stage for row in frames)
        for when, number in numbers.items()
        for output in FRAME_OUTPUTS
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
