"""Weights and artefact of a finished `street` run into the package, and its picture for README: `make weights`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from motrlab.errors import UserError
from motrlab.files import replaced_folder, write_bytes
from motrlab.machine import package_versions
from motrlab.report.provenance import command
from motrlab.run import Run
from motrlab.shipped import ARTIFACT, FOLDER, PROVENANCE, SHIPPED, WEIGHTS
from motrlab.viz.overlay import image_jpeg

PICTURE = FOLDER.parents[1] / "docs" / "tracks.jpg"  # in a checkout; README shows it


def ship(run: Run, folder: Path = FOLDER, picture: Path = PICTURE) -> Path:
    """Take a finished `street` run's float weights and artefact, with where they come from. Returns `folder`.

    In a checkout `picture` is written, too. Raises UserError where the run is of another preset, or lacks the artefact
    or a picture of its tracks.
    """
    if run.config.preset != SHIPPED or not run.has("fixed_point"):
        raise UserError(f"run {run.name!r}: only a finished run of preset {SHIPPED!r} is shipped")
    sheet = tracks_jpeg(run)
    tensors = load_file(run.model_file("float"))
    halves = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    accuracy = {stage: run.last_record(stage, "accuracy") for stage in ("float", "fixed_point")}
    making = run.records("float", "training")[-1]
    told = {
        "licence": "Apache-2.0",
        "data": "motrlab's synthetic street videos, generated from a seed; no other data, no other weights",
        "command": command(run),
        "config_hash": run.config.hash,
        **{name: making[name] for name in ("data_hash", "seed", "git_commit", "hardware")},
        "versions": package_versions(),
        "test_halves": {
            stage: {m: record["metrics"][f"motchallenge.{m}"] for m in ("mota", "idf1", "hota")}
            for stage, record in accuracy.items()
            if record
        },
    }
    with replaced_folder(folder) as temporary:
        save_file(halves, temporary / WEIGHTS)
        shutil.copytree(run.artifact, temporary / ARTIFACT)
        (temporary / WEIGHTS).chmod(0o644)
        (temporary / PROVENANCE).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if picture.parent.is_dir():
        write_bytes(picture, sheet)
    return folder


def tracks_jpeg(run: Run) -> bytes:
    """The first sheet of the fixed-point tracker's frames, 1200 pixels wide. Raises UserError where there is none."""
    record = run.last_record("fixed_point", "overlay")
    image = cv2.imread(str(run.path / record["assets"][0])) if record else None
    if image is None:
        raise UserError(f"run {run.name!r}: no picture of its tracks; notebook 06 draws them")
    return image_jpeg(np.asarray(image, np.uint8), 1200)
