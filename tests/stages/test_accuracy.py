"""Evaluation of a stage: the float model of two steps, and what must hold of any stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.data.motchallenge import Annotations
from motrlab.deploy.conversion import save_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import evaluate
from motrlab.evaluation.tracks import Tracks, read_tracks
from motrlab.model.motr import folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import (
    evaluate_raw,
    evaluate_stage,
    evaluate_unseen,
    network_inputs,
    open_engine,
    read_frames,
    require_tracks,
    track_part,
)
from motrlab.stages.data import open_store, read_ground_truth
from motrlab.stages.models import load_float


def test_evaluate_stage_writes_tracks_and_a_record(trained: Run) -> None:
    results = evaluate_stage(trained, "float", "hat")
    assert set(results) == {"STREET-01", "STREET-02", "OVERALL"}
    record = trained.last_record("float", "accuracy")
    assert record is not None
    assert record["metrics"]["hat.mota"] == pytest.approx(results["OVERALL"]["mota"])
    assert record["metrics"]["hat.STREET-01.idf1"] == pytest.approx(results["STREET-01"]["idf1"])
    assert "motchallenge.hota" in record["metrics"]
    written = {name: read_tracks(trained.tracks("float") / f"{name}.txt") for name in ("STREET-01", "STREET-02")}
    assert all(len(tracks) > 0 for tracks in written.values())
    again = evaluate(read_ground_truth(trained), written, "hat")
    assert again["OVERALL"]["mota"] == pytest.approx(results["OVERALL"]["mota"], abs=1e-6)


def test_tracks_that_are_not_the_stages_are_made_again(trained: Run) -> None:
    evaluate_stage(trained, "float")
    file, num_records = trained.tracks("float") / "STREET-01.txt", len(trained.records("float", "accuracy"))
    own = file.read_bytes()
    require_tracks(trained, "float")
    assert len(trained.records("float", "accuracy")) == num_records  # they are
    file.write_text("1,1,0,0,9,9,.5,-1,-1,-1\n")
    require_tracks(trained, "float")
    assert file.read_bytes() == own


def test_videos_in_lock_step_are_tracked_as_if_alone(trained: Run) -> None:
    engine = open_engine(trained, "float")
    assert engine.num_streams > 1
    together = track_part(trained, engine, "test")
    alone = track_part(trained, replace(engine, num_streams=1), "test")
    for name, tracks in together.items():
        assert tracks.track_id.tolist() == alone[name].track_id.tolist()
        np.testing.assert_allclose(tracks.ltwh, alone[name].ltwh, atol=1e-2)


def test_raw_and_unseen_have_kinds_of_their_own(trained: Run) -> None:
    evaluate_raw(trained, "float")
    results = evaluate_unseen(trained, "float")
    assert results is not None
    assert set(results) == {"STREET-U1", "OVERALL"}
    assert trained.records("float", "accuracy") == []
    for kind, sequence in (("accuracy_raw", "STREET-01"), ("accuracy_unseen", "STREET-U1")):
        record = trained.last_record("float", kind)
        assert record is not None
        assert f"motchallenge.{sequence}.mota" in record["metrics"]


def test_evaluation_leaves_gradients_as_they_were(trained: Run) -> None:
    track_part(trained, open_engine(trained, "float"), "test")
    assert torch.is_grad_enabled()


def test_read_frames(trained: Run) -> None:
    store = open_store(trained)
    assert len(list(read_frames(store, "STREET-01"))) == 12
    (third,) = read_frames(store, "STREET-01", 3, 3)
    assert (third == store.image("STREET-01", 3)).all()


def test_unknown_stage_and_missing_checkpoint(trained: Run) -> None:
    with pytest.raises(UserError, match="unknown stage 'int8': evaluate one of float"):
        open_engine(trained, "int8")
    with pytest.raises(UserError, match="calibration"):
        open_engine(trained, "calibration")
    with pytest.raises(UserError, match="unknown protocol"):
        evaluate_stage(trained, "float", "mot20")


def perfect(gt: Annotations) -> Tracks:
    """The people of the ground truth as a tracker would write them."""
    people = gt.people
    return Tracks(people.frame, people.track_id, people.ltwh, np.ones(len(people)))


def shuffle_ids(tracks: Tracks, seed: int) -> Tracks:
    """The ids of every frame dealt again among its boxes."""
    rng = np.random.default_rng(seed)
    ids = tracks.track_id.copy()
    for frame in np.unique(tracks.frame):
        here = np.nonzero(tracks.frame == frame)[0]
        ids[here] = rng.permutation(ids[here])
    return replace(tracks, track_id=ids)


def test_negative_control_shuffled_ids_score_lower(run: Run) -> None:
    gt = read_ground_truth(run)
    right = {name: perfect(found) for name, found in gt.items()}
    wrong = {name: shuffle_ids(tracks, 0) for name, tracks in right.items()}
    good, bad = (evaluate(gt, tracks)["OVERALL"] for tracks in (right, wrong))
    assert [good[key] for key in ("mota", "idf1", "hota", "assa")] == pytest.approx([1.0] * 4)
    assert bad["deta"] == pytest.approx(1.0)
    assert (bad["fp"], bad["fn"]) == (0, 0)
    assert bad["idsw"] > 20
    assert bad["mota"] < 0.9
    assert bad["idf1"] < 0.7
    assert bad["assa"] < 0.5


def test_negative_control_shifted_boxes_score_lower(run: Run) -> None:
    gt = read_ground_truth(run)
    shift = {}
    for name, found in gt.items():
        tracks = perfect(found)
        moved = tracks.ltwh.copy()
        moved[:, 0] += 0.6 * moved[:, 2]  # a quarter of the union is left
        shift[name] = replace(tracks, ltwh=moved)
    result = evaluate(gt, shift)["OVERALL"]
    assert result["mota"] < 0
    assert result["deta"] < 0.5


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # an import of it fails
from motrlab.__main__ import main
sys.exit(main(["evaluate", "--run", "tiny", "--stage", "fixed_point"]))
"""


def test_the_artefact_is_evaluated_without_torch(trained: Run, make_stage: Callable[..., None]) -> None:
    quantised = QuantizedMotr(folded_copy(load_float(trained)), trained.config.scheme)
    calibrate(quantised, [network_inputs(trained, open_store(trained), "STREET-01", last=3)], trained.config)
    for stage in ("calibration", "qat"):  # stand-ins: only their absence would matter
        make_stage(trained, stage)
    save_artifact(trained.artifact, quantised, trained.config, {})
    trained.add_record("fixed_point", "integer", {}, started=0.0)
    environment = {**os.environ, "MOTRLAB_HOME": str(trained.path.parent.parent)}
    code = [sys.executable, "-c", WITHOUT_TORCH]
    found = subprocess.run(code, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    results = json.loads(found.stdout)
    assert set(results) == {"STREET-01", "STREET-02", "OVERALL"}
    record = trained.last_record("fixed_point", "accuracy")
    assert record is not None
    assert record["metrics"]["motchallenge.mota"] == results["OVERALL"]["mota"]
    written = [len(read_tracks(trained.tracks("fixed_point") / f"{name}.txt")) for name in ("STREET-01", "STREET-02")]
    assert min(written) > 0
