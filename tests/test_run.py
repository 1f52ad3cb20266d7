from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motrlab.config import smoke
from motrlab.errors import UserError
from motrlab.machine import hardware, package_versions
from motrlab.run import Run, project_root


def test_a_new_run_is_smoke_and_is_found_again(home: Path) -> None:
    run = Run.open("first")
    assert run.path == home / "runs" / "first"
    assert run.config == smoke()
    assert Run.open("first").config == run.config
    assert Run.open("first", "smoke", create=False).config.hash == run.config.hash


def test_where_things_are(home: Path) -> None:
    """Other programs, and the notebooks, know these paths."""
    run = Run.open("r")
    found = [run.data, run.checkpoints("qat"), run.tracks("float"), run.artifact, run.assets]
    assert [p.relative_to(run.path).as_posix() for p in found] == [
        "data", "checkpoints/qat", "tracks/float", "artifact", "assets",
    ]  # fmt: skip
    assert run.report == home / "reports" / "r"
    assert (run.path / "config.json").is_file()


def test_overrides_are_kept(home: Path) -> None:
    run = Run.open("real", "street", data_root="/data/mot", sequences=("A", "B"))
    assert run.config.preset == "street"
    assert run.config.data_root == "/data/mot"
    assert Run.open("real").config.sequences == ("A", "B")
    assert Run.open("real", data_root="/data/mot", sequences=("A", "B")).config == run.config
    assert Run.open("real", data_root=None, sequences=()).config == run.config  # not given


MISMATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "preset": ({"preset": "mot17"}, "made with preset 'street', not 'mot17'"),
    "data root": ({"data_root": "/other"}, "made with data_root='/data', not '/other'"),
    "sequences": ({"sequences": ("B",)}, r"made with sequences=\['A'\], not \['B'\]"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_run_with_data_keeps_what_it_was_made_with(name: str, home: Path) -> None:
    run = Run.open("real", "street", data_root="/data", sequences=("A",))
    run.add_record("data", "data", {}, started=0.0)
    options, message = MISMATCHES[name]
    with pytest.raises(UserError, match=message):
        Run.open("real", **options)


def test_the_source_may_be_corrected_before_there_are_data(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.open("real", "street", data_root="/data/typo", sequences=("A",))
    run = Run.open("real", data_root="/data/mot", sequences=("A",))
    assert run.config.data_root == "/data/mot"
    assert Run.open("real") == run
    told = capsys.readouterr().err
    assert told.startswith("run 'real' had data_root='/data/typo', not '/data/mot'; no data were prepared yet")
    assert told.count("\n") == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "with space", "-p", "ü"])
def test_bad_names(name: str, home: Path) -> None:
    with pytest.raises(UserError, match="run name"):
        Run.open(name)
    assert list(home.iterdir()) == []


def test_an_unknown_run_is_not_made_when_it_must_exist(home: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'absent'.*motrlab run --preset P --run absent"):
        Run.open("absent", create=False)
    assert list(home.iterdir()) == []


def test_a_failed_start_leaves_no_run(home: Path) -> None:
    with pytest.raises(UserError, match="unknown preset"):
        Run.open("typo", "smokee")
    assert not (home / "runs" / "typo").exists()


def test_records(home: Path, make_stage: Callable[..., None]) -> None:
    run = Run.open("r")
    assert run.records() == []
    assert run.last_record("float", "accuracy") is None
    started = time.time() - 2
    make_stage(run, "data")
    make_stage(run, "float", recorded=False)
    run.add_record("float", "accuracy", {"hat.mota": 0.1}, started=started, assets=[run.assets / "a.png"])
    run.add_record("float", "training", {"loss": 1.0}, started=started)
    run.add_record("float", "accuracy", {"hat.mota": 0.2, "hat.motp": None}, started=started)
    assert [r["kind"] for r in run.records()] == ["data", "accuracy", "training", "accuracy"]
    assert len(run.records("float")) == 3
    assert len(run.records("float", "accuracy")) == len(run.records(kind="accuracy")) == 2
    last = run.last_record("float", "accuracy")
    assert last is not None
    assert last["metrics"] == {"hat.mota": 0.2, "hat.motp": None}
    assert run.records("float", "accuracy")[0]["assets"] == ["assets/a.png"]


def test_a_record_has_what_the_contract_lists(home: Path, make_stage: Callable[..., None]) -> None:
    run = Run.open("r")
    make_stage(run, "data")
    record = run.add_record("data", "baseline", {"fps": 3.5}, started=time.time() - 2)
    assert set(record) == {
        "schema", "run", "stage", "kind", "metrics", "assets", "config", "config_hash", "data_hash", "made_from",
        "seed", "git_commit", "git_dirty", "versions", "hardware", "started", "duration_s",
    }  # fmt: skip
    assert record["run"] == "r"
    assert record["config_hash"] == run.config.hash
    assert record["data_hash"] == record["made_from"]["data"] != ""
    assert record["duration_s"] == pytest.approx(2, abs=1)
    assert record == run.records()[-1]
    lines = (run.path / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["data", "baseline"]


def test_a_record_never_holds_nan(home: Path) -> None:
    run = Run.open("r")
    with pytest.raises(ValueError, match="JSON"):
        run.add_record("float", "accuracy", {"hat.mota": float("nan")}, started=time.time())
    assert run.records() == []


def test_a_broken_record_is_named_by_line(home: Path) -> None:
    run = Run.open("r")
    run.add_record("data", "data", {}, started=time.time())
    with (run.path / "records.jsonl").open("a") as stream:
        stream.write('{"schema": 1, "ru\n')
    with pytest.raises(UserError, match=r"records\.jsonl:2: not JSON"):
        run.records()


def test_project_root_is_found_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOTRLAB_HOME", raising=False)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks" / "deep").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "notebooks", tmp_path / "notebooks" / "deep"):
        monkeypatch.chdir(folder)
        assert project_root() == tmp_path.resolve()
    monkeypatch.setenv("MOTRLAB_HOME", str(tmp_path / "notebooks"))
    assert project_root() == (tmp_path / "notebooks").resolve()


def test_provenance_is_filled_in() -> None:
    assert {"python", "torch", "onnxruntime", "numpy"} <= set(package_versions())
    assert hardware()["num_cpus"] >= 1


def test_a_cut_last_line_is_forgotten(home: Path) -> None:
    """A kill in the middle of a write must not block the run."""
    run = Run.open("cut")
    run.add_record("data", "data", {"a": 1}, started=0.0)
    file = run.path / "records.jsonl"
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"schema": 1, "run": "cu')
    assert [r["metrics"]["a"] for r in run.records()] == [1]
    run.add_record("data", "data", {"a": 2}, started=0.0)
    assert [r["metrics"]["a"] for r in run.records()] == [1, 2]


def test_a_damaged_config_is_named(home: Path) -> None:
    run = Run.open("hurt")
    (run.path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not a config"):
        Run.open("hurt")
