"""Stage `data`: raw sequences → packed halves, and the baseline on their detections."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.data.motchallenge import Annotations, read_annotations, read_detections, read_sequence_info
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.data.summary import DataSummary
from motrlab.evaluation.bytetrack import track_detections
from motrlab.evaluation.metrics import Results, evaluate, flatten
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tracks import Tracks, write_tracks
from motrlab.files import replaced_folder
from motrlab.run import Run

PARTS = ("train", "test", "unseen")


def prepare_data(run: Run, *, num_workers: int = 2) -> DataSummary:
    """Generate the embedded videos (or take `data_root`), validate, split, pack, link; record kind `data`."""
    started = time.time()
    config = run.config
    if config.data_root:
        source, unseen = Path(config.data_root), None
    else:
        source, unseen = run.data / "street", is_unseen
        generate_street(config.street, source, num_workers=num_workers)
    summary = prepare(source, run.data, config.sequences, num_workers=num_workers, unseen=unseen)
    run.add_record("data", "data", summary.metrics(), started=started, data_hash=summary.data_hash)
    return summary


def open_store(run: Run, part: str = "test") -> FrameStore:
    """The packed frames of `train`, `test` or `unseen`. Raises UserError if they are missing."""
    assert part in PARTS, part
    return FrameStore(run.data / f"{part}_lmdb")


def has_unseen(run: Run) -> bool:
    return (run.data / "unseen_lmdb").is_dir()


def read_ground_truth(run: Run, part: str = "test") -> dict[str, Annotations]:
    """Annotations of `test_gt` or `unseen_gt`, by sequence."""
    folders = sorted(path.parent.parent for path in (run.data / f"{part}_gt").glob("*/gt/gt.txt"))
    return {f.name: read_annotations(f / "gt" / "gt.txt", read_sequence_info(f)) for f in folders}


def evaluate_baseline(run: Run) -> dict[str, Any]:
    """ByteTrack-style association of the `det.txt` boxes; record kinds `baseline` (returned) and `baseline_unseen`."""
    record = _evaluate_baseline(run, "test", "baseline")
    if has_unseen(run):
        _evaluate_baseline(run, "unseen", "baseline_unseen")
    return record


def _evaluate_baseline(run: Run, part: str, kind: str) -> dict[str, Any]:
    started = time.time()
    gt = read_ground_truth(run, part)
    pred: dict[str, Tracks] = {}
    for name in gt:
        file = run.data / f"{part}_gt" / name / "det" / "det.txt"
        if file.is_file():
            pred[name] = track_detections(read_detections(file))
    write_track_files(run.tracks(kind), pred)
    return run.add_record("data", kind, flat_scores(score_tracks(gt, pred)), started=started)


def score_tracks(gt: Mapping[str, Annotations], pred: Mapping[str, Tracks]) -> dict[str, Results]:
    """Metrics under every protocol."""
    return {protocol: evaluate(gt, pred, protocol) for protocol in PROTOCOLS}


def flat_scores(scores: Mapping[str, Results]) -> dict[str, float]:
    """A record's metrics: `PROTOCOL.mota`, `PROTOCOL.SEQ.mota`, ..."""
    return {key: value for protocol, found in scores.items() for key, value in flatten(found, protocol).items()}


def write_track_files(folder: Path, tracks: Mapping[str, Tracks]) -> None:
    """`SEQ.txt` of every sequence; the folder is replaced as a whole."""
    with replaced_folder(folder) as temporary:
        for name, found in tracks.items():
            write_tracks(temporary / f"{name}.txt", found)
