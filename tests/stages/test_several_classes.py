"""Two classes from end to end: people and statues of `street`, from its folders to a deployed tracker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.classes import Classes
from motrlab.config import Config
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks
from motrlab.report.accuracy import class_table, sequence_table
from motrlab.run import Run
from motrlab.runtime import Tracker
from motrlab.stages.accuracy import evaluate_stage, read_frames, stage_tracks
from motrlab.stages.agreement import different_files
from motrlab.stages.data import evaluate_baseline, open_store, prepare_data, read_ground_truth
from motrlab.stages.deployment import convert, draw_overlays
from motrlab.stages.errors import find_errors
from motrlab.stages.looking import follow_slots, stages_over_each_other
from motrlab.stages.quantization import calibrate, train_qat
from motrlab.stages.recording import recorded_half
from motrlab.stages.training import train_float
from motrlab.track import track

TWO = Classes((1, 8), ("pedestrian", "statue"))


@pytest.fixture(scope="module")
def two_home(tiny_preset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run `two` has been through all stages."""
    home = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(home))
        preset = home / "two.py"
        file, _, function = tiny_preset.rpartition(":")
        preset.write_text(
            f"{Path(file).read_text()}\n"
            "def two():\n"
            f"    base = {function}()\n"
            "    street, model = replace(base.street, second_class=True), replace(base.model, num_classes=2)\n"
            "    tracker = replace(base.tracker, suppress_iou=0.6, birth_scores=(0.004, 0.003))\n"
            "    calibration = replace(base.calibration, num_frames=4, num_sequences=2)\n"
            "    return replace(base, street=street, model=model, tracker=tracker, calibration=calibration,\n"
            "                   qat=replace(base.qat, steps=2))\n"
        )
        run = Run.open("two", f"{preset}:two")
        prepare_data(run, num_workers=1)
        train_float(run)
        calibrate(run)
        train_qat(run)
        convert(run)
        for stage in ("float", "qat", "fixed_point"):
            evaluate_stage(run, stage)
    return home


@pytest.fixture
def two(two_home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Shared; tests add to it."""
    monkeypatch.setenv("MOTRLAB_HOME", str(two_home))
    return Run.open("two", create=False)


def test_street_has_a_second_class_on_request(two: Run) -> None:
    assert open_store(two).classes == TWO
    gt = read_ground_truth(two)
    boxes = np.concatenate([one.counted(TWO).class_id for one in gt.values()])
    assert {1, 8} == set(boxes.tolist())
    assert all((one.flag[one.class_id == 8] == 1).all() for one in gt.values())


def test_the_fixed_point_model_is_exact_with_two_classes(two: Run) -> None:
    qat, fixed = stage_tracks(two, "qat"), stage_tracks(two, "fixed_point")
    assert different_files(qat, fixed) == []
    assert set(np.concatenate([tracks.class_id for tracks in fixed.values()]).tolist()) == {1, 8}


@pytest.mark.parametrize("protocol", ["motchallenge", "hat"])
def test_results_are_by_class_and_on_average(two: Run, protocol: str) -> None:
    gt, tracks = read_ground_truth(two), stage_tracks(two, "fixed_point")
    found = evaluate(gt, tracks, protocol, classes=TWO)
    record = two.last_record("fixed_point", "accuracy")["metrics"]
    for metric, value in found[OVERALL].items():
        each = [found[f"CLASSES.{name}"][metric] for name in TWO.names]
        assert value == pytest.approx(sum(each) if isinstance(value, int) else sum(each) / 2)
        assert record[f"{protocol}.{metric}"] == pytest.approx(value, abs=1e-4)  # files hold rounded boxes
        assert record[f"{protocol}.CLASSES.statue.{metric}"] == pytest.approx(each[1], abs=1e-4)
    boxes = [sum((one.class_id == number).sum() for one in (g.counted(TWO) for g in gt.values())) for number in (1, 8)]
    assert [found[f"CLASSES.{name}"]["num_gt"] for name in TWO.names] == boxes


def test_the_runtime_knows_the_names(two: Run, tmp_path: Path) -> None:
    tracker, runtime = Tracker(two.artifact), load_artifact(two.artifact)
    assert tracker.classes == runtime.classes == TWO
    assert runtime.tracker.birth_scores == (0.004, 0.003)
    store = open_store(two)
    name = store.sequences[0].name
    found = Tracks.join([tracker.update(image) for image in read_frames(store, name)])
    assert different_files({name: found}, stage_tracks(two, "fixed_point")) == []
    source = two.data / "street" / name
    track(two.artifact, source, tmp_path / "out", num_frames=3)
    rows = [line.split(",") for line in next((tmp_path / "out").glob("*.txt")).read_text().splitlines()]
    assert rows
    assert {row[7] for row in rows} <= {"1", "8"}


def test_what_looks_at_tracks_knows_classes(two: Run) -> None:
    record = find_errors(two, num_pictures=1)
    overall = two.last_record("fixed_point", "accuracy")["metrics"]
    assert record["metrics"]["num_missed"] == overall["motchallenge.fn"]
    assert record["metrics"]["num_boxes"] == overall["motchallenge.num_gt"]
    assert draw_overlays(two, num_sheets=1, num_frames=1)[0].is_file()
    assert stages_over_each_other(two, 3)[0].shape[2] == 3
    use, _ = follow_slots(two)
    assert use.person.max() >= -1
    from motrlab.stages.accuracy import open_engine

    half = recorded_half(two, open_engine(two, "fixed_point"), "test")
    assert half.scores(two.config.tracker)["fn"] == overall["motchallenge.fn"]
    assert half.scores(two.config.tracker)["fp"] == overall["motchallenge.fp"]


def test_the_report_has_a_table_by_class(two: Run) -> None:
    records = two.records()
    table = class_table(records, "motchallenge")
    assert table is not None
    assert [heading for heading, _ in table.groups] == list(TWO.names)
    rows = sequence_table(records, "motchallenge")
    assert rows is not None
    assert {row.label for _, group in rows.groups for row in group} == {i.name for i in open_store(two).sequences}


def test_what_does_not_go_together_is_refused(two: Run) -> None:
    assert evaluate_baseline(two) is None  # a det file knows no classes
    one = replace(two, config=replace(two.config, model=replace(two.config.model, num_classes=1),
                                      tracker=replace(two.config.tracker, birth_scores=())))  # fmt: skip
    with pytest.raises(UserError, match=r"num_classes is 1, but .*train_lmdb has 2 \(pedestrian, statue\)"):
        train_float(one)
    with pytest.raises(UserError, match=r"birth_scores has 2 values, but model.num_classes is 1"):
        Config.from_dict(json.loads(json.dumps(two.config.to_dict())) | {"model": one.config.to_dict()["model"]})
