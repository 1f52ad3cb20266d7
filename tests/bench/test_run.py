"""The bench from end to end on the processor, in tiny; and its stages on a device that is none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from motrlab.__main__ import main
from motrlab.bench import agreement, training
from motrlab.bench import run as module
from motrlab.bench.agreement import CHECKS
from motrlab.bench.run import Bench, bench
from motrlab.bench.training import bench_run, start_bytes, start_model
from motrlab.config import load_preset
from motrlab.data.halves import START
from motrlab.run import Run
from motrlab.stages.data import prepare_data
from motrlab.training.checkpoint import save_tensors
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
    table, wrong = bench(asked)
    assert wrong == []
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
    name = f"mine-cpu-{trained['made_from']}-4"
    assert (asked.out / f"{name}.safetensors").is_file()
    assert len(list(asked.out.glob(f"checkpoint-{name}-000004-*"))) == 1
    assert "| train.mine | cpu |" in table.read_text()
    before = (asked.out / "results.jsonl").read_text()
    monkeypatch.setattr(module, "measure", mock.Mock(side_effect=AssertionError("again")))
    bench(asked)
    assert (asked.out / "results.jsonl").read_text() == before


def test_a_training_goes_on_elsewhere_from_its_pieces(
    asked: Bench, short: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(asked, parts=("train",))
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


def test_trainings_of_two_configs_leave_their_own_files(asked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(_store: Any, config: Any, folder: Path, *, start: Any, validate: Any) -> Any:
        folder.mkdir(parents=True)
        for name in ("training-1.safetensors", "loss-1.csv", "model.safetensors"):
            (folder / name).write_text(str(config.seed))
        return start, SimpleNamespace(seconds=0.0, final={"seed": config.seed})

    monkeypatch.setattr(training, "train_float", quick)
    monkeypatch.setattr(training, "plan", lambda *_: {"steps": 4})
    monkeypatch.setattr(training, "evaluate", lambda *_: {})
    for fields in ((), ("seed=1",), ()):
        assert bench(replace(asked, parts=("train",), fields=fields))[1] == []
    trained = [
        x for x in map(json.loads, (asked.out / "results.jsonl").read_text().splitlines()) if x["piece"] == "train.mine"
    ]
    assert [x["seed"] for x in trained] == [0, 1]
    for line in trained:
        name = f"mine-cpu-{line['made_from']}-4"
        assert (asked.out / f"{name}.safetensors").read_text() == str(line["seed"])
        assert len(list(asked.out.glob(f"checkpoint-{name}-*"))) == 1


def test_steps_are_of_the_fields_that_are_set(asked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(module, "Stepper", lambda config, *_, **__: seen.append(config.seed))
    monkeypatch.setattr(module, "measure", lambda *_: {})
    for seed in (3, 4, 3):
        bench(replace(asked, parts=("steps",), fields=(f"seed={seed}",)))
    assert seen == [3, 3, 4, 4]  # float32 and bfloat16


def test_a_piece_that_fails_is_told_and_the_rest_goes_on(asked: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = mock.Mock(side_effect=RuntimeError("out of\nmemory"))
    other = mock.Mock(return_value={"within": False})
    monkeypatch.setattr(module, "CHECKS", {"a": broken, "b": lambda *_: {"within": True}, "c": other})
    for _ in range(2):
        assert bench(replace(asked, parts=("agreement",)))[1] == ["agreement.a", "agreement.c"]
    found = lines(asked.out)
    assert found["agreement.a"]["error"] == "RuntimeError: out of memory"
    assert "error" not in found["agreement.b"]
    assert other.call_count == 1


def test_what_is_wrong_is_the_exit_status(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "bench", lambda _: (Path("out/results.md"), ["agreement.a", "train.mine"]))
    with pytest.raises(SystemExit, match="1"):
        main(["bench", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert out == "out/results.md\n"
    assert err == "motrlab: bench: failed, or not as on the processor: agreement.a, train.mine; see out/results.md\n"


def test_without_time_nothing_is_begun(asked: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(replace(asked, minutes=1e-9, parts=("agreement", "train")))[1] == []
    assert set(lines(asked.out)) == {"machine"}
    assert "train.mine left out, 0.0 minutes left" in capsys.readouterr().err


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
    for given, told in (
        (["--pieces", "train"], "a training needs --data"),
        (["--minutes", "0"], "minutes is a number above 0, not 0"),
        (["--minutes", "nan"], "minutes is a number above 0, not nan"),
        (["--presets", "smoke,nothing"], "unknown preset 'nothing'"),
        (["--presets", ","], "no preset; give at least one"),
        (["--set", "nothing=1"], "--set nothing=1: no such field"),
    ):
        assert main(["bench", "--device", "cpu", "--out", str(home / "out"), *given]) == 2
        assert told in capsys.readouterr().err
    assert not (home / "out").exists()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_weights_to_start_from_travel_along(
    home: Path, halves: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_preset("smoke")
    assert main(["pack-halves", "--src", str(halves), "--dst", str(home / "small"), "--preset", "smoke"]) == 0
    assert "start: 3.2 MiB\n" in capsys.readouterr().out
    shipped = agreement.initial_model(config)[0]
    assert same(start_model(bench_run(config, halves)), shipped)
    monkeypatch.setattr("motrlab.training.initial_weights.shipped_weights", lambda: home / "missing")
    assert same(start_model(bench_run(config, home / "small")), shipped)


def test_only_the_weights_that_were_read_travel(home: Path, preset: str, halves: Path) -> None:
    config = load_preset(preset)
    made = []
    for number in (5, 6):
        state = agreement.initial_model(replace(config, seed=number))[0].base.backbone.state_dict()
        file = home / f"{number}.safetensors"
        save_tensors(file, {f"model.base.backbone.{n}": t for n, t in state.items() if n.startswith("st")}, {})
        made.append(replace(config, train=replace(config.train, init=str(file), frozen_stages=1)))
    shutil.copytree(halves, home / "small")
    (home / "small" / START).write_bytes(start_bytes(made[0]))
    assert start_bytes(config) == b""
    for asked in (made[0], replace(made[0], seed=1), made[1]):  # the last one's are others than those that were packed
        found, wanted = start_model(bench_run(asked, home / "small")), agreement.initial_model(asked)[0]
        assert same(found, wanted)
        assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in wanted.parameters()]


def test_weights_that_are_missing_are_told_before_packing(
    home: Path, halves: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    assert main(["pack-halves", "--src", str(halves), "--dst", str(home / "small")]) == 2
    assert "npm pack" in capsys.readouterr().err
    assert not (home / "small").exists()
