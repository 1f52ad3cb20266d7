"""The bench from end to end on the processor, in tiny; and its stages on a device that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from motrlab.__main__ import main
from motrlab.bench import agreement
from motrlab.bench import run as module
from motrlab.bench.agreement import CHECKS
from motrlab.bench.run import Bench, bench
from motrlab.bench.training import bench_run
from motrlab.config import load_preset
from motrlab.run import Run
from motrlab.stages.data import prepare_data
from tests import guard


@pytest.fixture
def asked(home: Path, preset: str, halves: Path) -> Bench:
    """All of it, with one preset; compiled parts are traced and run as they are."""
    return Bench(
        device="cpu", minutes=600, out=home / "out", data=halves, smoke=preset, presets=(preset,), repeats=2,
        backend="eager",
    )  # fmt: skip


def lines(out: Path) -> dict[str, dict[str, Any]]:
    return {x["piece"]: x for x in map(json.loads, (out / "results.jsonl").read_text().splitlines())}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of four steps, whatever the time, and one way to compile."""
    monkeypatch.setattr("motrlab.bench.training._CHECKPOINTS", 4)
    monkeypatch.setattr(module, "COMPILED", ("", "reduce-overhead"))
    monkeypatch.setattr("motrlab.bench.training._TRAINING_SHARE", 0.0)


@pytest.mark.slow
def test_every_piece_leaves_a_line_and_is_done_once(asked: Bench, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = bench(asked)
    found = lines(asked.out)
    assert not [line for line in found.values() if "error" in line]
    assert all(found[f"agreement.{name}"]["within"] for name in CHECKS)
    forms = [f"{p}.{m}" for p in ("fp32", "bf16") for m in ("eager", "reduce-overhead")]
    for form in forms:
        step = found[f"steps.mine.{form}"]
        assert step["step_ms"] > 0
        assert {"loader_ms", "transfer_ms", "forward_ms", "backward_ms", "update_ms", "peak_mb"} <= step.keys()
    trained = found["train.mine"]
    assert trained["steps"] == found["train.mine.progress"]["of"] == found["train.mine.progress"]["step"] == 4
    assert {"motchallenge.mota", "hat.idf1"} <= trained.keys()
    assert (asked.out / "mine.safetensors").is_file()
    assert len(list(asked.out.glob("checkpoint-000004-*"))) == 1
    assert "| train.mine | cpu |" in table.read_text()
    before = (asked.out / "results.jsonl").read_text()
    monkeypatch.setattr(module, "measure", mock.Mock(side_effect=AssertionError("again")))
    bench(asked)
    assert (asked.out / "results.jsonl").read_text() == before


def test_a_training_goes_on_elsewhere_from_its_pieces(
    asked: Bench, short: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(asked, parts=("train",))
    from motrlab.bench import training

    real = training.export_files

    def killed(files: Any, folder: Path, name: str, step: int) -> None:
        real(files, folder, name, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "export_files", killed)
        with pytest.raises(KeyboardInterrupt):
            bench(asked)
    assert "train.mine" not in lines(asked.out)
    monkeypatch.setenv("MOTRLAB_HOME", str(home / "another machine"))
    bench(asked)
    found = lines(asked.out)["train.mine"]
    assert (found["steps"], found["resumed_from"]) == (4, 2)


def test_a_piece_that_fails_is_told_and_the_rest_goes_on(asked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = mock.Mock(side_effect=RuntimeError("out of\nmemory"))
    monkeypatch.setattr(module, "CHECKS", {"a": broken, "b": lambda *_: {}})
    bench(replace(asked, parts=("agreement",)))
    found = lines(asked.out)
    assert found["agreement.a"]["error"] == "RuntimeError: out of memory"
    assert "error" not in found["agreement.b"]


def test_without_time_nothing_is_begun(asked: Bench) -> None:
    bench(replace(asked, minutes=0, parts=("agreement", "train")))
    assert set(lines(asked.out)) == {"machine"}


@pytest.mark.slow
def test_every_stage_on_another_device(home: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/guard.py`: what is made in main memory beside tensors of a device raises."""
    run = Run.open("bench-smoke", preset)
    prepare_data(run, num_workers=1)
    monkeypatch.setattr(agreement, "_FRAMES", 4)
    monkeypatch.setattr(agreement, "move", lambda module, _device: guard.move(module))
    monkeypatch.setattr(agreement, "make_optimizer", lambda groups, _beta2: torch.optim.SGD(groups, foreach=False))
    found = {}
    with guard.second_device() as device:
        for name in ("float", "evaluation", "calibration", "qat"):
            found[name] = CHECKS[name](run, device)
    assert {name: values["within"] for name, values in found.items()} == dict.fromkeys(found, True)
    assert found["evaluation"]["boxes_device"] > 0
    assert found["calibration"]["numbers"] > 1000


def test_a_difference_is_seen(home: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open("bench-smoke", preset)
    prepare_data(run, num_workers=1)
    real, made = agreement.initial_model, []

    def other(config: Any) -> Any:
        model, report = real(config)
        made.append(model)
        if len(made) % 2 == 0:
            for parameter in model.base.box_heads.parameters():
                parameter.data += 0.01
        return model, report

    monkeypatch.setattr(agreement, "initial_model", other)
    assert not CHECKS["float"](run, torch.device("cpu"))["within"]
    assert len(made) == 2


def test_the_tracker_counts_the_smaller_pixels(home: Path, preset: str, halves: Path) -> None:
    config = load_preset(preset)
    config = replace(config, tracker=replace(config.tracker, min_area_px=50.0))
    share = (85 * 48) / (160 * 90)
    assert bench_run(config, halves).config.tracker.min_area_px == pytest.approx(50 * share)


def test_mistakes_are_one_line(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda", "--out", str(home / "out")]) == 2
    assert "sees no CUDA device here; give --device cpu" in capsys.readouterr().err
    assert main(["bench", "--device", "cpu", "--pieces", "nothing", "--out", str(home / "out")]) == 2
    assert "unknown piece 'nothing'" in capsys.readouterr().err
    assert main(["bench", "--device", "cpu", "--data", str(home), "--out", str(home / "out")]) == 2
    assert "no packed halves" in capsys.readouterr().err
    assert not (home / "out").exists()


def test_weights_to_start_from_travel_along(home: Path, halves: Path) -> None:
    config = load_preset("smoke")
    assert main(["pack-halves", "--src", str(halves), "--dst", str(home / "small"), "--preset", "smoke"]) == 0
    run = bench_run(config, home / "small")
    assert run.config.train.init == str(home / "small" / "start.safetensors")
    packed, shipped = (agreement.initial_model(c)[0].state_dict() for c in (run.config, config))
    assert all(torch.equal(packed[name], shipped[name]) for name in shipped)
    assert bench_run(config, halves).config.train.init == "street"
