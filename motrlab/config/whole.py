"""Everything a run depends on, to JSON and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from motrlab.config.checks import build
from motrlab.config.model import ModelConfig
from motrlab.config.quantization import CalibrationConfig, QatConfig
from motrlab.config.scheme import Scheme
from motrlab.config.tracker import TrackerConfig
from motrlab.config.training import TrainConfig
from motrlab.config.videos import StreetConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on, beside the data itself."""

    preset: str
    model: ModelConfig
    tracker: TrackerConfig
    train: TrainConfig
    scheme: Scheme = field(default_factory=Scheme)  # what is quantised, and how
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    qat: QatConfig = field(default_factory=QatConfig)
    street: StreetConfig = field(default_factory=StreetConfig)
    seed: int = 0
    num_workers: int = 1  # loader processes
    data_root: str | None = None  # MOTChallenge folder; None: the embedded street data
    sequences: tuple[str, ...] = ()  # of data_root; empty: all

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises UserError on an unknown or missing field."""
        return cast(Config, build(Config, values, "config"))

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
