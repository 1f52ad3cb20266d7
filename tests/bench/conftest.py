"""A preset of a user's own with data, and its halves made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from motrlab.config import load_preset
from motrlab.data.halves import pack_halves
from motrlab.data.prepare import prepare
from motrlab.data.street import generate_street, is_unseen

PRESET = f"""
import sys
from dataclasses import replace
from motrlab.config import CalibrationConfig, StreetConfig, TrackerConfig

sys.path.append({str(Path(__file__).parents[2])!r})
from tests.tiny import tiny as base_config

def tiny():
    base = base_config()
    model = replace(base.model, height=48, width=80, d_model=16, ffn_channels=24, decoder_layers=1)
    eager = TrackerConfig(birth_score=0.0, miss_score=0.0, reset_score=0.0, output_score=0.0, min_area_px=0.0)
    street = StreetConfig(num_videos=2, num_unseen=0, num_frames=24, width=160, height=90)
    train = replace(base.train, steps=4, frames_per_step=4, bf16=False, freeze_bn=True)
    calibration = CalibrationConfig(num_frames=4, num_sequences=1, adaptive_rounding=False)  # slow there
    return replace(base, model=model, tracker=eager, street=street, train=train, calibration=calibration)
"""


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("preset") / "mine.py"
    file.write_text(PRESET)
    return f"{file}:tiny"


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory, preset: str) -> Path:
    """Two videos of 12 + 12 frames, 85×48 pixels."""
    folder, config = tmp_path_factory.mktemp("halves"), load_preset(preset)
    generate_street(config.street, folder / "street", num_workers=1)
    prepare(folder / "street", folder / "data", num_workers=1, unseen=is_unseen)
    pack_halves(folder / "data", folder / "small", config.model, scale=1.0)
    return folder / "small"
