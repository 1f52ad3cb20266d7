"""Lines that survive a kill, and files in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from motrlab.bench import results as module
from motrlab.bench.results import Results, export_files, import_files
from motrlab.errors import UserError


def test_the_last_line_that_went_well_counts(tmp_path: Path) -> None:
    results = Results(tmp_path, "cpu")
    results.add("a", {"ms": 1.0})
    results.add("a", {"ms": 2.0})
    results.add("a", {"error": "no memory"})
    results.add("b", {"error": "no memory"})
    again = Results(tmp_path, "cpu")
    assert (again.get("a") or {})["ms"] == 2.0
    assert again.get("b") is None
    assert Results(tmp_path, "cuda").get("a") is None
    assert "| b | cpu | error no memory |" in (tmp_path / "results.md").read_text()


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    Results(tmp_path, "cpu").add("a", {"ms": 1.0})
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"piece": "b", "dev')
    results = Results(tmp_path, "cpu")
    results.add("c", {})
    assert [line["piece"] for line in Results(tmp_path, "cpu").lines] == ["a", "c"]


def test_what_is_no_result_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("not ours\n")
    with pytest.raises(UserError, match="not lines of JSON"):
        Results(tmp_path, "cpu")


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(module, "PIECE_BYTES", 20_000)
    files = [tmp_path / "work" / name for name in ("training-1.safetensors", "loss-1.csv")]
    files[0].parent.mkdir()
    files[0].write_bytes(bytes(range(256)) * 200)
    files[1].write_text("step,loss\n")
    return files


def test_pieces_come_back_whole_and_old_ones_go(tmp_path: Path, checkpoint: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoint-notes.txt").touch()
    export_files(checkpoint, out, "checkpoint", 10)
    export_files(checkpoint[1:], out, "other", 10)
    checkpoint[1].write_text("step,loss\n0,1\n")
    export_files(checkpoint, out, "checkpoint", 20)
    pieces = sorted(p.name for p in out.glob("checkpoint-0*"))
    assert len(pieces) == 4
    assert all(name.startswith("checkpoint-000020-") and name.endswith("of4") for name in pieces)
    assert all(p.stat().st_size <= 20_000 for p in out.iterdir())
    assert import_files(out, "checkpoint", tmp_path / "there") == 20
    assert (tmp_path / "there" / "training-1.safetensors").read_bytes() == checkpoint[0].read_bytes()
    assert (tmp_path / "there" / "loss-1.csv").read_text() == "step,loss\n0,1\n"
    assert (out / "checkpoint-notes.txt").exists()
    assert len(list(out.glob("other-*"))) == 1


def test_of_a_set_cut_by_a_kill_the_one_before_counts(tmp_path: Path, checkpoint: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_files(checkpoint, out, "checkpoint", 20)
    newer = next(out.glob("*.0of4"))
    export_files(checkpoint, tmp_path, "checkpoint", 10)
    for piece in tmp_path.glob("checkpoint-000010-*"):
        piece.rename(out / piece.name)
    newer.unlink()
    assert import_files(out, "checkpoint", tmp_path / "there") == 10
    assert import_files(out, "none", tmp_path / "nowhere") == 0
