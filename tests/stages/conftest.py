"""A run with a tiny street data set, prepared once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from motrlab.run import Run
from motrlab.stages.data import prepare_data

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
