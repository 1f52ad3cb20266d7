"""The report's main numbers as data, and the README's headline that is made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from motrlab.__main__ import main
from motrlab.report.blocks import Source
from motrlab.report.numbers import numbers, readme_block, stored_block
from motrlab.run import Run

README = "before\n<!-- numbers: reports/sample -->\nold\n<!-- /numbers -->\nafter\n"


def test_numbers_are_those_of_the_records(filled: Run, rendered: Path) -> None:
    found = json.loads(rendered.with_name("numbers.json").read_text())
    assert found == json.loads(json.dumps(numbers(Source(filled))))
    assert found["scores"]["Fixed-point"] == {"mota": 0.8081, "idf1": 0.7969, "hota": 0.6161}
    assert (found["frame_ms"], found["base_speedup"], found["size_mb"]) == (8.9, 1.95, None)
    assert [b["value"] for b in found["budgets"]] == [0.42, 0.42, 8.9, None]
    assert len(found["git_commit"]) == 40
    assert found["config_hash"] == filled.config.hash


def test_block_tells_them(filled: Run) -> None:
    text = readme_block(numbers(Source(filled)))
    assert "| **Fixed-point** | 80.8 | 79.7 | 61.6 |" in text
    assert "| ByteTrack-style baseline on `det.txt` | 71.9 | 70.8 | 52.7 |" in text
    assert "3 of 4 budgets met; not measured: Both graphs; a frame takes 8.9 ms on 1 thread of " in text
    assert "`python -m motrlab run --preset street --run demo`" in text


def test_the_baseline_stands_beside_us_on_unseen_videos_too(full_run: Run) -> None:
    scores = {f"motchallenge.{name}": value for name, value in (("mota", 0.5), ("idf1", 0.4), ("hota", 0.3))}
    full_run.add_record("data", "baseline_unseen", scores, started=0.0)
    row = "| ByteTrack-style baseline on `det.txt`, videos never trained on | 50.0 | 40.0 | 30.0 |"
    assert row in readme_block(numbers(Source(full_run)))


def test_verb_writes_the_readme(filled: Run, rendered: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(rendered.parent, home / "reports" / "sample")
    (home / "README.md").write_text(README)
    assert main(["report", "--readme"]) == 0
    text = (home / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert stored_block(text) == readme_block(numbers(Source(filled)))
    assert main(["report", "--readme"]) == 0
    assert (home / "README.md").read_text() == text


@pytest.mark.parametrize("readme", ["no markers\n", README + README])
def test_a_readme_without_one_block_is_a_mistake(
    rendered: Path, home: Path, readme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(rendered.parent, home / "reports" / "sample")
    (home / "README.md").write_text(readme)
    assert main(["report", "--readme"]) == 2
    assert "needs one block between" in capsys.readouterr().err
    assert (home / "README.md").read_text() == readme


def test_no_sample_is_a_mistake(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--readme"]) == 2
    assert "numbers.json: missing" in capsys.readouterr().err
