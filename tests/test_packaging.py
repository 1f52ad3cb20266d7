"""What the files around the package promise each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import motrlab

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def listed(heading: str) -> list[str]:
    """Items of one indentation below `heading` in environment.yml."""
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == heading)
    indent = len(lines[start]) - len(lines[start].lstrip())
    items = []
    for line in lines[start + 1 :]:
        depth = len(line) - len(line.lstrip())
        if depth <= indent and not (depth == indent and heading == "dependencies:"):
            break
        items.append(line.strip().removeprefix("- "))
    return items


def test_environment_agrees_with_pyproject(project: dict[str, Any]) -> None:
    pip = listed("- pip:")
    assert pip[-1] == "-e ."
    assert pip[:-1] == project["dependencies"] + project["optional-dependencies"]["test"]


def test_environment_has_the_same_pythons(project: dict[str, Any]) -> None:
    python = next(item for item in listed("dependencies:") if item.startswith("python"))
    assert python == f"python{project['requires-python']}" == "python>=3.11,<3.13"


def test_versions_agree(project: dict[str, Any]) -> None:
    assert motrlab.__version__ == project["version"]


def test_licence_is_apache(project: dict[str, Any]) -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_templates_are_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packaged = {p for pattern in settings["package-data"]["motrlab"] for p in (ROOT / "motrlab").glob(pattern)}
    others = {p for p in (ROOT / "motrlab").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others
    assert others <= packaged


def planned(target: str, *settings: str) -> str:
    """What make would do."""
    result = subprocess.run(
        ["make", "-n", "-C", str(ROOT), target, *settings], capture_output=True, text=True, check=True, timeout=60
    )
    return result.stdout


def test_make_demo_ends_with_the_run() -> None:
    lines = [line for line in planned("demo").splitlines() if not line.startswith("make")]
    assert lines[-1] == ".venv/bin/python -m motrlab run --preset street --run demo"
    assert "@$(BIN)/python -m motrlab run" in (ROOT / "Makefile").read_text(encoding="utf-8")  # not echoed


def test_make_test_checks_everything() -> None:
    plan = planned("test")
    for words in ("ruff check .", "ruff format --check .", "mypy motrlab", 'pytest -q -m "not slow"'):
        assert words in plan
    if any((ROOT / "notebooks").glob("*.ipynb")):
        assert "pytest --nbval" in plan
    assert 'pytest -q -m "not slow"' not in planned("test-all")


def test_make_installs_trackeval_alone_and_takes_flags() -> None:
    plan = planned("install", "VENV=/nowhere/venv", "PIP_FLAGS=--extra-index-url https://example.org/cpu")
    assert plan.count("--extra-index-url https://example.org/cpu") == 2
    assert re.search(r"pip install .*--no-deps trackeval==\d", plan)


@pytest.mark.parametrize(("version", "suitable"), [("3.10", False), ("3.11", True), ("3.12", True), ("3.13", False)])
def test_make_refuses_other_pythons(tmp_path: Path, version: str, suitable: bool) -> None:
    code = re.search(r"^SUITABLE := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert code is not None
    faked = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0)\n{code[1]}"
    assert (subprocess.run([sys.executable, "-c", faked], check=False).returncode == 0) is suitable


def test_ci_runs_the_tests_on_real_sequences_where_there_are_some() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in text
    assert "MOTRLAB_MOT_ROOT=$(realpath ../shared/data/mot)" in text
    assert text.rstrip().endswith("make test")
