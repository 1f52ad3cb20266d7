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
from motrlab.stages.training import train_float


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
def trained_home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared project, its run with a float model."""
    home = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(prepared_home, home, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(home))
        train_float(Run.open("tiny", create=False))
    return home


@pytest.fixture
def trained(trained_home: Path, home: Path) -> Run:
    """A copy of the run with a float model, the test's own."""
    shutil.copytree(trained_home / "runs", home / "runs", symlinks=True)
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
