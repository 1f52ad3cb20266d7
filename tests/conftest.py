"""Fixtures for every room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from motrlab.doctor import find_chromium


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root; runs and reports of the test go there."""
    monkeypatch.setenv("MOTRLAB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def mot_root() -> Path:
    """Real MOTChallenge sequences; skips where MOTRLAB_MOT_ROOT does not name them."""
    root = os.environ.get("MOTRLAB_MOT_ROOT", "")
    if not root:
        pytest.skip("MOTRLAB_MOT_ROOT is not set: no real sequences here")
    if not Path(root).is_dir():
        pytest.fail(f"MOTRLAB_MOT_ROOT={root}: no such folder")
    return Path(root)


@pytest.fixture(scope="session")
def chromium() -> str:
    """A headless Chromium; skips where there is none."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found
