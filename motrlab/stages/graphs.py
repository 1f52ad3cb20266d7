"""Portable graphs to check, compile and predict: of an artefact, of a run's latest stage, or of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from motrlab.deploy.layers import read_onnx
from motrlab.errors import UserError
from motrlab.run import Run

STAGES = ("fixed_point", "qat", "calibration", "float")  # the latest first


@dataclass(frozen=True)
class GraphSource:
    """`base` and `qim` as `deploy.portable` writes them. `told`: what they are of, for messages and records.
    `artifact`: its folder; None where the graphs are of no artefact.
    """

    graphs: dict[str, onnx.ModelProto]
    told: str
    artifact: Path | None = None


def graphs_of_artifact(folder: Path) -> GraphSource:
    """Raises UserError where the artefact is damaged or of another schema."""
    from motrlab.deploy.artifact import read_tracker_description, verify_artifact

    verify_artifact(folder)
    read_tracker_description(folder)
    graphs = {name: read_onnx(folder / f"{name}.onnx") for name in ("base", "qim")}
    return GraphSource(graphs, f"artefact {folder}", folder)


def graphs_of_run(run: Run, stage: str = "") -> GraphSource:
    """Of a stage, by default the latest that the run has. Raises UserError where there is none."""
    from motrlab.deploy.portable import portable_graphs
    from motrlab.model.motr import folded_copy
    from motrlab.stages.chain import require
    from motrlab.stages.models import load_float, load_quantized

    stage = stage or next(filter(run.has, STAGES), "float")
    require(run, stage)
    if stage == "fixed_point":
        return graphs_of_artifact(run.artifact)
    if stage == "float":
        return GraphSource(portable_graphs(folded_copy(load_float(run))), f"run {run.name}, float")
    return GraphSource(portable_graphs(load_quantized(run, stage)), f"run {run.name}, {stage}")


def graphs_of_preset(name: str, stage: str = "") -> GraphSource:
    """A preset's network with random weights, on the grids of its scheme: what a target thinks of it before anything is
    trained. With `stage` `float` in float; any other raises UserError.
    """
    import torch

    from motrlab.config.presets import load_preset
    from motrlab.deploy.portable import portable_graphs
    from motrlab.model.motr import Motr, folded_copy
    from motrlab.quantization.quantized import QuantizedMotr

    if stage not in ("", "float"):
        raise UserError(f"preset {name} has no stage {stage}: give --stage float, or --run NAME")
    config = load_preset(name)
    torch.manual_seed(config.seed)
    model = folded_copy(Motr(config.model))
    if stage:
        return GraphSource(portable_graphs(model), f"preset {name}, float, not trained")
    quantised = QuantizedMotr(model, config.scheme)
    quantised.ranges.finish()  # nothing was observed: all grids have one range
    quantised.mode("evaluate")
    return GraphSource(portable_graphs(quantised), f"preset {name}, not trained")


def find_graphs(run: str = "", artifact: Path | None = None, preset: str = "", stage: str = "") -> GraphSource:
    """Of the one that is given. Raises UserError where that is not one."""
    if sum(map(bool, (run, artifact, preset))) != 1:
        raise UserError("say what to look at: one of --run NAME, --artifact PATH or --preset P")
    if artifact:
        return graphs_of_artifact(artifact)
    return graphs_of_run(Run.open(run, create=False), stage) if run else graphs_of_preset(preset, stage)
