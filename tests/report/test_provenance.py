"""The command that makes a run again, as it stands in the report: pasted into a shell, it asks for the same run."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from motrlab.__main__ import _parser
from motrlab.config import Config, load_preset, smoke
from motrlab.config.fields import variants, with_fields
from motrlab.report import html as report
from motrlab.report.html import report_html
from motrlab.report.provenance import changed_fields, command
from motrlab.run import Run

PRESET = "from dataclasses import replace\nfrom motrlab.config import street\n\ndef own():\n    return street()\n"


def pasted(run: Run) -> tuple[str, Config, list[str]]:
    """Name, config and notebook parameters that the command on the report's first page asks for, through a shell."""
    (told,) = set(re.findall(r"python -m motrlab run [^<]*", report_html(run, page=report.INDEX)))
    shell = 'python() { printf "%s\\0" "$@"; }; ' + html.unescape(told)
    words = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.split("\0")
    options = _parser().parse_args(words[2:-1])
    (fields,) = variants(options.fields)
    config = with_fields(load_preset(options.preset), fields)
    return options.run, replace(config, data_root=options.data_root, sequences=options.sequences), options.parameters


@pytest.mark.parametrize("preset", ["street", "mot17_small", "mot17_long", "mot17"])
def test_every_field_of_a_config_fits_into_the_command(preset: str) -> None:
    config = replace(load_preset(preset), preset="smoke")
    fields, lost = changed_fields(config)
    (one,) = variants(fields)
    assert with_fields(smoke(), one) == config
    assert lost == []


def test_pasted_command_asks_for_the_same_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "my presets"
    folder.mkdir()
    (folder / "it's.py").write_text(PRESET)
    monkeypatch.chdir(folder)
    fields = ["seed=3", "train.clip_frames=(2, 3, 5)", "tracker.suppress_iou=null", "train.init=$HOME/a 'file'.pth"]
    run = Run.open("mine", "it's.py:own", fields=fields, data_root="/data/my mot", sequences=("A", "B"))
    assert Run.open("mine", "it's.py:own") == run
    monkeypatch.chdir("/")  # a notebook works in another folder than the command that started it
    assert pasted(run) == ("mine", run.config, [])


def test_parameters_of_notebooks_are_in_the_command(made_run: Run) -> None:
    run, config = made_run, made_run.config
    trained = replace(config, train=replace(config.train, lr=2e-3, init=""))
    run.add_record("float", "training", {}, started=0.0, config=replace(config, train=replace(config.train, steps=3)))
    run.add_record("float", "training", {}, started=0.0, config=trained)
    watched = replace(config, calibration=replace(config.calibration, stride=2, sequences=("A b", "C")))
    run.add_record("calibration", "calibration", {}, started=0.0, config=watched)
    run.add_record("qat", "training", {}, started=0.0, config=replace(config, qat=replace(config.qat, steps=5)))
    name, again, parameters = pasted(run)
    assert (name, again) == (run.name, config)
    assert parameters == [
        "02_float_training.lr=0.002", "02_float_training.init=", "03_calibration.stride=2",
        "03_calibration.videos=A b,C", "04_qat.steps=5",
    ]  # fmt: skip


def test_what_the_command_lacks_is_told(home: Path, new_run: Callable[..., Run]) -> None:
    run = new_run("mine", "street", fields=["train.init=a,b.pth"])
    assert command(run) == "python -m motrlab run --preset street --run mine"
    assert "train.init; see mine/config.json" in report_html(run, page=report.TRAINING)
    (home / "own.py").write_text(PRESET)
    run = new_run("other", f"{home}/own.py:own", fields=["seed=3"])
    (home / "own.py").unlink()
    assert "own.py; see other/config.json" in report_html(run, page=report.TRAINING)
