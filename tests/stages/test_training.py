"""The float stage: its records, validations on the way, several processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from motrlab.__main__ import main
from motrlab.evaluation.metrics import evaluate
from motrlab.files import write_text
from motrlab.run import Run
from motrlab.stages.accuracy import open_engine, track_part
from motrlab.stages.data import read_ground_truth
from motrlab.stages.models import load_float
from motrlab.stages.training import train_float, validate_float
from motrlab.training.checkpoint import load_model


def own_run(prepared_home: Path, home: Path, **train: Any) -> Run:
    """The prepared run under a root of its own, with other training settings."""
    source = prepared_home / "runs" / "tiny"
    path = home / "runs" / "mine"
    shutil.copytree(source / "data", path / "data", symlinks=True)
    values = json.loads((source / "config.json").read_text())
    values["train"] |= train
    write_text(path / "config.json", json.dumps(values))
    run = Run.open("mine", create=False)
    run.add_record("data", "data", {}, started=0.0)
    return run


def training_records(run: Run) -> list[dict[str, Any]]:
    return [record["metrics"] for record in run.records("float", "training")]


def test_validations_leave_records(prepared_home: Path, home: Path) -> None:
    run = own_run(prepared_home, home, steps=4, validate_every=2, validate_frames=5, late_entrant_clips=6)
    record = train_float(run)
    *validations, final = training_records(run)
    assert final == record["metrics"]
    assert [m["validation_step"] for m in validations] == [2, 4]
    assert all(m["validation_frames"] == 5 and 0 <= m["idf1"] <= 1 for m in validations)
    assert all("late_entrant_auc" in m for m in (*validations, final))
    # Made again after a kill, a validation is not recorded again.
    model = load_float(run)
    validate_float(run, run.config, model, 4)
    assert len(training_records(run)) == 3
    validate_float(run, run.config, model, 7)
    assert len(training_records(run)) == 4
    # The validation is the evaluation of the first five frames.
    engine = open_engine(run, "float")
    gt = {name: found.select(found.frame <= 5) for name, found in read_ground_truth(run).items()}
    again = evaluate(gt, track_part(run, engine, "test", num_frames=5))
    assert again["OVERALL"]["deta"] == pytest.approx(validations[-1]["deta"])
    assert max(gt["STREET-01"].frame) == 5


def test_the_record_of_a_training(prepared_home: Path, home: Path) -> None:
    run = own_run(prepared_home, home, late_entrant_clips=4, denoising_groups=1)
    metrics = train_float(run)["metrics"]
    (only,) = training_records(run)
    assert only == metrics
    assert {"steps", "loss", "late_entrant_auc", "late_entrants", "memory.total_mb", "memory.activations_mb"} <= set(
        metrics
    )
    terms = {n: v for n, v in metrics.items() if "." not in n and n not in ("steps", "loss") and "late" not in n}
    assert {"class", "l1", "giou"} < set(terms)
    assert sum(terms.values()) == pytest.approx(metrics["loss"])


@pytest.mark.slow  # tests/training/test_distributed.py trains in two processes too
def test_several_processes_from_a_notebook(prepared_home: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As notebook 02 does it: the record comes back, and stands in the run once."""
    run = own_run(prepared_home, home, clips_per_step=2)
    record = train_float(run, steps=3, num_processes=2)
    assert record == run.last_record("float", "training")
    assert len(training_records(run)) == 1
    assert record["metrics"]["steps"] == 3
    assert load_model(run.model_file("float"), run.config) is not None
    assert "steps 3, loss" in capfd.readouterr().out  # what the first process printed


def test_the_command_line(prepared_home: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = own_run(prepared_home, home)
    assert main(["train", "--run", "mine", "--steps", "1", "--lr", "0.0003"]) == 0
    record = run.last_record("float", "training")
    assert record is not None
    assert (record["config"]["train"]["steps"], record["config"]["train"]["lr"]) == (1, 0.0003)
    assert "steps 1, loss" in capsys.readouterr().out
    assert main(["train", "--run", "nobody"]) == 2
    assert "motrlab: no run 'nobody'" in capsys.readouterr().err
