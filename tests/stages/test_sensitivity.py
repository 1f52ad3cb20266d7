"""Both stages on a tiny run: assets, records, and a scheme that can be taken over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from motrlab.config.scheme import Scheme
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.quantization.analysis.layers import read_table
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.run import Run
from motrlab.stages.data import open_store
from motrlab.stages.quantization import calibrate
from motrlab.stages.sensitivity import measure_sensitivity, probe_videos, sweep_calibration
from motrlab.training.checkpoint import save_model


@pytest.fixture
def calibrated(run: Run) -> Run:
    """Random weights, calibrated on four frames."""
    small = replace(run.config.calibration, num_frames=4, num_sequences=2)
    run = replace(run, config=replace(run.config, calibration=small))
    save_model(run.model_file("float"), build_motr(run.config.model, seed=3), run.config)
    calibrate(run)
    return run


def test_sensitivity(calibrated: Run) -> None:
    record = measure_sensitivity(calibrated, num_frames=2, clip_frames=2, max_float_share=0.2)
    assert (record["stage"], record["kind"]) == ("calibration", "sensitivity")
    assert all((calibrated.path / name).is_file() for name in record["assets"])
    rows = read_table(calibrated.assets / "sensitivity.csv", GroupRow)
    path = read_table(calibrated.assets / "sensitivity_path.csv", PathPoint)
    metrics = record["metrics"]
    assert metrics["num_groups"] == len(rows) > 15
    assert metrics["num_frames"] == 2
    assert metrics["clip_frames"] == 2
    assert metrics["search.num_rounds"] == len(path) - 1
    assert metrics["mixed.float_share"] == path[-1].float_share <= 0.2
    assert metrics["backbone_stem.macs_share"] > 0
    assert 0 <= metrics["float.idf1"] <= 1
    scheme = Scheme.from_dict(json.loads((calibrated.assets / "sensitivity_scheme.json").read_text()))
    assert scheme.rules[: len(calibrated.config.scheme.rules)] == calibrated.config.scheme.rules
    raised = [rule.name for rule in scheme.rules if rule.name.endswith(" in float")]
    assert {name.removesuffix(" in float") for name in raised} == {p.raised for p in path if p.raised}


def test_sweep(calibrated: Run) -> None:
    before = calibrated.model_file("calibration").read_bytes()
    record = sweep_calibration(calibrated, variants=["min_max", "single_frames"], num_frames=2, clip_frames=-1)
    assert (record["stage"], record["kind"]) == ("calibration", "calibration_sweep")
    rows = read_table(calibrated.assets / "calibration_sweep.csv", SweepRow)
    assert [row.variant for row in rows] == ["as_configured", "min_max", "single_frames"]
    assert record["metrics"]["min_max.mean_db"] == rows[1].mean_db
    assert "min_max.mota" not in record["metrics"]
    assert all((calibrated.path / name).is_file() for name in record["assets"])
    assert calibrated.model_file("calibration").read_bytes() == before


def test_mistakes(run: Run) -> None:
    with pytest.raises(UserError, match="no variant 'minmax'; there are as_configured, min_max"):
        sweep_calibration(run, variants=["minmax"])
    with pytest.raises(UserError, match="max_float_share"):
        measure_sensitivity(run, max_float_share=5)
    with pytest.raises(UserError, match="clip_frames"):
        sweep_calibration(run, clip_frames=-2)


def test_probe_frames_are_the_last_of_the_train_halves(run: Run) -> None:
    videos = [list(images) for images in probe_videos(run, 3)]
    assert [len(images) for images in videos] == [2, 2]
    last = open_store(run, "train").sequences[0].num_frames
    (whole,) = (list(images) for images in probe_videos(run, 1))
    assert torch.equal(whole[0], videos[0][-1])
    assert len([x for images in probe_videos(run, 10 * last) for x in images]) == 2 * last
