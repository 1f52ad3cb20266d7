"""A layer of a run or an artefact cut out for a vendor's ticket, with its values in a frame of the closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from motrlab.deploy.cutting import Cut, cut_layer, find_layer, run_cut, write_cut
from motrlab.deploy.layers import layers_of_model
from motrlab.deploy.measuring import street_frames
from motrlab.deploy.perf import GRAPHS, Image, record_inputs
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.accuracy import read_frames
from motrlab.stages.chain import require
from motrlab.stages.data import open_store


def cut_of_run(name: str, layer: str, graph: str, frame: int, out: Path, *, floats: bool = False) -> str:
    """Of a run's artefact, or of the fp32 graphs beside it; the frame is one of its first test video. What was done, in
    words.
    """
    run = Run.open(name, create=False)
    require(run, "fixed_point")
    store = open_store(run)
    images = list(read_frames(store, store.sequences[0].name, 1, frame))
    return _cut(
        run.artifact, run.path / "export" / "float" if floats else run.artifact, images, layer, graph, frame, out
    )


def cut_of_artifact(artifact: Path, layer: str, graph: str, frame: int, out: Path) -> str:
    """The frame is one of an embedded video."""
    return _cut(artifact, artifact, street_frames(frame) if frame > 0 else [], layer, graph, frame, out)


def _cut(artifact: Path, folder: Path, images: Sequence[Image], layer: str, graph: str, frame: int, out: Path) -> str:
    if not 1 <= frame <= len(images):
        raise UserError(f"debug: frame {frame}: the video has frames 1 to {len(images)}")
    runtime = load_artifact(artifact).on_files(folder)
    models = {name: onnx.load(folder / f"{name}.onnx") for name in GRAPHS}
    found = find_layer({name: layers_of_model(model, name) for name, model in models.items()}, layer, graph)
    feed = record_inputs(runtime, images, most=frame)[found.graph][-1]
    cut = cut_layer(models[found.graph], found, feed)
    return _told(cut, *write_cut(out, cut), frame)


def _told(cut: Cut, model: Path, values: Path, frame: int) -> str:
    again = run_cut(cut)
    equal = all(np.array_equal(again[name], x) for name, x in cut.outputs.items())
    lines = [f"{cut.layer.graph} {cut.layer.name} in frame {frame} of the closed loop"]
    for kind, arrays in (("input", cut.inputs), ("output", cut.outputs)):
        for name, x in arrays.items():
            spread = f"{x.min():.6g} to {x.max():.6g}" if x.size else "empty"
            lines.append(f"  {kind} {name}: {x.dtype} {list(x.shape)}, {spread}")
    lines += [f"  alone it gives the same on ONNX Runtime: {equal}", str(model), str(values)]
    return "\n".join(lines)
