"""A preset trained for the minutes that are left, on packed halves; its checkpoints leave as they are made."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from motrlab.bench.results import PIECE_BYTES, Results, export_files, import_files, made_from
from motrlab.bench.steps import Stepper, measure, one_length
from motrlab.config import Config
from motrlab.data.halves import START, least_share
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.run import Run
from motrlab.stages.accuracy import torch_engine, track_part
from motrlab.stages.data import flat_scores, open_store, read_ground_truth, score_tracks
from motrlab.training.checkpoint import load_tensors, save_tensors
from motrlab.training.initial_weights import initial_model
from motrlab.training.trainer import train_float

_TRAINING_SHARE = 0.8  # of the minutes; the rest is for start, checkpoints and the test halves
_CHECKPOINTS = 12  # of a training


def short_name(preset: str) -> str:
    """A preset's name for files, also where it is `path/to/file.py:function`."""
    return Path(preset.partition(":")[0]).stem


def bench_run(config: Config, data: Path) -> Run:
    """A run whose data are the packed halves in `data`, with the tracker's areas in their smaller pixels.

    Raises UserError where there are none.
    """
    if not (data / "train_lmdb").is_dir():
        raise UserError(f"{data}: no packed halves; make them with `python -m motrlab pack-halves`")
    run = Run.open(f"bench-{short_name(config.preset)}", config.preset)
    if run.data.is_symlink():
        run.data.unlink()
    run.data.symlink_to(data.resolve())
    smaller = config.tracker.min_area_px * least_share(data)
    return Run(run.path, replace(config, tracker=replace(config.tracker, min_area_px=smaller)))


def start_bytes(config: Config) -> bytes:
    """A file of what the model takes of the weights that `train.init` names: the other machine may not have them.

    b"" where it names none. Raises UserError where they are missing.
    """
    model, report = initial_model(config)
    if report is None:
        return b""
    state = model.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / START
        save_tensors(file, {f"model.{name}": state[name] for name in report.matched}, {"init": config.train.init})
        return file.read_bytes()


def start_model(run: Run) -> Motr:
    """What a run of packed halves starts from: the weights packed with them, if they are those of its `train.init`.

    Raises UserError where there are none.
    """
    file, train = run.data / START, run.config.train
    if train.init and file.is_file() and load_tensors(file)[1].get("init") == train.init:
        train = replace(train, init=str(file))
    return initial_model(replace(run.config, train=train))[0]


def training_made_from(run: Run) -> str:
    """`made_from` of the training of a run of packed halves: its config, both halves, the weights beside them."""
    start = run.data / START
    weights = hashlib.sha256(start.read_bytes() if start.is_file() else b"").hexdigest()
    return made_from(run.config, f"{open_store(run, 'train').data_hash} {open_store(run).data_hash} {weights}")


def plan(results: Results, run: Run, minutes: float, device: torch.device) -> dict[str, Any]:
    """Steps that fit into `minutes`, measured first; kept, so that a training started again is the same."""
    piece, made = f"train.{short_name(run.config.preset)}.plan", training_made_from(run)
    if (kept := results.get(piece, made)) is not None:
        return kept
    stepper = Stepper(one_length(run.config), open_store(run, "train"), device, bf16=run.config.train.bf16)
    step_ms = measure(stepper, 10, time.monotonic() + 20)["step_ms"]
    steps = max(_CHECKPOINTS, int(minutes * 60 * _TRAINING_SHARE / (step_ms / 1e3)))
    results.add(piece, made, {"steps": steps, "step_ms": step_ms, "minutes": minutes})
    return results.lines[-1]


def train(results: Results, run: Run, minutes: float, device: torch.device) -> dict[str, Any]:
    """Train, track the test halves, score them; metrics by sequence under both protocols.

    Goes on from its own pieces in `results.folder`, here or on another machine.
    """
    steps = plan(results, run, minutes, device)["steps"]
    name, made = short_name(run.config.preset), training_made_from(run)
    own_name = f"{name}-{results.device}-{made}-{steps}"
    every = max(1, steps // _CHECKPOINTS)
    own = replace(run.config.train, steps=steps, checkpoint_every=every, validate_every=every)
    config, folder = replace(run.config, train=own), run.checkpoints("float") / own_name
    pieces = f"checkpoint-{own_name}"
    came_from = 0 if any(folder.glob("training-*")) else import_files(results.folder, pieces, folder)
    started = time.time()

    def leave(_model: Motr, step: int) -> Mapping[str, float | None]:
        """The checkpoint that was written last, which is of `every` steps ago."""
        written = [p for kind in ("training-*.safetensors", "loss-*.csv") for p in folder.glob(kind)]
        if len(written) > 1 and step < steps:
            export_files(written, results.folder, pieces, step - every)
        results.add(f"train.{name}.progress", made, {"step": step, "of": steps, "seconds": time.time() - started})
        return {}

    model, result = train_float(open_store(run, "train"), config, folder, start=start_model(run), validate=leave)
    weights = folder / "model.safetensors"
    if weights.stat().st_size <= PIECE_BYTES:
        (results.folder / f"{own_name}.safetensors").write_bytes(weights.read_bytes())
    else:
        export_files([weights], results.folder, own_name, steps)
    export_files([*folder.glob("training-*.safetensors"), *folder.glob("loss-*.csv")], results.folder, pieces, steps)
    found: dict[str, Any] = {"steps": steps, "resumed_from": came_from, "training_s": result.seconds, **result.final}
    return {**found, **evaluate(run, model, next(model.parameters()).device)}


def evaluate(run: Run, model: Motr, device: torch.device) -> dict[str, float]:
    """MOTA, IDF1 and HOTA of the test halves; `PROTOCOL.mota` over all of them, `PROTOCOL.SEQ.mota` of one."""
    tracks = track_part(run, torch_engine(MotrGraphs(model.eval()), run.config.model, device), "test")
    scores = score_tracks(read_ground_truth(run), tracks, open_store(run).classes)
    kept = ("mota", "idf1", "hota")
    return {name: float(value) for name, value in flat_scores(scores).items() if name.rpartition(".")[2] in kept}
