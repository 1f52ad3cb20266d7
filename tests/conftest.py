"""Fixtures for every room."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from motrlab.doctor import find_chromium
from motrlab.lineage import DATA_HASH, MAKING
from motrlab.run import Run

MakeStage = Callable[..., None]

PRESET = f"""
import sys
from dataclasses import replace
from motrlab.config import StreetConfig, TrackerConfig

sys.path.append({str(Path(__file__).parents[1])!r})
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root; runs and reports of the test go there."""
    monkeypatch.setenv("MOTRLAB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def make_stage() -> MakeStage:
    """`make_stage(run, "float", "content")`: what the stage leaves, a stand-in, and the record of its making.

    With `recorded=False` the first alone.
    """

    def make(run: Run, stage: str, content: str = "stand-in", *, recorded: bool = True) -> None:
        files = {"data": run.path / DATA_HASH, "fixed_point": run.artifact / "manifest.json"}
        file = files.get(stage, run.model_file(stage))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"files": {"base.ort.onnx": content}}) if stage == "fixed_point" else content)
        if recorded:
            run.add_record(stage, MAKING[stage], {}, started=0.0)

    return make


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preset of a user's own: two videos of 24 frames and one unseen, 160×90 pixels; two steps of training."""
    file = tmp_path_factory.mktemp("preset") / "mine.py"
    file.write_text(PRESET)
    return f"{file}:tiny"


@pytest.fixture(scope="session")
def mot_root() -> Path:
    """Real MOTChallenge sequences; skips where MOTRLAB_MOT_ROOT does not name them."""
    root = os.environ.get("MOTRLAB_MOT_ROOT", "")
    if not root:
        pytest.skip("MOTRLAB_MOT_ROOT is not set: no real sequences here")
    if not Path(root).is_dir():
        pytest.fail(f"MOTRLAB_MOT_ROOT={root}: no such folder")
    return Path(root)


@pytest.fixture(scope="session")
def chromium() -> str:
    """A headless Chromium; skips where there is none."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found
