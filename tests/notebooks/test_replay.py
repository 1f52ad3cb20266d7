"""Somebody's own videos through every notebook, then the run again by the command that its report shows."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.config import smoke
from motrlab.data.street import generate_street
from motrlab.run import Run
from tests.test_recipes import shell

pytestmark = pytest.mark.slow
STAGES = ("baseline", "float", "calibration", "qat", "float_extra", "fixed_point")


def test_own_videos_give_the_same_numbers_by_the_command_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MOTChallenge folder: no unseen videos, as with real data."""
    first, second = tmp_path / "first", tmp_path / "second"
    found = {}
    generate_street(replace(smoke().street, num_unseen=0), tmp_path / "mot")
    for home in (first, second):
        home.mkdir()
    shell(f"python -m motrlab run --run own --data-root {tmp_path / 'mot'} --set seed=5 -p 04_qat.steps=6", first)
    page = (first / "reports/own/index.html").read_text(encoding="utf-8")
    (line,) = set(re.findall(r"python -m motrlab run [^<]*", page))
    shell(html.unescape(line), second)
    for home in (first, second):
        monkeypatch.setenv("MOTRLAB_HOME", str(home))
        run = Run.open("own", create=False)
        records = [
            run.last_record(*key) for key in [("data", "baseline"), *((stage, "accuracy") for stage in STAGES[1:])]
        ]
        found[home] = [record["metrics"] for record in records if record is not None]
        assert run.last_record("float", "accuracy_unseen") is None
    assert len(found[first]) == len(STAGES)
    assert found[first] == found[second]
