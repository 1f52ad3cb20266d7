"""The artefact: a folder that a fixed-point tracker runs from, without the network's code or its checkpoint.

`base.onnx` and `qim.onnx` are portable (a QuantizeLinear / DequantizeLinear pair at every tensor), `base.ort.onnx` and
`qim.ort.onnx` are the exact integers on ONNX Runtime's kernels. `queries.npz` holds the learned detect slots on their
grids, `tracker.json` all that the frame step needs beside the graphs, `manifest.json` the hash of every other file and
where the artefact comes from. `conversion.py` writes all that.

What stays on the host: the image's bytes (resized, YUV, rounded), the tracker, the gathering of slots between the
graphs, and for `boxes: logits` the last boxes, by a table (`quantization.functions.box_table`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.errors import UserError

SCHEMA = 2  # 1: products in int8, all else in float or double
GRAPH_FILES = ("base.onnx", "qim.onnx", "base.ort.onnx", "qim.ort.onnx")
ARTIFACT_FILES = (*GRAPH_FILES, "queries.npz", "tracker.json")
MANIFEST = "manifest.json"
_DESCRIBED = ("weight_bits", "boxes", "preprocess", "shapes", "tracker")
_HINT = "convert the run again: notebook 05_conversion"
_WHERE = f"give an artefact's folder, such as runs/NAME/artifact, or {_HINT}"


def verify_artifact(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact all of whose files are there and unchanged. Raises UserError naming the first bad."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such artefact folder; {_WHERE}")
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder / MANIFEST}: missing from the artefact; {_WHERE}")
    manifest = _read_json(folder / MANIFEST)
    _check_schema(folder / MANIFEST, manifest)  # first: another schema may have other files
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise UserError(f"{folder / MANIFEST}: lists no files; {_HINT}")
    for file in (folder / name for name in ARTIFACT_FILES):
        if file_hash(file) != hashes.get(file.name):
            raise UserError(f"{file}: its hash differs from the one in {MANIFEST}; {_HINT}")
    return manifest


def read_tracker_description(folder: Path) -> dict[str, Any]:
    """`tracker.json` of a verified artefact. Raises UserError if another motrlab, or something else, wrote it."""
    file = folder / "tracker.json"
    description = _read_json(file)
    _check_schema(file, description)
    if missing := [name for name in _DESCRIBED if name not in description]:
        raise UserError(f"{file}: not of one of motrlab's trackers: {missing[0]!r} is missing; {_HINT}")
    return description


def _check_schema(file: Path, values: Mapping[str, Any]) -> None:
    if (found := values.get("schema")) != SCHEMA:
        raise UserError(f"{file}: an artefact of schema {found!r}, this motrlab reads {SCHEMA}; {_HINT}")


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: missing from the artefact; {_HINT}")
    return path.read_bytes()


def file_hash(path: Path) -> str:
    """SHA-256 of a file of an artefact. Raises UserError if it is missing."""
    return hashlib.sha256(_content(path)).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    text = _content(path)
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {_HINT}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object; {_HINT}")
    return values
