"""What the files around the package promise each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import motrlab

ROOT = Path(__file__).parent.parent
Done = subprocess.CompletedProcess[str]


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
    extras = project["optional-dependencies"]
    assert pip[:-1] == project["dependencies"] + extras["kit"] + extras["test"]


def test_a_robot_gets_three_packages(project: dict[str, Any]) -> None:
    """NumPy, OpenCV and ONNX Runtime: `tests/test_runtime.py` tracks with no others."""
    names = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"numpy", "opencv-python-headless", "onnxruntime"}


def test_make_installs_a_torch_that_the_package_allows(project: dict[str, Any]) -> None:
    """An exact one: pip finds its CPU build, where there is one."""
    (pin,) = [x for x in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    name, _, version = pin.partition("==")
    (allowed,) = [Requirement(x) for x in project["optional-dependencies"]["kit"] if x.startswith("torch")]
    assert name == allowed.name == "torch"
    assert version in allowed.specifier


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


def write_script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def run(command: list[str | Path], **variables: str) -> Done:
    """Without what an outer `make test` hands on."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MOTRLAB_MOT_ROOT")}
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A virtual environment whose tools write down their arguments (`called`); those with $FAIL among them fail."""
    for name in ("python", "ruff", "mypy"):
        write_script(
            tmp_path / "venv" / "bin" / name,
            f'echo "{name} $*" >> {tmp_path}/calls',
            'test -z "$FAIL" || case "$*" in *"$FAIL"*) exit 1;; esac',
            'case "$*" in *"motrlab run"*) echo /reports/demo/index.html;; esac',
        )
    (tmp_path / "venv" / ".installed").touch()
    return tmp_path / "venv"


def make(tools: Path, *arguments: str, fail: str = "") -> Done:
    return run(["make", "-C", ROOT, *arguments, f"VENV={tools}"], FAIL=fail)


def called(tools: Path) -> list[str]:
    return (tools.parent / "calls").read_text(encoding="utf-8").splitlines()


def test_make_demo_ends_with_the_report(tools: Path) -> None:
    done = make(tools, "--no-print-directory", "demo")
    assert done.stdout.splitlines() == ["/reports/demo/index.html"]
    assert called(tools) == ["python -m motrlab run --preset street --run demo"]


@pytest.mark.parametrize(("target", "mark"), [("test", "-m not slow "), ("test-all", "-m  ")])
def test_make_test_checks_everything_once(target: str, mark: str, tools: Path) -> None:
    assert make(tools, target).returncode == 0
    calls = called(tools)
    notebooks, tests = sorted(call for call in calls if "pytest" in call)
    assert sorted({*calls} - {notebooks, tests}) == ["mypy motrlab", "ruff check .", "ruff format --check ."]
    assert set(ROOT.glob("notebooks/*.ipynb")) == {ROOT / word for word in notebooks.split() if ".ipynb" in word}
    assert tests.endswith(f"{mark}tests")


@pytest.mark.parametrize("words", ["check .", "format", "motrlab", "-n ", "--nbval"])
def test_make_test_fails_with_any_of_them(words: str, tools: Path) -> None:
    assert make(tools, "test", fail=words).returncode != 0


def test_make_installs_trackeval_alone_and_takes_flags(tools: Path) -> None:
    (tools / ".installed").unlink()
    flags = "--extra-index-url https://example.org/cpu"
    assert make(tools, "install", f"PYTHON={sys.executable}", f"PIP_FLAGS={flags}").returncode == 0
    first, second = called(tools)
    assert first == f"python -m pip install --quiet {flags} -c constraints.txt -e .[kit,test]"
    assert second.startswith(f"python -m pip install --quiet {flags} --no-deps trackeval==")
    assert (tools / ".installed").exists()


@pytest.mark.parametrize(
    ("version", "suitable"), [("3, 10", False), ("3, 11", True), ("3, 12", True), ("3, 13", False)]
)
def test_make_refuses_other_pythons(version: str, suitable: bool, tools: Path, tmp_path: Path) -> None:
    faked = f"import sys; sys.version_info = ({version}, 0); exec(sys.argv[2])"  # argv: -c, -c, what make asks
    python = write_script(tmp_path / "python", f"exec {sys.executable} -c '{faked}' \"$@\"")
    (tools / ".installed").unlink()
    done = make(tools, "install", f"PYTHON={python}")
    assert (done.returncode == 0) is suitable
    assert ("motrlab needs Python 3.11 or 3.12" in done.stderr) is not suitable


@pytest.fixture
def ci(tmp_path: Path) -> Callable[..., Done]:
    """`.ci/run` of a checkout in `tmp_path`, with a `make` that says what it is asked for."""
    shutil.copytree(ROOT / ".ci", tmp_path / "checkout" / ".ci")
    write_script(tmp_path / "bin" / "make", 'echo "make $*, sequences: $MOTRLAB_MOT_ROOT"', "exit ${STATUS:-0}")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return lambda **variables: run([tmp_path / "checkout" / ".ci" / "run"], PATH=path, **variables)


def test_ci_runs_the_tests_on_real_sequences_where_there_are_some(ci: Callable[..., Done], tmp_path: Path) -> None:
    assert ci().stdout == "make test MARK=, sequences: \n"
    (tmp_path / "shared" / "data" / "mot").mkdir(parents=True)
    assert ci().stdout == f"make test MARK=, sequences: {tmp_path}/shared/data/mot\n"


def test_ci_fails_with_the_tests(ci: Callable[..., Done]) -> None:
    assert ci(STATUS="3").returncode == 3
