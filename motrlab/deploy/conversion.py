"""From a model to its deployed files: the artefact of one in fixed point, and the fp32 graphs to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from motrlab.config import Config
from motrlab.deploy.artifact import write_artifact
from motrlab.deploy.kernel_graph import kernel_graphs
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.deploy.portable import float_graphs, portable_graphs
from motrlab.model.motr import Motr
from motrlab.quantization.quantized import QuantizedMotr


def artifact_graphs(quantised: QuantizedMotr) -> dict[str, onnx.ModelProto]:
    """The graphs of an artefact by file (`artifact.GRAPH_FILES`); `quantised` must be in mode `evaluate`.

    Raises UserError where the scheme asks for what integer kernels lack.
    """
    exact = {f"{name}.ort.onnx": graph for name, graph in kernel_graphs(quantised).items()}
    return exact | {f"{name}.onnx": graph for name, graph in portable_graphs(quantised).items()}


def save_artifact(
    folder: Path,
    quantised: QuantizedMotr,
    config: Config,
    provenance: Mapping[str, Any],
    *,
    graphs: Mapping[str, onnx.ModelProto] | None = None,
) -> Path:
    """Write the artefact of `quantised`, or of its `artifact_graphs` where they exist already; see `write_artifact`."""
    query, reference = quantised.detect_slots()
    return write_artifact(
        folder,
        graphs=artifact_graphs(quantised) if graphs is None else graphs,
        detect_query=query.numpy(),
        detect_reference=reference.numpy(),
        config=config,
        provenance=provenance,
    )


def save_float_graphs(folder: Path, model: Motr) -> Path:
    """Write the fp32 `base.onnx` and `qim.onnx` of a folded float model. Returns `folder`."""
    for name, graph in float_graphs(model).items():
        save_onnx(graph, folder / f"{name}.onnx")
    return folder
