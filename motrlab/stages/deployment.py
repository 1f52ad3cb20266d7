"""Stages `fixed_point` and `perf`: the artefact, its integer share, its pictures and its latency."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from motrlab.deploy.kernels import Network
from motrlab.deploy.perf import Form
from motrlab.deploy.performance import Performance
from motrlab.deploy.trace import save_performance
from motrlab.evaluation.tracks import read_tracks
from motrlab.lineage import stage_hash
from motrlab.machine import git_state
from motrlab.names import lineage
from motrlab.run import Run, exclusive
from motrlab.stages.accuracy import read_frames, require_tracks
from motrlab.stages.data import open_store
from motrlab.viz.overlay import contact_sheet, draw_frame, tracks_of_frame, trails_until, write_image

_PERF_FRAMES = 60  # of the first test video


@exclusive
def convert(run: Run) -> dict[str, Any]:
    """QAT model → ONNX → artefact; record kind `integer`: the share of work done by integer kernels.

    Raises UserError where the run's scheme asks for what integer kernels lack.
    """
    from motrlab.deploy.conversion import save_artifact, save_float_graphs
    from motrlab.deploy.kernel_layers import integer_share
    from motrlab.model.motr import folded_copy
    from motrlab.stages.models import load_float, load_quantized

    started = time.time()
    quantised = load_quantized(run, "qat")
    made_from = {stage: stage_hash(run.path, stage) for stage in lineage("qat")}
    provenance = {"run": run.name, "stage": "qat", "made_from": made_from, "git_commit": git_state()["git_commit"]}
    config = replace(run.config, scheme=quantised.scheme)
    save_artifact(run.artifact, quantised, config, provenance, classes=open_store(run).classes)
    export = save_float_graphs(run.path / "export" / "float", folded_copy(load_float(run)))
    metrics: dict[str, float | str] = {}
    for graph in ("base", "qim"):
        share = integer_share(run.artifact / f"{graph}.ort.onnx", quantised.scheme.weight_bits)
        metrics |= {f"{graph}.integer_macs_share": share.macs_share, f"{graph}.integer_nodes_share": share.nodes_share}
        metrics |= {f"{graph}.num_products": len(share.products), f"{graph}.num_float_products": share.num_float}
        metrics |= {f"{graph}.num_nodes": share.num_nodes, f"{graph}.float_nodes_share": share.float_share}
        metrics[f"{graph}.float_nodes"] = ", ".join(f"{name} {count}" for name, count in share.float_nodes.items())
        metrics[f"{graph}.inexact_operators"] = ", ".join(share.inexact)
        metrics[f"{graph}.size_mb"] = (run.artifact / f"{graph}.ort.onnx").stat().st_size / 1e6
        metrics[f"{graph}.portable_size_mb"] = (run.artifact / f"{graph}.onnx").stat().st_size / 1e6
        metrics[f"{graph}.fp32_size_mb"] = (export / f"{graph}.onnx").stat().st_size / 1e6
    return run.add_record("fixed_point", "integer", metrics, started=started)


def measure_performance(run: Run, *, repeats: int = 50, target: str = "onnxruntime-cpu") -> dict[str, Any]:
    """`measure_run`; its flat metrics."""
    return measure_run(run, repeats=repeats, target=target)[0]


def measure_run(
    run: Run, *, repeats: int = 50, target: str = "onnxruntime-cpu", design_fps: float = 30.0
) -> tuple[dict[str, Any], Performance]:
    """Latency of the artefact beside other forms of the same network, and of each part of the frame step.

    Record kind `latency`: flat metrics; the files of `deploy.trace.save_performance`. Returns the metrics and the
    `Performance`. Raises UserError for a target that is not this machine.
    """
    from motrlab.deploy.measuring import measure_artifact

    started = time.time()
    store = open_store(run)
    info = store.sequences[0]
    frames = list(read_frames(store, info.name, 1, min(_PERF_FRAMES, info.num_frames)))
    folder = run.path / "export" / "float"
    forms = {"torch": Form(lambda threads: _torch_networks(run, threads))}
    metrics, found = measure_artifact(
        run.artifact, folder, frames, repeats=repeats, target=target, design_fps=design_fps, more=forms
    )
    files = save_performance(found, run.assets)
    run.add_record("perf", "latency", metrics | {"target": target}, started=started, assets=files)
    return metrics, found


def _torch_networks(run: Run, threads: int) -> list[Network]:
    """The float model of a run, BatchNorm folded, as it runs in PyTorch without a compiler."""
    from motrlab.deploy.eager import torch_networks
    from motrlab.model.motr import folded_copy
    from motrlab.stages.models import load_float

    return torch_networks(folded_copy(load_float(run)), threads)


def draw_overlays(run: Run, stage: str = "fixed_point", *, num_sheets: int = 3, num_frames: int = 4) -> list[Path]:
    """Contact sheets of a stage's tracks, consecutive frames of the first videos; record kind `overlay`.

    Tracks that are missing, or not those of the stage as it is now, are made first.
    """
    require_tracks(run, stage)
    started = time.time()
    store = open_store(run)
    assets = []
    for info in store.sequences[:num_sheets]:
        tracks = read_tracks(run.tracks(stage) / f"{info.name}.txt", store.classes)
        step = max(1, min(8, (info.num_frames - info.num_frames // 2 - 1) // max(1, num_frames - 1)))
        frames = [1 + info.num_frames // 2 + step * i for i in range(num_frames)]
        pictures = [
            draw_frame(
                store.image(info.name, f),
                tracks_of_frame(tracks, f, store.classes),
                trails_until(tracks, f),
                classes=store.classes,
            )
            for f in frames
            if f <= info.num_frames
        ]
        path = run.assets / f"{stage}_{info.name}.jpg"
        write_image(path, contact_sheet(pictures, columns=2))
        assets.append(path)
    run.add_record(
        stage, "overlay", {"num_sheets": len(assets)}, started=started, assets=assets, tracks=run.tracks(stage)
    )
    return assets
