"""Both stages on a tiny run: assets, records, and a scheme that can be taken over."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from motrlab.config.scheme import Rule, Scheme
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.quantization.analysis.layers import read_table
from motrlab.quantization.analysis.sensitivity import Score, Scores
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, SweepRow
from motrlab.run import Run
from motrlab.stages.data import open_store
from motrlab.stages.quantization import calibrate
from motrlab.stages.sensitivity import format_search, measure_sensitivity, probe_videos, sweep_calibration
from motrlab.tracking.step import Graphs
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


def test_groups_without_scores_take_a_fraction_of_the_time(calibrated: Run) -> None:
    """As notebook 03 has it on smoke runs; all-int8 and the front are scored all the same."""
    measure_sensitivity(calibrated, num_frames=2, clip_frames=2, max_float_share=0.2, score_groups=False)
    assert all(math.isnan(r.mota) for r in read_table(calibrated.assets / "sensitivity.csv", GroupRow))
    path = read_table(calibrated.assets / "sensitivity_path.csv", PathPoint)
    assert math.isfinite(path[0].mota)
    assert math.isfinite(path[-1].idf1)


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


def test_the_search_stops_at_a_drop_of_mota(calibrated: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On scores that rise with every group in float; the drop is measured, not the noise."""

    def scorer(run: Run, clip_frames: int) -> Score:
        def score(graphs: Graphs) -> Scores:
            on = len(getattr(getattr(graphs, "_net", None), "active", None) or ())  # tensors on their grids
            return {"mota": 0.5 - on / 10_000, "idf1": 0.5}

        return score

    monkeypatch.setattr("motrlab.stages.sensitivity._scorer", scorer)
    whole = measure_sensitivity(calibrated, num_frames=2, max_drop_mota=100.0)["metrics"]
    assert whole["search.num_rounds"] == 0, "int8 is good enough"
    assert whole["search.within"]
    limit = whole["search.drop_mota"] - 0.05
    metrics = measure_sensitivity(calibrated, num_frames=2, max_drop_mota=limit)["metrics"]
    path = read_table(calibrated.assets / "sensitivity_path.csv", PathPoint)
    drops = [100 * (metrics["float.mota"] - point.mota) for point in path]
    assert len(path) == metrics["search.num_rounds"] + 1 > 1
    assert all(drop > limit for drop in drops[:-1])
    assert drops[-1] <= limit
    assert metrics["search.drop_mota"] == pytest.approx(drops[-1])
    text = format_search(calibrated, metrics)
    assert f"within {limit:g} points of float's 50.00" in text
    scheme = Scheme.from_dict(json.loads((calibrated.assets / "sensitivity_scheme.json").read_text()))
    rules = [eval(line.strip(" ,"), {"Rule": Rule}) for line in text.splitlines() if line.startswith("    Rule(")]
    assert (*calibrated.config.scheme.rules, *rules) == scheme.rules, "what is printed can be pasted"


def test_a_drop_that_nothing_reaches_is_said(calibrated: Run) -> None:
    metrics = measure_sensitivity(calibrated, num_frames=2, clip_frames=2, max_drop_mota=0.0, max_float_share=0.0)[
        "metrics"
    ]
    text = format_search(calibrated, metrics)
    assert metrics["search.num_rounds"] == 0
    assert ("NOT within" in text) == (not metrics["search.within"])
    assert "no rule is needed" in text
