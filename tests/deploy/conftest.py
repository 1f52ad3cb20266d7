"""A smoke-sized artefact of random weights that gives birth to tracks, and frames to run it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from motrlab.config import Config, smoke
from motrlab.config.scheme import Rule, Scheme
from motrlab.deploy.artifact import write_artifact
from motrlab.deploy.export import export_float, export_portable
from motrlab.deploy.rewrite import rewrite_for_onnxruntime
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.quantized import QuantizedMotr

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Exported:
    """A float model, its ONNX files and its config."""

    model: Motr
    config: Config
    base: Path
    qim: Path


def lively_model(config: Config, seed: int = 3) -> Motr:
    """Random weights whose scores spread around 0.5, so that tracks are born, missed and ended."""
    model = build_motr(config.model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head in model.base.class_heads:
            head.bias.zero_()
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * 0.2)
        for head in model.base.box_heads:
            head.out.weight.copy_(torch.randn(head.out.weight.shape, generator=generator) * 0.03)
    return folded_copy(model)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    config = replace(smoke(), tracker=replace(smoke().tracker, birth_score=0.55, max_misses=2))
    model = lively_model(config)
    folder = tmp_path_factory.mktemp("onnx")
    export_float(model, folder)
    return Exported(model, config, folder / "base.onnx", folder / "qim.onnx")


@pytest.fixture(scope="session")
def make_artifact(exported: Exported) -> Callable[[Path], Path]:
    """Writes the artefact of `exported` to the folder it is given. Both runtimes get the same float graphs."""

    def make(folder: Path) -> Path:
        detect = exported.model.base.detect
        return write_artifact(
            folder,
            base_onnx=exported.base,
            qim_onnx=exported.qim,
            base_ort=exported.base,
            qim_ort=exported.qim,
            detect_query=detect.query.detach().numpy(),
            detect_reference=detect.reference().detach().numpy(),
            config=exported.config,
            provenance={"run": "test", "git_commit": "abc"},
        )

    return make


@pytest.fixture(scope="session")
def artifact(make_artifact: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared and read-only: a test that changes files makes its own."""
    return make_artifact(tmp_path_factory.mktemp("artifact") / "artifact")


@pytest.fixture(scope="session")
def images() -> list[Image]:
    """Ten noisy frames of 135×240 whose brightness drifts."""
    random = np.random.default_rng(5)
    return [random.integers(0, 120 + 10 * i, (135, 240, 3)).astype(np.uint8) for i in range(10)]


@dataclass(frozen=True)
class FixedPoint:
    """A calibrated model, its float twin, and the folder of their ONNX files (`float/` holds the float ones)."""

    model: Motr
    quantised: QuantizedMotr
    config: Config
    folder: Path
    inputs: dict[str, dict[str, NDArray[np.float32]]]  # graph → named inputs


def _runtime_inputs(config: Config) -> dict[str, dict[str, NDArray[np.float32]]]:
    rng, m = np.random.default_rng(2), config.model
    rows = m.num_track // m.slot_columns
    mask = np.zeros((1, 1, 1, m.num_track), np.float32)
    mask[..., : m.num_track // 2] = 1
    base = {
        "image": (rng.integers(-128, 128, (1, 3, m.height, m.width)) / 128).astype(np.float32),
        "track_query": rng.normal(size=(1, m.d_model, rows, m.slot_columns)).astype(np.float32),
        "track_mask": mask,
        "track_reference": rng.uniform(0.2, 0.8, (1, 4, rows, m.slot_columns)).astype(np.float32),
    }
    slots = (1, m.d_model, 1, m.num_track)
    qim = {name: rng.normal(size=slots).astype(np.float32) for name in ("embedding", "query")}
    return {"base": base, "qim": {**qim, "mask": mask}}


@pytest.fixture(scope="session")
def fixed_point(tmp_path_factory: pytest.TempPathFactory) -> FixedPoint:
    """Calibrated on its own test inputs; exported and rewritten once for all tests."""
    return make_fixed_point(Scheme(), tmp_path_factory.mktemp("fixed_point"))


@pytest.fixture(scope="session")
def with_more_rules(tmp_path_factory: pytest.TempPathFactory) -> FixedPoint:
    """The same with a further tensor in int16, and LayerNorms in int8."""
    rules = Rule(operator="norm"), Rule(operator="input", path="track_reference", precision="int16")
    return make_fixed_point(Scheme().with_rules(*rules), tmp_path_factory.mktemp("with_more_rules"))


def make_fixed_point(scheme: Scheme, folder: Path) -> FixedPoint:
    config = smoke()
    model = lively_model(config)
    inputs = _runtime_inputs(config)
    quantised = QuantizedMotr(lively_model(config), scheme)
    with torch.no_grad():
        for graph in ("base", "qim"):
            getattr(quantised, graph)(*(torch.from_numpy(x) for x in inputs[graph].values()))
    quantised.mode("evaluate")
    export_portable(quantised, folder)
    export_float(model, folder / "float")
    for graph in ("base", "qim"):
        rewrite_for_onnxruntime(folder / f"{graph}.onnx", folder / f"{graph}.ort.onnx")
    return FixedPoint(model, quantised, config, folder, inputs)


@pytest.fixture(scope="session")
def fixed_point_artifact(fixed_point: FixedPoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real one: integer graphs, calibrated on noise."""
    detect, config = fixed_point.model.base.detect, fixed_point.config
    tracker = replace(config.tracker, birth_score=0.55)
    return write_artifact(
        tmp_path_factory.mktemp("fixed_point_artifact") / "artifact",
        base_onnx=fixed_point.folder / "base.onnx",
        qim_onnx=fixed_point.folder / "qim.onnx",
        base_ort=fixed_point.folder / "base.ort.onnx",
        qim_ort=fixed_point.folder / "qim.ort.onnx",
        detect_query=detect.query.detach().numpy(),
        detect_reference=detect.reference().detach().numpy(),
        config=replace(config, tracker=tracker),
        provenance={},
    )
