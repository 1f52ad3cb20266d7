"""Weights and artefact of a finished `street` run into the package: what `make weights` does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from motrlab.errors import UserError
from motrlab.files import replaced_folder
from motrlab.machine import package_versions
from motrlab.report.provenance import command
from motrlab.run import Run
from motrlab.shipped import ARTIFACT, FOLDER, PROVENANCE, SHIPPED, WEIGHTS


def ship(run: Run, folder: Path = FOLDER) -> Path:
    """Take a finished `street` run's float weights and artefact, with where they come from. Returns `folder`.

    Raises UserError where the run is of another preset or has no artefact.
    """
    if run.config.preset != SHIPPED or not run.has("fixed_point"):
        raise UserError(f"run {run.name!r}: only a finished run of preset {SHIPPED!r} is shipped")
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
    return folder
