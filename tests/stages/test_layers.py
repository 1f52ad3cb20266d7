"""The layer comparison of a converted run: fake-quant and fixed-point are the same integers, in every tensor."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.quantization.analysis.layers import FrameRow, SplitRow, read_rows, read_table
from motrlab.run import Run
from motrlab.stages.deployment import convert
from motrlab.stages.layers import _closed_loop_metrics, compare_layers
from motrlab.stages.models import load_quantized
from motrlab.stages.quantization import calibrate
from motrlab.training.checkpoint import save_model


@pytest.fixture(scope="module")
def converted(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A copy of the prepared run with random weights, calibrated and converted as if that were QAT."""
    home = tmp_path_factory.mktemp("converted") / "home"
    shutil.copytree(prepared_home, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(home))
        run = Run.open("tiny", create=False)
        small = replace(run.config.calibration, num_frames=4, num_sequences=2)
        run = replace(run, config=replace(run.config, calibration=small))
        save_model(run.model_file("float"), build_motr(run.config.model, seed=3), run.config)
        calibrate(run)
        run.model_file("qat").parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.model_file("calibration"), run.model_file("qat"))
        convert(run)
        yield run


def test_fixed_point_is_fake_quant(converted: Run) -> None:
    record = compare_layers(converted, num_frames=3, num_videos=1)
    assert (record["stage"], record["kind"]) == ("fixed_point", "layers")
    assert all((converted.path / name).is_file() for name in record["assets"])
    metrics, rows = record["metrics"], read_rows(converted.assets / "layers.csv")
    assert metrics["num_tensors"] == len(rows) > 50
    assert metrics["num_frames"] == 3
    for graph in ("base", "qim"):
        assert (metrics[f"{graph}.largest_step"], metrics[f"{graph}.worst_mismatch_share"]) == (0, 0)
        assert metrics[f"{graph}.worst_fake_sqnr_db"] == metrics[f"{graph}.worst_fixed_sqnr_db"] < 60
    split = read_table(converted.assets / "layers_split.csv", SplitRow)
    assert {row.operator for row in split} > {"output", "conv", "linear"}
    assert metrics["boxes.all_db"] == pytest.approx(next(row.all_db for row in split if row.tensor == "boxes"))
    values = json.loads((converted.assets / "layers_values.json").read_text())
    assert {found["kind"] for found in values} == {"activation", "weight"}
    loops = {name: value for name, value in metrics.items() if name.startswith("closed_loop.fake.")}
    assert len(loops) == 6
    for name, value in loops.items():
        assert metrics[name.replace("fake", "fixed_point")] == pytest.approx(value, rel=1e-6)


def test_an_artefact_of_another_model_is_refused(converted: Run) -> None:
    quantised = load_quantized(converted, "qat")
    quantised.ranges.scale.mul_(1.1)
    quantised.save(converted.model_file("qat"), converted.config)
    with pytest.raises(
        UserError, match=r"base\.ort\.onnx: the scale of base/\S+ is .* in the model .*; convert the run"
    ):
        compare_layers(converted)


@pytest.mark.parametrize("stage", ["qat", "calibration"])
def test_a_missing_model_is_a_user_error(run: Run, stage: str) -> None:
    with pytest.raises(UserError, match=stage):
        compare_layers(run, stage)


def test_first_and_last_frame_of_each_stage() -> None:
    frames = [
        FrameRow(video, frame, "fake", 30.0 - frame + extra, math.inf, 20.0, 1.0)
        for video, extra in (("a", 0.0), ("b", 1.0))
        for frame in (1, 2, 3)
    ]
    assert _closed_loop_metrics(frames) == {
        "closed_loop.fake.first_frame_class_logits_db": 29.5,
        "closed_loop.fake.first_frame_embedding_db": 20.0,
        "closed_loop.fake.last_frame_class_logits_db": 27.5,
        "closed_loop.fake.last_frame_embedding_db": 20.0,
    }
