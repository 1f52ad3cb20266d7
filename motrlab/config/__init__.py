"""Configuration as checked data: frozen dataclasses, and presets that are plain functions.

`smoke()` runs in seconds and learns little, `street()` is the embedded default, `mot17()` is the reference system.
A variant is `dataclasses.replace(street(), ...)`; a preset of one's own is named as `path/to/file.py:function`.
"""

from motrlab.config.budgets import BudgetConfig
from motrlab.config.model import BackboneStage, ModelConfig
from motrlab.config.presets import PRESETS, load_preset, mot17, mot17_long, mot17_small, smoke, street
from motrlab.config.quantization import CalibrationConfig, QatConfig
from motrlab.config.tracker import TrackerConfig
from motrlab.config.training import TrainConfig
from motrlab.config.whole import Config, StreetConfig

__all__ = [
    "PRESETS", "BackboneStage", "BudgetConfig", "CalibrationConfig", "Config", "ModelConfig", "QatConfig",
    "StreetConfig", "TrackerConfig", "TrainConfig", "load_preset", "mot17", "mot17_long", "mot17_small", "smoke",
    "street",
]  # fmt: skip
