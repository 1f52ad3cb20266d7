"""Everything a run depends on, to JSON and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from motrlab.config.model import ModelConfig
from motrlab.config.quantization import CalibrationConfig, QatConfig
from motrlab.config.scheme import Scheme
from motrlab.config.tracker import TrackerConfig
from motrlab.config.training import TrainConfig
from motrlab.config.videos import StreetConfig
from motrlab.errors import UserError


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
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Config:
        """The inverse of `to_dict`. Raises UserError on an unknown or missing field."""
        return typing.cast(Config, _build(Config, values, "config"))

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _build(kind: Any, value: Any, where: str) -> Any:
    """Rebuild nested dataclasses and tuples from JSON types, following the annotations."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise UserError(f"{where}: unknown field {sorted(unknown)[0]!r}; written by another version of motrlab?")
        try:
            return kind(**{name: _build(hints[name], v, f"{where}.{name}") for name, v in value.items()})  # type: ignore[operator]
        except TypeError as error:
            raise UserError(f"{where}: {error}") from error
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        return None
    if origin is tuple:
        inner = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        return tuple(_build(k, v, where) for k, v in zip(inner, value, strict=True))
    if type(None) in arguments:  # Optional
        return _build(next(a for a in arguments if a is not type(None)), value, where)
    return value
