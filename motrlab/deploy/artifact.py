"""The artefact: a folder that a fixed-point tracker runs from, without the network's code or its checkpoint.

`base.onnx` and `qim.onnx` are portable (a QuantizeLinear / DequantizeLinear pair at every tensor), `base.ort.onnx` and
`qim.ort.onnx` are the exact integers on ONNX Runtime's kernels. `queries.npz` holds the learned detect slots on their
grids, `tracker.json` all that the frame step needs beside the graphs, `manifest.json` the hash of every other file and
where the artefact comes from.

What stays on the host: the image's bytes (resized, YUV, rounded), the tracker, the gathering of slots between the
graphs, and for `boxes: logits` the last boxes, by a table (`quantization.functions.box_table`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.files import replaced_folder
from motrlab.machine import package_versions

if TYPE_CHECKING:
    import onnx

SCHEMA = 2  # 1: products in int8, all else in float or double
GRAPH_FILES = ("base.onnx", "qim.onnx", "base.ort.onnx", "qim.ort.onnx")
ARTIFACT_FILES = (*GRAPH_FILES, "queries.npz", "tracker.json")
MANIFEST = "manifest.json"
_HINT = "convert the run again: notebook 05_conversion"


def write_artifact(
    folder: Path,
    *,
    graphs: Mapping[str, onnx.ModelProto],
    detect_query: NDArray[np.floating],
    detect_reference: NDArray[np.floating],
    config: Config,
    provenance: Mapping[str, Any],
) -> Path:
    """Assemble the artefact beside `folder` and move it into place; an older one is replaced. Returns `folder`.

    Args:
        folder: where the artefact goes.
        graphs: the model of each of `GRAPH_FILES`.
        detect_query: `[1, C, D / W, W]`, on its grid.
        detect_reference: `[1, 4, D / W, W]`, cxcywh as fractions of the image, on its grid.
        config: shapes, thresholds, hash and seed.
        provenance: JSON values such as run, stage and git commit; nothing in it may change from call to call if the
            files' bytes are to be the same.
    """
    from motrlab.deploy.onnx_graph import save_onnx

    with replaced_folder(folder) as temporary:
        for name in GRAPH_FILES:
            save_onnx(graphs[name], temporary / name)
        # Every member gets the zip epoch as its time, so that equal arrays are equal bytes.
        query, reference = (np.asarray(x, np.float32) for x in (detect_query, detect_reference))
        np.savez(temporary / "queries.npz", query=query, reference=reference)
        _write_json(temporary / "tracker.json", _tracker_description(config))
        manifest = {
            "schema": SCHEMA,
            "files": {name: _sha256(temporary / name) for name in ARTIFACT_FILES},
            "versions": package_versions(),
            "provenance": {"config_hash": config.hash, "preset": config.preset, "seed": config.seed, **provenance},
        }
        _write_json(temporary / MANIFEST, manifest)
    return folder


def _tracker_description(config: Config) -> dict[str, Any]:
    model = config.model
    sizes = {name: getattr(model, name) for name in ("num_detect", "num_track", "slot_columns", "d_model")}
    slots = [model.num_slots // model.slot_columns, model.slot_columns]
    channels = {"class_logits": 1, "boxes": 4, "embedding": model.d_model}
    return {
        "schema": SCHEMA,
        "tracker": dataclasses.asdict(config.tracker),
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


def verify_artifact(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact all of whose files are there and unchanged. Raises UserError naming the first bad."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such artefact folder; {_HINT}")
    manifest = _read_json(folder / MANIFEST)
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise UserError(f"{folder / MANIFEST}: lists no files; {_HINT}")
    for file in (folder / name for name in ARTIFACT_FILES):
        if _sha256(file) != hashes.get(file.name):
            raise UserError(f"{file}: its hash differs from the one in {MANIFEST}; {_HINT}")
    return manifest


def read_tracker_description(folder: Path) -> dict[str, Any]:
    """`tracker.json` of a verified artefact. Raises UserError if another version of motrlab wrote it."""
    file = folder / "tracker.json"
    description = _read_json(file)
    found = description.get("schema")
    if found != SCHEMA:
        raise UserError(f"{file}: an artefact of schema {found!r}, this motrlab reads {SCHEMA}; {_HINT}")
    return description


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: missing from the artefact; {_HINT}")
    return path.read_bytes()


def _sha256(path: Path) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    text = _content(path)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {_HINT}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; {_HINT}")
    return values
