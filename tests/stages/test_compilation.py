"""A run's artefact compiled and handed over: on frames of its own videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.deploy.runtime import INPUTS
from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.compilation import hand_over


@pytest.fixture
def run(converted: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("motrlab.stages.compilation.require", lambda run, stage: None)  # it has no checkpoints
    return converted


def test_compile_is_checked_on_frames_of_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--run", "tiny", "--target", "onnxruntime-cpu"]) == 0
    file = run.path / "compiled" / "onnxruntime-cpu" / "compile.json"
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(file)
    assert printed[2] == "base.optimised.onnx: equal on 8 samples"
    assert json.loads(file.read_text())["made_from"]["artifact"] == str(run.artifact)


@pytest.mark.parametrize(("what", "toolchain"), [("--target horizon-j6e", "horizon"), ("--toolchain aimet", "aimet")])
def test_hand_over(what: str, toolchain: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["handover", "--run", "tiny", *what.split(), "--samples", "5"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == run.path / "handover" / toolchain
    for graph, inputs in INPUTS.items():
        for name in inputs:
            assert len(list((folder / "calibration" / graph / name).iterdir())) == 5
    masks = [np.load(file).sum() for file in (folder / "calibration" / "base" / "track_mask").iterdir()]
    assert min(masks) > 0
    assert len(list((folder / "expected").iterdir())) == 3
    if toolchain == "horizon":
        assert 'march: "nash-e"' in (folder / "base.yaml").read_text()


def test_again_replaces_only_what_is_ours(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert hand_over(run, toolchain="onnx", out=out, num_samples=2) == hand_over(
        run, toolchain="onnx", out=out, num_samples=1
    )
    assert len(list((out / "calibration" / "base" / "image").iterdir())) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not written by motrlab"):
        hand_over(run, toolchain="onnx", out=tmp_path / "mine")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--target nothing", "unknown target 'nothing'"),
        ("--toolchain tensorrt", "unknown toolchain 'tensorrt'"),
        ("--target openvino-cpu", "openvino-cpu is a host"),
        ("--toolchain aimet --samples 0", "--samples 0: at least one frame"),
    ],
)
def test_bad_input_is_one_line(arguments: str, told: str, converted: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["handover", "--run", "tiny", *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_run_without_an_artefact(converted: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(converted.artifact)
    assert main(["compile", "--run", "tiny", "--target", "openvino-cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m motrlab run --run tiny" in line
