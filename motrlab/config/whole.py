"""Everything a run depends on, to JSON and back; the embedded videos among it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from motrlab.config.budgets import BudgetConfig
from motrlab.config.checks import build, check, check_at_least, counted_fields, later
from motrlab.config.model import ModelConfig
from motrlab.config.quantization import CalibrationConfig, QatConfig
from motrlab.config.scheme import Scheme
from motrlab.config.tracker import TrackerConfig
from motrlab.config.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class StreetConfig:
    """The embedded synthetic data set: size and seed; its difficulty is described in `motrlab.data.street`."""

    num_videos: int = 12  # split in halves like MOT17
    num_unseen: int = 2  # whole videos, never trained on
    num_frames: int = 240
    width: int = 480
    height: int = 270
    frame_rate: int = 15
    seed: int = 17
    second_class: bool = later(False)  # statues are tracked, too, as a class of their own; set model.num_classes=2

    def __post_init__(self) -> None:
        check(self.num_videos >= 1 and self.num_frames >= 4, "street: needs a video of at least four frames")
        check_at_least(self, "street", 0, "seed", "num_unseen")
        check_at_least(self, "street", 1, "width", "height", "frame_rate")


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
    budgets: BudgetConfig = field(default_factory=BudgetConfig)
    seed: int = 0
    num_workers: int = 1  # loader processes
    data_root: str | None = None  # MOTChallenge folder; None: the embedded street data
    sequences: tuple[str, ...] = ()  # of data_root; empty: all
    # Folder of still images that `import` wrote, for `train.still_share`; a relative one starts at the project's root
    stills_root: str | None = later(None)

    def __post_init__(self) -> None:
        check_at_least(self, "config", 0, "seed", "num_workers")
        self.tracker.check_classes(self.model.num_classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises UserError on an unknown or missing field."""
        return cast(Config, build(Config, values, "config"))

    @functools.cached_property
    def counted(self) -> Mapping[str, str]:
        """`checks.counted_fields` of it, each as canonical JSON: every record asks for some, so they are made once."""
        return {name: json.dumps(value, sort_keys=True) for name, value in sorted(counted_fields(self).items())}

    def digest(self, names: Container[str]) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of these fields, as far as they count."""
        text = ", ".join(f'"{name}": {value}' for name, value in self.counted.items() if name in names)
        return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:12]

    @property
    def hash(self) -> str:
        """`digest` of all fields but the budgets, on which no result depends.

        See `checks.later` for other fields that do not count.
        """
        return self.digest(self.counted.keys() - {"budgets"})
