"""Stage `data` on a tiny street."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from motrlab.data.clips import ClipDataset
from motrlab.errors import UserError
from motrlab.evaluation.tracks import read_tracks
from motrlab.run import Run
from motrlab.stages.data import evaluate_baseline, flat_scores, has_unseen, open_store, prepare_data, read_ground_truth


def test_prepare_data_leaves_stores_gt_and_a_record(run: Run) -> None:
    assert run.has("data")
    assert has_unseen(run)
    lengths = {part: [s.num_frames for s in open_store(run, part).sequences] for part in ("train", "test", "unseen")}
    assert lengths == {"train": [12, 12], "test": [12, 12], "unseen": [24]}
    for part, names in (("test", ["STREET-01", "STREET-02"]), ("unseen", ["STREET-U1"])):
        gt = read_ground_truth(run, part)
        assert list(gt) == names
        assert sum(len(annotations.people) for annotations in gt.values()) > 0
    record = run.last_record("data", "data")
    assert record is not None
    assert record["data_hash"] == record["made_from"]["data"]
    assert len(record["data_hash"]) == 64
    assert record["config"]["street"]["num_frames"] == 24


def test_preparing_again_changes_nothing(run: Run) -> None:
    prepare_data(run, num_workers=1)
    files = {path: path.stat().st_mtime_ns for path in run.data.rglob("data.mdb")}
    assert len(files) == 3
    before = run.last_record("data", "data")
    prepare_data(run, num_workers=1)
    after = run.last_record("data", "data")
    assert before is not None
    assert after is not None
    assert after["data_hash"] == before["data_hash"]
    assert {path: path.stat().st_mtime_ns for path in run.data.rglob("data.mdb")} == files


def test_stills_come_from_a_folder_beside_the_data_and_only_training_sees_them(run: Run, home: Path) -> None:
    before = open_store(run, "train").data_hash
    folder = home / "stills" / "photos"
    shutil.copytree(run.data / "street" / "STREET-01", folder)
    with (folder / "seqinfo.ini").open("a") as file:
        file.write("stills=1\n")
    changed = Run.open("tiny", fields=["stills_root=stills", "train.still_share=0.5"])  # from the project's root
    assert not changed.has("data"), "data are to be prepared again"
    summary = prepare_data(changed, num_workers=1)
    assert summary.totals["stills"]["num_frames"] == 24
    store = open_store(changed, "train")
    assert [info.name for info in store.stills] == ["photos"]
    assert [info.num_frames for info in store.sequences] == [12, 12]
    assert store.data_hash != before
    for part in ("test", "unseen"):
        assert open_store(changed, part).stills == ()
    assert list(read_ground_truth(changed)) == ["STREET-01", "STREET-02"]
    data = ClipDataset(store, changed.config.train, changed.config.model, 0)
    names = {data.draw_frames(np.random.default_rng(i), 3)[0] for i in range(40)}
    assert names == {"photos", "STREET-01", "STREET-02"}
    again = Run.open("tiny", fields=["stills_root=null"])
    prepare_data(again, num_workers=1)
    assert open_store(again, "train").data_hash == before


def test_stills_alone_are_no_data_of_a_run(run: Run, home: Path, tiny_preset: str) -> None:
    folder = home / "photos" / "S"
    shutil.copytree(run.data / "street" / "STREET-01", folder)
    with (folder / "seqinfo.ini").open("a") as file:
        file.write("stills=1\n")
    other = Run.open("other", tiny_preset, data_root=str(home / "photos"))
    with pytest.raises(UserError, match="no video in it, so nothing to evaluate; stills_root is for stills"):
        prepare_data(other, num_workers=1)
    assert not other.has("data")


def test_data_that_were_not_finished_do_not_count(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("motrlab.stages.data.prepare", lambda *_, **__: 1 / 0)  # killed among the parts
        with pytest.raises(ZeroDivisionError):
            prepare_data(run, num_workers=1)
    assert not run.has("data")
    prepare_data(run, num_workers=1)
    assert run.has("data")


def test_baseline(run: Run) -> None:
    record = evaluate_baseline(run)
    assert (record["stage"], record["kind"]) == ("data", "baseline")
    names = ["STREET-01", "STREET-02"]
    for protocol in ("motchallenge", "hat"):
        for name in names:
            assert f"{protocol}.{name}.mota" in record["metrics"]
        assert record["metrics"][f"{protocol}.num_gt"] == sum(
            record["metrics"][f"{protocol}.{n}.num_gt"] for n in names
        )
    assert 0.2 < record["metrics"]["motchallenge.idf1"] <= 1
    boxes = [len(read_tracks(run.tracks("baseline") / f"{name}.txt")) for name in names]
    assert sum(boxes) > 50
    assert run.last_record("data", "baseline") == record


def test_scores_of_a_record_are_flat() -> None:
    scores = {"hat": {"A.1": {"fn": 2, "mota": 0.5}, "OVERALL": {"fn": 3, "mota": 0.25}}}
    assert flat_scores(scores) == {"hat.A.1.fn": 2, "hat.A.1.mota": 0.5, "hat.fn": 3, "hat.mota": 0.25}


@pytest.fixture
def own_run(prepared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the prepared run, to be changed."""
    shutil.copytree(prepared_home, tmp_path / "home", symlinks=True)
    monkeypatch.setenv("MOTRLAB_HOME", str(tmp_path / "home"))
    return Run.open("tiny", create=False)


def test_the_baseline_is_tuned_on_train_halves_alone(own_run: Run) -> None:
    """Test frames without sense change its scores and nothing that was chosen."""
    before = evaluate_baseline(own_run)
    for file in own_run.data.glob("test_gt/*/det/det.txt"):
        file.write_text("".join(f"{frame},-1,0,0,5,5,{frame}\n" for frame in range(1, 13)))
    after = evaluate_baseline(own_run)
    assert before is not None
    assert after is not None
    chosen = {key: value for key, value in before["metrics"].items() if key.startswith("chosen.")}
    assert len(chosen) == 4
    assert chosen == {key: value for key, value in after["metrics"].items() if key.startswith("chosen.")}
    assert after["metrics"]["motchallenge.idf1"] == 0 < before["metrics"]["motchallenge.idf1"]


def test_without_detections_there_is_no_baseline(own_run: Run) -> None:
    shutil.rmtree(own_run.data / "test_gt" / "STREET-02" / "det")
    record = evaluate_baseline(own_run)
    assert record is not None
    assert "motchallenge.STREET-01.mota" in record["metrics"]
    assert not {"motchallenge.STREET-02.mota", "motchallenge.mota", "hat.mota"} & set(record["metrics"])
    (own_run.data / "test_gt" / "STREET-01" / "det" / "det.txt").write_text("")
    assert evaluate_baseline(own_run) is None
    assert own_run.last_record("data", "baseline") is None  # nor one of detections that are gone
    assert record in own_run.records(stale=True)
    assert own_run.has("data")
    kinds = [r["kind"] for r in own_run.records() if r["kind"] != "baseline_unseen"]
    shutil.rmtree(own_run.data / "unseen_gt" / "STREET-U1" / "det")
    assert evaluate_baseline(own_run) is None
    assert [r["kind"] for r in own_run.records()] == kinds


def test_a_part_that_is_missing_is_named(home: Path) -> None:
    with pytest.raises(UserError, match="test_lmdb"):
        open_store(Run.open("r", "smoke"), "test")
    assert not has_unseen(Run.open("r"))
