"""Stages `fixed_point` and `perf`: the artefact, its integer share, its pictures and its latency."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from motrlab.deploy.artifact import write_artifact
from motrlab.deploy.perf import measure_latency
from motrlab.evaluation.tracks import read_tracks
from motrlab.run import Run, git_state
from motrlab.stages.accuracy import read_frames
from motrlab.stages.data import open_store
from motrlab.viz.overlay import contact_sheet, draw_frame, tracks_of_frame, trails_until, write_image

_PERF_FRAMES = 60  # of the first test video


def convert(run: Run, *, exact: bool = True) -> dict[str, Any]:
    """QAT model → ONNX → artefact; record kind `integer`: the share of work done by integer kernels.

    `exact`: as for `deploy.rewrite.rewrite_for_onnxruntime`.
    """
    import torch

    from motrlab.deploy.export import export_float, export_portable
    from motrlab.deploy.integer import integer_share
    from motrlab.deploy.rewrite import rewrite_for_onnxruntime
    from motrlab.model.motr import folded_copy
    from motrlab.stages.models import load_float, load_quantized

    started = time.time()
    quantized = load_quantized(run, "qat")
    reference_logits = quantized.base.get_parameter("detect.reference_logits")
    export = run.path / "export"
    export_portable(quantized, export)
    export_float(folded_copy(load_float(run)), export / "float")
    for graph in ("base", "qim"):
        rewrite_for_onnxruntime(export / f"{graph}.onnx", export / f"{graph}.ort.onnx", exact=exact)
    write_artifact(
        run.artifact,
        base_onnx=export / "base.onnx",
        qim_onnx=export / "qim.onnx",
        base_ort=export / "base.ort.onnx",
        qim_ort=export / "qim.ort.onnx",
        detect_query=quantized.graphs.detect_query.detach().numpy(),
        detect_reference=torch.sigmoid(reference_logits.detach()).numpy(),
        config=run.config,
        provenance={"run": run.name, "stage": "qat", "exact": exact, "git_commit": git_state()["git_commit"]},
    )
    metrics: dict[str, float] = {}
    for graph in ("base", "qim"):
        share = integer_share(run.artifact / f"{graph}.ort.onnx")
        metrics |= {f"{graph}.integer_macs_share": share.macs_share, f"{graph}.integer_nodes_share": share.nodes_share}
        metrics |= {f"{graph}.num_products": len(share.products), f"{graph}.num_float_products": len(share.float_names)}
        metrics[f"{graph}.size_mb"] = (run.artifact / f"{graph}.onnx").stat().st_size / 1e6
        metrics[f"{graph}.fp32_size_mb"] = (export / "float" / f"{graph}.onnx").stat().st_size / 1e6
    return run.add_record("fixed_point", "integer", metrics, started=started)


def measure_performance(run: Run, *, repeats: int = 50) -> dict[str, Any]:
    """Latency of the artefact beside fp32, and of each part of the frame step; record kind `latency`, its metrics."""
    started = time.time()
    store = open_store(run)
    info = store.sequences[0]
    frames = list(read_frames(store, info.name, 1, min(_PERF_FRAMES, info.num_frames)))
    folder = run.path / "export" / "float"
    metrics = measure_latency(
        run.artifact, folder / "base.onnx", folder / "qim.onnx", frames, num_threads=(1, 2), repeats=repeats
    )
    run.add_record("perf", "latency", metrics, started=started)
    return metrics


def draw_overlays(run: Run, stage: str = "fixed_point", *, num_sheets: int = 3, num_frames: int = 4) -> list[Path]:
    """Contact sheets of a stage's tracks, consecutive frames of the first videos; record kind `overlay`."""
    started = time.time()
    store = open_store(run)
    run.assets.mkdir(parents=True, exist_ok=True)
    assets = []
    for info in store.sequences[:num_sheets]:
        tracks = read_tracks(run.tracks(stage) / f"{info.name}.txt")
        step = max(1, min(8, info.num_frames // num_frames))
        frames = [1 + info.num_frames // 2 + step * i for i in range(num_frames)]
        pictures = [
            draw_frame(store.image(info.name, f), tracks_of_frame(tracks, f), trails_until(tracks, f))
            for f in frames
            if f <= info.num_frames
        ]
        path = run.assets / f"{stage}_{info.name}.jpg"
        write_image(path, contact_sheet(pictures, columns=2))
        assets.append(path)
    run.add_record(stage, "overlay", {"num_sheets": len(assets)}, started=started, assets=assets)
    return assets
