"""Somebody's own videos through every notebook, then the run again by the command that its report shows."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.config import smoke
from motrlab.data.street import generate_street
from motrlab.run import Run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STAGES = ("baseline", "float", "calibration", "qat", "float_extra", "fixed_point")


def shell(line: str, home: Path) -> str:
    """What a line prints in which `python` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    around = {**os.environ, "MOTRLAB_HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(["sh", "-c", line], cwd=home, env=around, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


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
