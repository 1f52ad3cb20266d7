"""What the deployed networks gave on the train and test halves, recorded: `TuneExplorer` replays the tracker on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.config import TrackerConfig
from motrlab.data.store import FrameStore
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tuning import Half, score
from motrlab.files import atomic_path
from motrlab.lineage import DATA_HASH
from motrlab.run import Run
from motrlab.stages.accuracy import Engine, open_engine, read_frames
from motrlab.stages.data import open_store
from motrlab.tracking.replay import Recording, record_video
from motrlab.viz.explore_tune import TuneExplorer

PARTS = ("train", "test")


def tune_explorer(run: Run, protocol: str = PROTOCOLS[0]) -> TuneExplorer:
    """The explorer of a run's artefact; what it needs is recorded once, and again where artefact, data or rules change.

    Raises UserError where the run has no artefact.
    """
    engine = open_engine(run, "fixed_point")
    halves = {part: recorded_half(run, engine, part) for part in PARTS}
    classes = halves["train"].classes

    def closed_loop(rules: TrackerConfig, num_frames: int) -> Mapping[str, float]:
        found, gt = _record(run, engine, "train", rules, num_frames)
        half = Half.of(found, gt, classes)
        return score(half.gt, half.tracks(rules), protocol, classes)

    return TuneExplorer(halves["train"], halves["test"], protocol=protocol, closed_loop=closed_loop)


def recorded_half(run: Run, engine: Engine, part: str) -> Half:
    """The recording of `train` or `test`, read from `assets/recorded_PART.npz` or made."""
    path, made_from = run.assets / f"recorded_{part}.npz", _made_from(run)
    store = open_store(run, part)
    found = _read(path, made_from, run.config.tracker)
    if found is None:
        found, _ = _record(run, engine, part, run.config.tracker)
        _write(path, made_from, found)
    return Half.of(found, _annotations(store), store.classes)


def _record(
    run: Run, engine: Engine, part: str, rules: TrackerConfig, num_frames: int | None = None
) -> tuple[dict[str, Recording], dict[str, Any]]:
    """Recordings of all videos of a part, or of their first frames, and the ground truth of these."""
    store, found = open_store(run, part), {}
    for info in store.sequences:
        images = read_frames(store, info.name, last=num_frames)
        found[info.name] = record_video(engine.graphs, images, engine.preprocess, run.config.model, rules)
    gt = _annotations(store)
    return found, {name: own.select(own.frame <= found[name].num_frames) for name, own in gt.items()}


def _annotations(store: FrameStore) -> dict[str, Any]:
    return {info.name: store.annotations(info.name) for info in store.sequences}


def _made_from(run: Run) -> str:
    """Hash of the artefact's manifest, of the data, and of the rules."""
    rules = json.dumps(dataclasses.asdict(run.config.tracker), sort_keys=True)
    files = (run.artifact / "manifest.json", run.path / DATA_HASH)
    return hashlib.sha256(b"".join(f.read_bytes() for f in files) + rules.encode()).hexdigest()


def _write(path: Path, made_from: str, recordings: Mapping[str, Recording]) -> None:
    arrays = {f"{name}/{key}": array for name, r in recordings.items() for key, array in r.arrays().items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, made_from=np.array(made_from), **arrays)


def _read(path: Path, made_from: str, rules: TrackerConfig) -> dict[str, Recording] | None:
    """None where there is no file, or one made from something else."""
    if not path.is_file():
        return None
    with np.load(path) as stored:
        if str(stored["made_from"]) != made_from:
            return None
        tables: dict[str, dict[str, Any]] = {}
        for entry in stored.files:
            name, _, key = entry.rpartition("/")
            if name:
                tables.setdefault(name, {})[key] = stored[entry]
    return {name: Recording.from_arrays(rules, table) for name, table in tables.items()}
