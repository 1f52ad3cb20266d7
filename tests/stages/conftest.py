"""A run with a tiny street data set, prepared once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from motrlab.deploy.conversion import save_artifact
from motrlab.model.motr import build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import evaluate_stage, network_inputs
from motrlab.stages.data import open_store, prepare_data

PRESET = f"""
import sys
from dataclasses import replace
from motrlab.config import StreetConfig, TrackerConfig

sys.path.append({str(Path(__file__).parents[2])!r})
from tests.tiny import tiny as base_config

def tiny():
    street = StreetConfig(num_videos=2, num_unseen=1, num_frames=24, width=160, height=90)
    base = base_config()
    model = replace(base.model, height=48, width=80)
    # Scores of a model that has learnt nothing lie near its prior: with these thresholds it still tracks something.
    eager = TrackerConfig(birth_score=0.0, miss_score=0.0, reset_score=0.0, output_score=0.0, min_area_px=0.0)
    return replace(base, street=street, model=model, tracker=eager,
                   train=replace(base.train, steps=2, frames_per_step=4, bf16=False))
"""


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preset of a user's own: two videos of 24 frames and one unseen, 160×90 pixels; two steps of training."""
    file = tmp_path_factory.mktemp("preset") / "mine.py"
    file.write_text(PRESET)
    return f"{file}:tiny"


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory, tiny_preset: str) -> Path:
    """A project root whose run `tiny` has its data."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(home))
        prepare_data(Run.open("tiny", tiny_preset), num_workers=1)
    return home


@pytest.fixture
def run(prepared_home: Path, home: Path) -> Run:
    """A copy of the prepared run, the test's own."""
    shutil.copytree(prepared_home / "runs", home / "runs", symlinks=True)
    return Run.open("tiny", create=False)


@pytest.fixture(scope="session")
def converted_home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared run with an artefact of random weights and its evaluation."""
    home = tmp_path_factory.mktemp("converted")
    shutil.copytree(prepared_home / "runs", home / "runs", symlinks=True)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("MOTRLAB_HOME", str(home))
        run = Run.open("tiny", create=False)
        quantised = QuantizedMotr(folded_copy(build_motr(run.config.model)), run.config.scheme)
        store = open_store(run, "train")
        calibrate(quantised, [list(network_inputs(run, store, store.sequences[0].name, 1, 3))], run.config)
        save_artifact(run.artifact, quantised, run.config, {})
        evaluate_stage(run, "fixed_point")
    return home


@pytest.fixture
def converted(converted_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the converted run, the test's own."""
    shutil.copytree(converted_home / "runs", home / "runs", symlinks=True)
    monkeypatch.setattr("motrlab.stages.chain.require", lambda run, stage: None)  # it has no checkpoints
    return Run.open("tiny", create=False)
