"""Two gloo processes against one process, and micro-batches against whole steps: the same training."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motrlab.config import Config, load_preset
from motrlab.data.clips import StepSampler
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.training.checkpoint import load_tensors, part
from motrlab.training.curve import read_rows
from motrlab.training.distributed import is_main_process, launch
from motrlab.training.trainer import train_float

# The same sums in another order: rounding of float32, 6e-8, measured at 1e-7 of the gradient after one step. AdamW
# makes more of it where a gradient is itself near nothing, so weights are compared by the norm of all: 1e-5 after four
# steps.
# Muon levels the singular values of a gradient, those near nothing too, and makes far more of rounding: what is dealt
# over processes is the gradient, which does not depend on the optimiser, so it is held with AdamW.
# A wrong divisor, a clip left out or taken twice, or another random number shows in the first or second digit.
LOSS_TOLERANCE = 1e-4  # relative; the curve has six digits
STATE_TOLERANCE = 2e-4  # of the norm
# Run in a process of its own: `train_float` as the command line calls it, on the same data and settings.
SCRIPT = """
import json, sys
from pathlib import Path
from motrlab.config import Config
from motrlab.data.store import FrameStore
from motrlab.training.trainer import train_float

config = Config.from_dict(json.loads(Path(sys.argv[1]).read_text()))
model, result = train_float(FrameStore(Path(sys.argv[2])), config, Path(sys.argv[3]))
print("main" if result.is_main else "other", result.final["loss"])
"""


@pytest.fixture
def steady(config: Config) -> Config:
    """Every random augmentation of tracks, frozen statistics, four steps of four clips."""
    train = replace(
        config.train,
        steps=4,
        optimizer="adamw",
        clips_per_step=4,
        clip_frames=(2,),
        clip_milestones=(),
        freeze_bn=True,
        drop_probability=0.2,
        heavy_drop_fraction=0.5,
        false_positive_ratio=0.5,
        clone_probability=0.5,
        reference_jitter=0.1,
        keep_iou=-1.0,
        checkpoint_every=2,
    )
    return replace(config, train=train)


def curve_of(folder: Path, name: str) -> list[float]:
    (curve,) = folder.glob("loss-*.csv")
    return [row[name] for row in read_rows(curve, 1000)]


def distance(first: Path, second: Path, kind: str) -> float:
    """Of `model` or `optimizer` (the first moment, a mean of the gradients) in two checkpoints, relative."""
    a, b = (part(load_tensors(next(f.glob("training-*.safetensors")))[0], kind) for f in (first, second))
    names = [name for name in a if kind == "model" or name.endswith("exp_avg")]
    flat = [torch.cat([tensors[name].flatten() for name in names]) for tensors in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


def assert_same_training(first: Path, second: Path) -> None:
    for name in ("loss", "class", "giou", "grad_norm"):
        assert curve_of(first, name) == pytest.approx(curve_of(second, name), rel=LOSS_TOLERANCE), name
    assert distance(first, second, "model") < STATE_TOLERANCE
    assert distance(first, second, "optimizer") < STATE_TOLERANCE


def run_processes(store: FrameStore, config: Config, folder: Path, num_processes: int) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    arguments = [str(folder / "script.py"), str(folder / "config.json"), str(store.path), str(folder)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_two_processes_train_as_one(store: FrameStore, steady: Config, tmp_path: Path) -> None:
    """Two clips in each of two processes: the loss, and the weights, of four clips in one."""
    train_float(store, steady, tmp_path / "one")
    printed = run_processes(store, steady, tmp_path / "two", 2)
    assert sorted(line.split()[0] for line in printed.splitlines()) == ["main", "other"]
    assert_same_training(tmp_path / "one", tmp_path / "two")
    files = {path.name.partition("-")[0] for path in (tmp_path / "two").iterdir()}
    assert files == {"config.json", "script.py", "model.safetensors", "training", "loss"}  # written once


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_give_the_same_training(
    store: FrameStore, steady: Config, tmp_path: Path, accumulate: int
) -> None:
    """Also where they are not of one size: four clips in three."""
    train_float(store, steady, tmp_path / "one")
    parts = replace(steady, train=replace(steady.train, accumulate=accumulate))
    train_float(store, parts, tmp_path / "parts")
    assert_same_training(tmp_path / "one", tmp_path / "parts")


def test_the_tolerance_tells_a_clip_less(store: FrameStore, steady: Config, tmp_path: Path) -> None:
    for clips in (4, 5):
        config = replace(steady, train=replace(steady.train, clips_per_step=clips))
        train_float(store, config, tmp_path / str(clips))
    for kind in ("model", "optimizer"):
        assert distance(tmp_path / "4", tmp_path / "5", kind) > 20 * STATE_TOLERANCE
    with pytest.raises(AssertionError, match="loss"):
        assert_same_training(tmp_path / "4", tmp_path / "5")


def test_clips_are_dealt_once_each(steady: Config) -> None:
    train = replace(steady.train, clips_per_step=7, accumulate=2)
    whole = StepSampler(train, 100).keys(3)
    shares = [StepSampler(train, 100, 0, rank, 3).micro_batches(3) for rank in range(3)]
    dealt = [key for share in shares for part in share for key in part]
    assert sorted(dealt) == whole
    assert all(len(share) == 2 and all(share) for share in shares)


def test_the_reference_takes_eight_clips_at_every_length() -> None:
    """`mot17`: eight GPUs, one clip each, from clips of two frames to clips of five."""
    train = load_preset("mot17").train
    sampler = StepSampler(train, 2664)
    keys = [sampler.keys(int(train.steps * fraction)) for fraction in (0, 0.3, 0.5, 0.9)]
    assert [{frames for _, _, frames in step} for step in keys] == [{2}, {3}, {4}, {5}]
    assert all(len(step) == 8 for step in keys)
    shares = [StepSampler(train, 2664, 0, rank, 8).micro_batches(0) for rank in range(8)]
    assert all([len(part) for part in share] == [1] for share in shares)


def test_too_few_clips_for_the_processes(store: FrameStore, steady: Config, tmp_path: Path) -> None:
    config = replace(steady, train=replace(steady.train, clips_per_step=2, accumulate=3))
    with pytest.raises(UserError, match="a step has 2 clips of 2 frames, too few for 1 processes × 3 micro-batches"):
        train_float(store, config, tmp_path)


def test_the_first_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_a_launch_tells_the_mistake_of_its_process(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no run 'nobody'"):
        launch(["--run", "nobody"], 1)
    assert "motrlab: no run 'nobody'" in capfd.readouterr().out  # and its output is passed on
