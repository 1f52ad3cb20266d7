from __future__ import annotations

from pathlib import Path

import pytest

from motrlab import machine
from motrlab.doctor import cpu_features, examine, find_chromium


def test_cpu_features_are_those_that_linux_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert not any(cpu_features().values())
    (tmp_path / "cpuinfo").write_text("model name\t: amx_int8\nflags\t\t: fpu avx2 avx_vnni avx512_bf16\n")
    assert {name for name, there in cpu_features().items() if there} == {"avx_vnni", "avx512_bf16"}


def test_find_chromium_looks_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium() is None
    browser = tmp_path / "chromium-browser"
    browser.write_text("")
    browser.chmod(0o755)
    assert find_chromium() == str(browser)


def test_an_empty_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOTRLAB_MOT_ROOT", raising=False)
    found = examine()
    assert found["project root"] == str(home)
    assert found["runs"] == "none yet"
    assert found["MOTRLAB_MOT_ROOT"].startswith("not set")
