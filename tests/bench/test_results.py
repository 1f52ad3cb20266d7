"""Lines that survive a kill, and files in pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.bench import results as module
from motrlab.bench.results import Results, export_files, import_files, made_from
from motrlab.config import smoke
from motrlab.errors import UserError


def test_the_last_line_that_went_well_counts(tmp_path: Path) -> None:
    results = Results(tmp_path, "cpu")
    results.add("a", "1", {"ms": 1.0})
    results.add("a", "1", {"ms": 2.0})
    results.add("a", "2", {"ms": 3.0})
    results.add("a", "1", {"error": "no memory"})
    results.add("b", "1", {"error": "no memory"})
    again = Results(tmp_path, "cpu")
    assert (again.get("a", "1") or {})["ms"] == 2.0
    assert again.get("a", "3") is None
    assert again.get("b", "1") is None
    assert Results(tmp_path, "cuda").get("a", "1") is None
    table = (tmp_path / "results.md").read_text()
    assert "| a | cpu | 2 | ms 3 |" in table
    assert "| b | cpu | 1 | error no memory |" in table


def test_what_a_piece_is_made_from() -> None:
    config = smoke()
    others = [made_from(replace(config, seed=1)), made_from(config, "data"), made_from(config)]
    assert len(set(others)) == 3
    assert made_from(replace(config, preset="/elsewhere/mine.py:smoke")) == others[-1]


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    Results(tmp_path, "cpu").add("a", "1", {"ms": 1.0})
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"piece": "b", "dev')
    results = Results(tmp_path, "cpu")
    results.add("c", "1", {})
    assert [line["piece"] for line in Results(tmp_path, "cpu").lines] == ["a", "c"]


@pytest.mark.parametrize("text", [b"not ours", b'{"x": 1}', b"[1]", b'"piece, device"', b"\xff"])
def test_what_is_no_result_file_is_told(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(text + b"\n")
    with pytest.raises(UserError, match="not the results of a bench"):
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
