"""A training killed by SIGKILL in a process of its own goes on to the same weights, bit by bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motrlab.config import Config
from motrlab.data.store import FrameStore
from motrlab.training.checkpoint import load_tensors
from motrlab.training.trainer import train_float

# The step after the checkpoint waits to be killed: with the checkpoint written, and its own update made in part.
SCRIPT = """
import json, sys, time
from pathlib import Path
from motrlab.config import Config
from motrlab.data.store import FrameStore
from motrlab.training import trainer

config = Config.from_dict(json.loads(Path(sys.argv[1]).read_text()))
step = trainer._Training._update

def slow(self, number, batches):
    if number == int(sys.argv[4]):
        print("here", flush=True)
        time.sleep(600)
    return step(self, number, batches)

trainer._Training._update = slow
validate = lambda model, step: {"idf1": -float(step)}
trainer.train_float(FrameStore(Path(sys.argv[2])), config, Path(sys.argv[3]), validate=validate)
"""


def scores(_: object, step: int) -> dict[str, float | None]:
    return {"idf1": -float(step)}


@pytest.fixture
def full(config: Config) -> Config:
    """Everything that a checkpoint has to carry: moving statistics, EMA, all random augmentation."""
    train = replace(
        config.train,
        steps=7,
        freeze_bn=False,
        ema_decay=0.7,
        validate_every=2,
        checkpoint_every=3,
        keep_every=4,
        drop_probability=0.2,
        heavy_drop_fraction=0.5,
        false_positive_ratio=0.5,
        clone_probability=0.5,
        reference_jitter=0.1,
        denoising_groups=1,
        keep_iou=-1.0,
    )
    return replace(config, train=train)


def run_until_killed(store: FrameStore, config: Config, folder: Path, step: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    arguments = [str(folder / "config.json"), str(store.path), str(folder), str(step)]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


def test_killed_in_the_middle_ends_with_the_same_bits(store: FrameStore, full: Config, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, expected = train_float(store, full, whole, validate=scores)
    run_until_killed(store, full, killed, step=4)
    (checkpoint,) = killed.glob("training-*.safetensors")
    assert load_tensors(checkpoint)[1]["step"] == 3
    assert not (killed / "model.safetensors").exists()
    _, resumed = train_float(store, full, killed, validate=scores)
    assert resumed.curve.read_bytes() == expected.curve.read_bytes()
    names = {path.name for path in whole.glob("*.safetensors")}
    assert {name.partition("-")[0] for name in names} == {"training", "step", "model.safetensors"}
    for name in names:
        a, b = load_tensors(whole / name)[0], load_tensors(killed / name)[0]
        assert a.keys() == b.keys()
        assert all(torch.equal(value, b[key]) for key, value in a.items()), name


def test_nothing_is_pickled(store: FrameStore, config: Config, tmp_path: Path) -> None:
    train_float(store, replace(config, train=replace(config.train, steps=1)), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".csv"}
    for path in tmp_path.glob("*.safetensors"):
        assert b"PK\x03\x04" not in path.read_bytes()[:8]  # a pickle of torch is a zip file
        size = int.from_bytes(path.read_bytes()[:8], "little")
        json.loads(path.read_bytes()[8 : 8 + size])
