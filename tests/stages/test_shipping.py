"""Weights and artefact into the package, and what starts from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from motrlab.config import load_preset, smoke, street
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.names import CHAIN
from motrlab.run import Run
from motrlab.shipped import FOLDER, PROVENANCE, shipped_artifact, shipped_weights
from motrlab.stages.shipping import ship, tracks_jpeg
from motrlab.training.initial_weights import initial_model


def test_the_package_holds_under_six_megabytes() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert 1e6 < sum(file.stat().st_size for file in files) < 6e6


def test_where_the_weights_come_from_is_told() -> None:
    told = json.loads((FOLDER / PROVENANCE).read_text(encoding="utf-8"))
    assert told["config_hash"] == street().hash, "the preset has changed: run `make weights`"
    assert told["licence"] == "Apache-2.0"
    assert told["test_halves"]["fixed_point"]["mota"] > 0.85
    assert {"command", "data_hash", "git_commit", "versions", "hardware", "seed"} <= told.keys()


def test_smoke_starts_from_all_of_them() -> None:
    model, report = initial_model(smoke())
    assert report is not None
    assert report.share == 1.0
    assert not report.mismatched
    random = build_motr(smoke().model, smoke().seed)
    assert not torch.equal(model.base.detect.query, random.base.detect.query)
    assert initial_model(replace(smoke(), train=replace(smoke().train, init="")))[1] is None


def test_the_artefact_loads_and_has_the_presets_shapes() -> None:
    runtime = load_artifact(shipped_artifact())
    model = load_preset("smoke").model
    assert (runtime.shapes.height, runtime.shapes.width) == (model.height, model.width)


def test_only_a_finished_street_run_is_shipped(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a finished run of preset 'street'"):
        ship(Run.open("half", "street"), tmp_path / "weights")
    with pytest.raises(UserError, match="only a finished run"):
        ship(Run.open("small", "smoke"), tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_the_picture_is_the_first_sheet_of_the_shipped_tracker(home: Path, make_stage: Callable[..., None]) -> None:
    run = Run.open("demo", "street")
    for stage in ("data", *CHAIN[1:]):
        make_stage(run, stage)
    with pytest.raises(UserError, match=r"'demo': no picture of its tracks; notebook 06 draws them"):
        tracks_jpeg(run)
    sheets = [run.assets / "first.png", run.assets / "second.png"]
    run.assets.mkdir(exist_ok=True)
    for grey, sheet in zip((40, 200), sheets, strict=True):
        cv2.imwrite(str(sheet), np.full((1086, 1926, 3), grey, np.uint8))
    run.add_record("fixed_point", "overlay", {"num_sheets": 2}, started=0.0, assets=sheets)
    image = cv2.imdecode(np.frombuffer(tracks_jpeg(run), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert (image.shape, int(image.mean())) == ((677, 1200, 3), 40)


def test_weights_are_float16_and_come_back(tmp_path: Path) -> None:
    """What `ship` halves is what `initial_model` gives, to float16."""
    model, _ = initial_model(smoke())
    file = tmp_path / "model.safetensors"
    save_file({f"model.{name}": t.contiguous() for name, t in model.state_dict().items()}, file)
    again, _ = initial_model(replace(smoke(), train=replace(smoke().train, init=str(file))))
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert shipped_weights().stat().st_size < 2.5e6
