"""The shipped artefact recorded on a few frames: replayed, read again, and recorded again where something changed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.config import smoke
from motrlab.errors import UserError
from motrlab.lineage import DATA_HASH
from motrlab.run import Run
from motrlab.shipped import shipped_artifact
from motrlab.stages import recording as recording_module
from motrlab.stages.accuracy import open_engine, track_part
from motrlab.stages.data import prepare_data, read_ground_truth, score_tracks
from motrlab.stages.recording import tune_explorer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    base = smoke()
    street = replace(base.street, num_videos=2, num_unseen=0, num_frames=24)
    path = tmp_path_factory.mktemp("home") / "runs" / "demo"
    path.mkdir(parents=True)
    run = Run(path, replace(base, street=street, num_workers=0))
    prepare_data(run, num_workers=1)
    shutil.copytree(shipped_artifact(), run.artifact)
    return run


def test_the_replay_is_what_the_deployed_tracker_writes(run: Run) -> None:
    explorer = tune_explorer(run)
    for change in ({}, {"output_score": 0.7, "min_area_px": 400.0, "coast_written": 0}):
        rules = replace(run.config.tracker, **change)
        tracks = track_part(run, open_engine(run, "fixed_point"), "test", rules)
        overall = score_tracks(read_ground_truth(run), tracks)["motchallenge"]["OVERALL"]
        found = explorer.scores("test", **change)
        assert found == pytest.approx({name: overall[name] for name in found})
    assert overall["num_gt"] > 0
    assert explorer.closed_loop is not None
    looped = explorer.closed_loop(run.config.tracker, 12)  # halves have 12 frames: all of them
    assert looped == explorer.scores("train")


def test_recorded_once_and_again_when_something_changes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tune_explorer(run)
    calls = []
    make = recording_module.record_video
    monkeypatch.setattr(recording_module, "record_video", lambda *a: calls.append(1) or make(*a))
    before = tune_explorer(run).scores("test")
    assert not calls
    other = Run(run.path, replace(run.config, tracker=replace(run.config.tracker, birth_score=0.95)))
    assert tune_explorer(other).scores("test") != before
    assert len(calls) == 4
    (run.path / DATA_HASH).write_text("other data\n")
    tune_explorer(run)
    assert len(calls) == 8


def test_without_an_artefact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="artifact"):
        tune_explorer(Run(tmp_path, smoke()))
