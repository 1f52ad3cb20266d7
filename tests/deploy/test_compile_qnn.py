"""Qualcomm's compiler and simulator. Tests marked `vendor` need its package: `pip install 'motrlab[qnn]'`, or
MOTRLAB_QNN_PYTHON; MOTRLAB_VENDOR_RUN=NAME, with MOTRLAB_VENDOR_HOME, takes a whole test half of that run.
MOTRLAB_VENDOR_SEQUENCE says which.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motrlab.deploy.compile import compile_artifact
from motrlab.deploy.compile_qnn import OPTIONS, TOOL, compile_qnn, simulated_networks, simulated_runtime
from motrlab.deploy.measuring import street_frames
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, agreement
from motrlab.evaluation.tracks import Tracks
from motrlab.run import Run
from motrlab.shipped import shipped_artifact
from motrlab.stages.accuracy import read_frames
from motrlab.stages.data import open_store

FAKE = """
__version__ = "9"
def get_library_path(): return "/nowhere/libonnxruntime_providers_qnn.so"
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose library cannot be loaded."""
    package = tmp_path / "vendor" / "onnxruntime_qnn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "build_and_package_info.py").write_text('qnn_version = "0"\n')
    monkeypatch.setenv("MOTRLAB_QNN_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "vendor"))


@pytest.mark.usefixtures("broken")
def test_a_compiler_that_fails_has_the_last_word(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Qualcomm's compiler failed \(status 1\): .*libonnxruntime_providers_qnn"):
        compile_qnn(artifact, tmp_path, OPTIONS, {})


@pytest.mark.usefixtures("broken")
def test_a_simulator_that_ends_has_the_last_word(artifact: Path, tmp_path: Path) -> None:
    runtime = load_artifact(artifact)
    with (
        simulated_runtime(runtime, tmp_path, OPTIONS) as simulated,
        pytest.raises(UserError, match=r"^Qualcomm's compiler failed \(status 1\): .*libonnxruntime_providers_qnn"),
    ):
        list(simulated.track([np.zeros((90, 160, 3), np.uint8)]))


@pytest.fixture(scope="session")
def vendor() -> None:
    try:
        TOOL.python()
    except UserError as error:
        pytest.skip(str(error))


def tracks(runtime: Runtime, images: Iterable[Any]) -> Tracks:
    rows = [found.rows(number) for number, found in enumerate(runtime.track(images), 1)]
    return Tracks.from_rows(np.concatenate(rows))


def same(runtime: Runtime, other: Runtime, images: list[Any]) -> dict[str, float]:
    """Metrics of the other's tracks with ours as ground truth."""
    return dict(agreement({"half": tracks(runtime, images)}, {"half": tracks(other, images)})[OVERALL])


@pytest.mark.vendor
@pytest.mark.usefixtures("vendor")
def test_context_binaries_and_simulated_tracks(tmp_path: Path) -> None:
    """Of the artefact that comes with motrlab, on a few frames."""
    told = compile_artifact(shipped_artifact(), "qnn-htp", tmp_path / "out", images=street_frames(3))
    assert {"base.context.onnx", "base.context_qnn.bin", "qim.context_qnn.bin", "base.qdq.onnx"} <= told["files"].keys()
    assert told["options"] == OPTIONS
    assert {"qnn", "onnxruntime-qnn"} <= told["versions"].keys()
    assert {name: found for name, found in told["checked"].items() if found["sqnr_db"] < 15} == {}
    assert json.loads((tmp_path / "out" / "compile.json").read_text()) == told
    with simulated_networks(tmp_path / "out", OPTIONS) as (base, _), pytest.raises(UserError, match="failed"):
        base({})


@pytest.mark.vendor
@pytest.mark.slow
@pytest.mark.usefixtures("vendor")
def test_a_test_half_on_the_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run: 3 seconds of a core for each frame. By default the first half on which the portable file keeps the
    tracks: on the others any form that is not exact loses some, HTP or not, and so do the exact integers where one byte
    of a picture is changed (`benchmarks/portable_vs_integers.py`).
    """
    name = os.environ.get("MOTRLAB_VENDOR_RUN", "")
    if not name:
        pytest.skip("MOTRLAB_VENDOR_RUN names no run")
    monkeypatch.setenv("MOTRLAB_HOME", os.environ.get("MOTRLAB_VENDOR_HOME", str(Path.cwd())))
    run = Run.open(name, create=False)
    compile_qnn(run.artifact, tmp_path, OPTIONS, {})
    store, runtime = open_store(run), load_artifact(run.artifact)
    portable, chosen = runtime.on_files(run.artifact), os.environ.get("MOTRLAB_VENDOR_SEQUENCE", "")
    for info in store.sequences:
        images = list(read_frames(store, info.name))
        if info.name == chosen or (not chosen and same(runtime, portable, images)["idf1"] >= 0.97):
            break
    with simulated_runtime(runtime, tmp_path, OPTIONS) as simulated:
        scores = same(runtime, simulated, images)
    print(info.name, {key: scores[key] for key in ("idf1", "mota", "hota", "idsw", "num_gt")})
    assert scores["idf1"] >= 0.97
