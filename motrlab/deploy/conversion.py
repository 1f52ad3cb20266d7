"""From a model to its deployed files: the artefact of one in fixed point, and the fp32 graphs to compare it with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.config import Config
from motrlab.deploy.artifact import ARTIFACT_FILES, GRAPH_FILES, MANIFEST, SCHEMA, file_hash
from motrlab.deploy.kernel_graph import kernel_graphs
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.deploy.portable import portable_graphs
from motrlab.files import replaced_folder, write_text
from motrlab.machine import package_versions
from motrlab.model.motr import Motr
from motrlab.quantization.quantized import QuantizedMotr


def save_artifact(
    folder: Path,
    quantised: QuantizedMotr,
    config: Config,
    provenance: Mapping[str, Any],
    *,
    classes: Classes = PEOPLE,
) -> Path:
    """Assemble the artefact beside `folder` and move it into place; an older one is replaced. Returns `folder`.

    Raises UserError where the scheme asks for what integer kernels lack.

    Args:
        folder: where the artefact goes.
        quantised: its model, in mode `evaluate`.
        config: shapes, thresholds, hash and seed.
        provenance: JSON values such as run, stage and git commit; nothing in it may change from call to call if the
            files' bytes are to be the same.
        classes: what its tracks are of; as many as the model has.
    """
    classes.check(config.model.num_classes, "the data")
    graphs = {f"{name}.ort.onnx": graph for name, graph in kernel_graphs(quantised).items()}
    graphs |= {f"{name}.onnx": graph for name, graph in portable_graphs(quantised).items()}
    query, reference = (x.numpy() for x in quantised.detect_slots())
    with replaced_folder(folder) as temporary:
        for name in GRAPH_FILES:
            save_onnx(graphs[name], temporary / name)
        # Every member gets the zip epoch as its time, so that equal arrays are equal bytes.
        np.savez(temporary / "queries.npz", query=query, reference=reference)
        _write_json(temporary / "tracker.json", _tracker_description(config, classes))
        manifest = {
            "schema": SCHEMA,
            "files": {name: file_hash(temporary / name) for name in ARTIFACT_FILES},
            "versions": package_versions(),
            "provenance": {"config_hash": config.hash, "preset": config.preset, "seed": config.seed, **provenance},
        }
        _write_json(temporary / MANIFEST, manifest)
    return folder


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _tracker_description(config: Config, classes: Classes) -> dict[str, Any]:
    model = config.model
    sizes = {name: getattr(model, name) for name in ("num_detect", "num_track", "slot_columns", "d_model")}
    slots = [model.num_slots // model.slot_columns, model.slot_columns]
    channels = {"class_logits": model.num_classes, "boxes": 4, "embedding": model.d_model}
    return ({"classes": classes.text} if classes.text else {}) | {
        "schema": SCHEMA,
        "tracker": {name: rule for name, rule in dataclasses.asdict(config.tracker).items() if rule != ()},
        "preprocess": {
            "height": model.height,
            "width": model.width,
            "resize": "aspect not kept; area where a side shrinks to less than half, bilinear otherwise",
            "colour": "YUV 4:4:4, BT.601 full range",
            "bytes": "uint8 [1, height, width, 3]: input of base.ort.onnx, zero point 128, scale 1/128",
            "float": "float32 [1, 3, height, width], (YUV - 128) / 128: input of base.onnx",
        },
        "weight_bits": config.scheme.weight_bits,
        "shapes": sizes | {name: [1, number, *slots] for name, number in channels.items()},
        "boxes": "relative" if model.relative_boxes else "logits",
    }


def save_float_graphs(folder: Path, model: Motr) -> Path:
    """Write the fp32 `base.onnx` and `qim.onnx` of a folded float model. Returns `folder`."""
    for name, graph in portable_graphs(model).items():
        save_onnx(graph, folder / f"{name}.onnx")
    return folder
