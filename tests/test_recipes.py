"""What docs/howto.md tells to do over several commands, done: runs as jobs of a cluster, a run made again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from motrlab.report.provenance import command
from motrlab.run import Run

ROOT = Path(__file__).parent.parent
MEASURED = re.compile(r"(_s|_ms|_mb|fps|speedup)$|memory")  # of this moment on this machine

pytestmark = pytest.mark.slow


def shell(line: str, home: Path) -> str:
    """Output of a command line as a user types it, `python` being this one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {**os.environ, "MOTRLAB_HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["sh", "-c", line], cwd=home, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def results(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    """The last record of every kind: what it was made from, and its metrics but times and sizes in memory."""
    return {
        (r["stage"], r["kind"]): {
            "made_from": r["made_from"],
            **{name: value for name, value in r["metrics"].items() if not MEASURED.search(name)},
        }
        for r in run.records()
    }


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory, tiny_preset: str) -> tuple[Path, str]:
    """A project with two runs made by `cluster.py` of the how-to, and what it printed."""
    pytest.importorskip("submitit", reason="make install brings submitit")
    home = tmp_path_factory.mktemp("variants")
    page = (ROOT / "docs" / "howto.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(# cluster\.py.*?)^```", page, re.M | re.S)
    (home / "cluster.py").write_text(script)
    return home, shell(f"python cluster.py {tiny_preset} lr train.lr=1e-3,2e-3 02", home)


def test_jobs_of_a_cluster_make_the_runs_and_their_comparison(
    variants: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, printed = variants
    monkeypatch.setenv("MOTRLAB_HOME", str(home))
    assert "lr-1: train.lr=1e-3" in printed
    assert re.search(r"train\.lr +0\.001 +0\.002", printed)
    assert (home / "reports" / "compare" / "lr-1-lr-2" / "index.html").is_file()
    logs = [path.read_text() for path in sorted((home / "jobs").glob("*_log.out"))]
    assert [re.findall(r"--run (\S+)", log) for log in logs] == [["lr-1"], ["lr-2"]]
    assert all("[2/8] 02_float_training ... " in log for log in logs)
    first, second = (results(Run.open(f"lr-{i}")) for i in (1, 2))
    assert first["data", "data"] == second["data", "data"]
    assert first["float", "training"]["loss"] != second["float", "training"]["loss"]


def test_command_of_a_report_makes_equal_results(
    variants: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTRLAB_HOME", str(variants[0]))
    run = Run.open("lr-2")
    shell(f"{command(run)} --to 02", tmp_path)
    monkeypatch.setenv("MOTRLAB_HOME", str(tmp_path))
    assert results(Run.open("lr-2")) == results(run)
    assert {("data", "baseline"), ("float", "accuracy")} <= set(results(run))
