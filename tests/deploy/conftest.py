"""Smoke-sized artefacts of random weights that give birth to tracks, and frames to run them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from motrlab.classes import PEOPLE, Classes
from motrlab.config import BackboneStage, Config
from motrlab.config.scheme import Rule, Scheme
from motrlab.deploy.artifact import GRAPH_FILES
from motrlab.deploy.conversion import save_artifact, save_float_graphs
from motrlab.model.motr import Motr
from motrlab.quantization.calibration import calibrate, closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import FrameStep
from tests.quantization.conftest import lively
from tests.tiny import tiny

Image = NDArray[np.uint8]
PROVENANCE = {"run": "test", "git_commit": "abc"}


# Other networks and schemes, for `make_fixed_point`.
NETWORKS: dict[str, dict[str, Any]] = {
    "boxes as logits": {
        "relative_boxes": False, "overlap_bias": False, "decoder_points": 1, "anchor_grid": None, "query_memory": 0.2,
        "activation": "relu6",
    },
    "three points, query memory, deeper": {
        "decoder_points": 3, "encoder_points": 2, "query_memory": 0.3, "decoder_layers": 3, "encoder_layers": 2,
        "birth": 0.1,
    },
    "inverted bottlenecks, relu6, odd sizes": {
        "stages": (
            BackboneStage(kernel=3, blocks=1, channels=16, stride=1, expansion=1),
            BackboneStage(kernel=5, blocks=2, channels=24, stride=2, expansion=6),
            BackboneStage(kernel=3, blocks=2, channels=32, stride=2, expansion=6),
        ),
        "activation": "relu6", "height": 100, "width": 162,
    },
    "three classes": {"num_classes": 3},
    "signed integers and seven bits": {"scheme": Scheme(signed_only=True, weight_bits=7)},
    "weights per tensor": {"scheme": Scheme(rules=(Rule(per_channel=False), *Scheme().rules[1:]))},
    "weights of keys and some values per tensor": {
        "scheme": Scheme().with_rules(*(Rule(path=path, per_channel=False) for path in ("*.key", "decoder.1.*")))
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A calibrated model, its float twin, frames of its closed loop, and an artefact; `floats`: the fp32 files."""

    model: Motr
    quantised: QuantizedMotr
    config: Config
    artifact: Path
    floats: Path
    steps: list[FrameStep]
    graphs: dict[str, onnx.ModelProto]


def noise(config: Config, number: int, seed: int) -> list[torch.Tensor]:
    """Network inputs `[1, 3, H, W]` on the grid of bytes, brighter from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, config.model.height, config.model.width)
    return [torch.randint(-128, 20 * i - 60, shape, generator=generator) / 128 for i in range(number)]


def small(**changes: object) -> Config:
    """`tiny` with rules under which random weights have tracks."""
    base = tiny()
    tracker = replace(base.tracker, birth_score=0.25, miss_score=0.2, reset_score=0.22, max_misses=3)
    return replace(base, tracker=tracker, model=replace(base.model, **changes))  # type: ignore[arg-type]


@torch.no_grad()
def make_fixed_point(folder: Path, scheme: Scheme | None = None, birth: float = 0.25, **changes: object) -> FixedPoint:
    """Calibrated on noise in closed loop; detect slots that score `birth` become tracks."""
    config = replace(small(**changes), scheme=scheme or Scheme())
    config = replace(
        config, tracker=replace(config.tracker, birth_score=birth, miss_score=birth * 0.8, reset_score=birth * 0.9)
    )
    model = lively(config)
    quantised = QuantizedMotr(lively(config), config.scheme)
    calibrate(quantised, [noise(config, 6, 1)], config)
    steps = list(closed_loop(quantised.graphs, noise(config, 8, 2), config))
    floats = save_float_graphs(folder / "float", model)
    several = range(1, config.model.num_classes + 1) if config.model.num_classes > 1 else ()
    classes = Classes(tuple(several), tuple(f"kind {k}" for k in several)) if several else PEOPLE
    artifact = save_artifact(folder / "artifact", quantised, config, PROVENANCE, classes=classes)
    graphs = {name: onnx.load(artifact / name) for name in GRAPH_FILES}
    return FixedPoint(model, quantised, config, artifact, floats, steps, graphs)


def ranged(fixed_point: FixedPoint, *rules: Rule) -> QuantizedMotr:
    """A small model whose scheme has these rules too, with ranges of two frames, in mode `evaluate`."""
    quantised = QuantizedMotr(lively(small()), Scheme().with_rules(*rules))
    with torch.no_grad():
        for step in fixed_point.steps[:2]:
            quantised.graphs.base(*step.base_inputs)
            quantised.graphs.qim(*step.qim_inputs)
        quantised.ranges.finish()
    quantised.mode("evaluate")
    return quantised


@pytest.fixture(scope="session")
def fixed_point(tmp_path_factory: pytest.TempPathFactory) -> FixedPoint:
    """Shared and read-only."""
    return make_fixed_point(tmp_path_factory.mktemp("fixed_point"))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FixedPoint]:
    """`other(name)`: one of `NETWORKS`; made once, shared and read-only."""
    return cache(lambda name: make_fixed_point(tmp_path_factory.mktemp("other"), **NETWORKS[name]))


@pytest.fixture(scope="session")
def make_artifact(fixed_point: FixedPoint) -> Callable[[Path], Path]:
    """Writes the artefact of `fixed_point` to the folder it is given, for tests that change files."""
    return lambda folder: save_artifact(folder, fixed_point.quantised, fixed_point.config, PROVENANCE)


@pytest.fixture(scope="session")
def artifact(fixed_point: FixedPoint) -> Path:
    """Shared and read-only."""
    return fixed_point.artifact


@pytest.fixture(scope="session")
def images() -> list[Image]:
    """Ten noisy frames of 135×240 whose brightness drifts."""
    random = np.random.default_rng(5)
    return [random.integers(0, 120 + 10 * i, (135, 240, 3)).astype(np.uint8) for i in range(10)]
