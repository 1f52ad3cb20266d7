"""What the verbs of deployment look at: what is named, or else the run `default`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from motrlab.__main__ import main
from motrlab.deploy.target import FOLDER

VERBS = {
    "check": ["--target", "horizon-j6m"],
    "compile": ["--target", "onnxruntime-cpu"],
    "perf": [],
    "perf, predicted": ["--target", "horizon-j6m"],
    "align": [],
    "debug": ["--layer", "backbone.stem"],
    "handover": ["--toolchain", "onnx"],
    "sensitivity": [],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("named", [[], ["--run", "default"], ["--run", "mine"]], ids=["none", "default", "mine"])
def test_without_a_run_it_is_the_run_default(
    verb: str, named: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb.partition(",")[0], *VERBS[verb], *named]) == 2
    name = (named or ["default"])[-1]
    told = capsys.readouterr().err
    command = f"python -m motrlab run --preset P --run {name}"
    assert told == f"motrlab: no run {name!r} in {home / 'runs'}: start one with `{command}`\n"


@pytest.mark.parametrize("verb", ["check", "compile", "perf", "debug"])
def test_an_artefact_stands_instead_of_a_run(verb: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, *VERBS[verb], "--artifact", "mine"]) == 2
    assert capsys.readouterr().err.startswith("motrlab: mine: no such artefact folder")
    with pytest.raises(SystemExit, match="2"):
        main([verb, *VERBS[verb], "--artifact", "mine", "--run", "mine"])


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb.partition(",")[0], "--help"])
    assert "a run (default: the run default)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--preset", "smoke", "--stage", "qat", "--target", "horizon-j6m"], "preset smoke has no stage qat"),
        (["targets", "--describe-host", "host"], "host: give a name that ends in .json"),
        (["targets", "--describe-host", "file/host.json"], "file/host.json: "),  # before a minute of measuring
        (["targets", "--describe-host", "mine.json"], "mine.json: exists and describes no host; give another name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    shutil.copy(FOLDER / "horizon-j6m.json", "mine.json")
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"motrlab: {message}")
    assert told.count("\n") == 1


def test_a_stage_is_one_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--stage", "last", "--target", "horizon-j6m"])
    assert "choose from" in capsys.readouterr().err
