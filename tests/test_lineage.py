"""Which records count: those whose origins are what the run's folder holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.errors import UserError
from motrlab.lineage import tracks_hash
from motrlab.names import CHAIN, EVALUATED
from motrlab.run import Run

MakeStage = Callable[..., None]


@pytest.fixture
def run(home: Path, make_stage: MakeStage) -> Run:
    """Every stage made and evaluated, and the float model trained on."""
    found = Run.open("line", "smoke")
    for stage in (*CHAIN, "float_extra"):
        make_stage(found, stage, "first")
        if stage != "data":
            found.add_record(stage, "accuracy", {}, started=0.0)
    found.add_record("data", "baseline", {}, started=0.0)
    found.add_record("float", "calops", {}, started=0.0, made_from=())
    found.add_record("perf", "latency", {}, started=0.0)
    return found


def evaluated(run: Run) -> list[str]:
    return [record["stage"] for record in run.records(kind="accuracy")]


def test_all_counts_while_nothing_changes(run: Run, make_stage: MakeStage) -> None:
    assert run.records(stale=True) == []
    assert sorted(evaluated(run)) == sorted(EVALUATED)
    make_stage(run, "float", "first")  # the same model again
    assert run.records(stale=True) == []


@pytest.mark.parametrize(
    ("stage", "left"),
    [
        ("data", []),
        ("float", []),
        ("calibration", ["float", "float_extra"]),
        ("qat", ["float", "calibration", "float_extra"]),
        ("float_extra", ["float", "calibration", "qat", "fixed_point"]),
        ("fixed_point", ["float", "calibration", "qat", "float_extra"]),
    ],
)
def test_a_stage_made_anew_takes_what_came_from_the_old_one_out(
    run: Run, stage: str, left: list[str], make_stage: MakeStage
) -> None:
    make_stage(run, stage, "second")
    assert evaluated(run) == left
    assert run.has(stage)
    assert [s for s in EVALUATED if run.has(s) and s != stage] == [s for s in EVALUATED if s in left]
    assert run.last_record("float", "calops") is not None  # of the config alone
    assert (run.last_record("perf", "latency") is None) is (stage != "float_extra")
    assert run.model_file("qat").is_file(), "nothing is deleted"
    make_stage(run, stage, "first")
    assert sorted(evaluated(run)) == sorted(EVALUATED), "what comes back counts again"


def test_a_file_that_no_record_made_does_not_count(run: Run, make_stage: MakeStage) -> None:
    """As after a kill between the two, or where somebody has put another file in its place."""
    make_stage(run, "float", "second", recorded=False)
    run.add_record("float", "accuracy", {"motchallenge.mota": 1.0}, started=0.0)
    assert not run.has("float")
    assert evaluated(run) == []


def test_a_stage_whose_files_are_gone_does_not_count(run: Run) -> None:
    (run.artifact / "manifest.json").write_text('{"fil')
    assert not run.has("fixed_point")
    run.model_file("calibration").unlink()
    assert evaluated(run) == ["float", "float_extra"]


def test_another_config_is_another_origin_but_another_name_is_not(run: Run) -> None:
    renamed = replace(run, config=replace(run.config, preset="copy.py:mine"))
    assert renamed.records(stale=True) == []
    reseeded = replace(run, config=replace(run.config, seed=9))
    assert {record["stage"] for record in reseeded.records()} == {"data"}  # it has a seed of its own


def test_validations_on_the_way_do_not_make_the_stage(run: Run, make_stage: MakeStage) -> None:
    make_stage(run, "float", "second", recorded=False)
    run.add_record("float", "training", {"validation_step": 1}, started=0.0, made_from=("data",))
    assert not run.has("float")
    assert run.last_record("float", "training")["metrics"] == {"validation_step": 1}  # type: ignore[index]


def test_records_of_an_older_motrlab_do_not_count(run: Run) -> None:
    file = run.path / "records.jsonl"
    old = [{k: v for k, v in json.loads(line).items() if k != "made_from"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(record) + "\n" for record in old))
    assert run.records() == []
    assert len(run.records(stale=True)) == len(old)
    assert not run.has("data")


def test_tracks_are_named_by_their_bytes(run: Run) -> None:
    folder = run.tracks("float")
    folder.mkdir(parents=True)
    (folder / "A.txt").write_text("1,1,0,0,9,9,.5,-1,-1,-1\n")
    record = run.add_record("float", "accuracy", {}, started=0.0, tracks=folder)
    assert record["made_from"]["tracks"] == tracks_hash(folder)
    (folder / "A.txt").rename(folder / "B.txt")
    assert record["made_from"]["tracks"] != tracks_hash(folder)
    assert run.records("float", "accuracy")[-1] == record  # the score is still that of the model


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ("num_workers=7", {"data", "float", "calibration", "qat", "float_extra", "fixed_point"}),
        ("qat.lr=0.5", {"data", "float", "calibration"}),
        ("calibration.num_frames=9", {"data", "float", "float_extra"}),
        ("tracker.birth_score=0.9", {"data", "float", "float_extra"}),
        ("seed=5", {"data"}),
        ("train.lr=0.5", {"data"}),
        ("street.seed=5", set()),
    ],
)
def test_a_changed_field_touches_what_depends_on_it(
    home: Path, make_stage: MakeStage, field: str, kept: set[str]
) -> None:
    run = Run.open("fields", "street")
    stages = (*CHAIN, "float_extra")
    for stage in stages:
        make_stage(run, stage)
    assert all(map(run.has, stages))
    before = run.config
    again = Run.open("fields", fields=[field])
    assert {stage for stage in stages if again.has(stage)} == kept
    assert Run.open("fields").config == again.config != before, "the run has it from now on"


def test_scores_depend_on_the_trackers_rules(home: Path, make_stage: MakeStage) -> None:
    run = Run.open("rules", "street")
    for stage in ("data", "float"):
        make_stage(run, stage)
    run.add_record("float", "accuracy", {"motchallenge.mota": 0.5}, started=0.0)
    assert run.last_record("float", "accuracy") is not None
    again = Run.open("rules", fields=["tracker.birth_score=0.9"])
    assert again.has("float")
    assert again.last_record("float", "accuracy") is None


def test_a_copy_has_all_and_is_its_own(home: Path, make_stage: MakeStage) -> None:
    run = Run.open("one", "street")
    for stage in CHAIN:
        make_stage(run, stage)
    copy = run.copy("two")
    assert all(map(copy.has, CHAIN))
    assert copy.model_file("float").samefile(run.model_file("float"))
    copy.model_file("float").unlink()  # as files are replaced
    make_stage(copy, "float", "another model")
    assert run.has("qat")
    assert not copy.has("qat")
    with pytest.raises(UserError, match="there is a run 'two' already"):
        run.copy("two")
