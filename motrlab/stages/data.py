"""Stage `data`: raw sequences → packed halves, and the baseline on their detections."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import (
    Annotations,
    Detections,
    find_sequences,
    read_annotations,
    read_detections,
    read_sequence_info,
)
from motrlab.data.prepare import cut, prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.data.summary import DataSummary
from motrlab.errors import UserError
from motrlab.evaluation.bytetrack import choose_quantiles, track_detections
from motrlab.evaluation.metrics import OVERALL, Results, evaluate
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tracks import Tracks, write_tracks
from motrlab.files import replaced_folder, write_text
from motrlab.lineage import DATA_HASH, DETECTIONS
from motrlab.names import PARTS
from motrlab.run import Run, exclusive


@exclusive
def prepare_data(run: Run, *, num_workers: int = 2) -> DataSummary:
    """Generate the embedded videos (or take `data_root`), validate, split, pack, link; record kind `data`."""
    started = time.time()
    config, source = run.config, source_folder(run)
    if not config.data_root:
        generate_street(config.street, source, num_workers=num_workers)
    unseen = None if config.data_root else is_unseen
    (run.path / DATA_HASH).unlink(missing_ok=True)  # until all parts are of the same data
    stills = run.path.parent.parent / config.stills_root if config.stills_root else None
    summary = prepare(source, run.data, config.sequences, num_workers=num_workers, unseen=unseen, stills=stills)
    if not any(sequence.part == "test" for sequence in summary.sequences):
        raise UserError(f"{source}: no video in it, so nothing to evaluate; stills_root is for stills beside videos")
    write_text(run.path / DATA_HASH, summary.data_hash + "\n")
    run.add_record("data", "data", summary.metrics(), started=started)
    return summary


def source_folder(run: Run) -> Path:
    """The sequences that the run was prepared from."""
    return Path(run.config.data_root) if run.config.data_root else run.data / "street"


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


def evaluate_baseline(run: Run) -> dict[str, Any] | None:
    """ByteTrack-style association of the `det.txt` boxes; record kinds `baseline` (returned) and `baseline_unseen`.

    Its quantiles are chosen on the train halves. Where no sequence has detections, or where other classes than people
    are tracked (a det file knows no classes), there is no baseline: None, and no record. Where some
    lack detections, the record has the others alone, and no overall row.
    """
    started = time.time()
    found = {part: _read_detections(run, part) for part in ("test", "unseen")}
    if not any(found.values()) or open_store(run).classes != PEOPLE:
        return None
    quantiles, chosen = choose_quantiles(*_train_halves(run))
    records = {}
    for part, kind in (("test", "baseline"), ("unseen", "baseline_unseen")):
        pred = {name: track_detections(detections, quantiles) for name, detections in found[part].items()}
        if pred:
            gt = read_ground_truth(run, part)
            write_track_files(run.tracks(kind), pred)
            scores = flat_scores(score_tracks({name: gt[name] for name in pred}, pred))
            if len(pred) < len(gt):  # an overall row of other videos than ours would be no baseline
                scores = {key: value for key, value in scores.items() if key.count(".") > 1}
            records[kind] = run.add_record(
                "data", kind, scores | chosen, started=started, made_from=("data", DETECTIONS), tracks=run.tracks(kind)
            )
    return records.get("baseline")


def _read_detections(run: Run, part: str) -> dict[str, Detections]:
    """By sequence, those that have any."""
    files = sorted((run.data / f"{part}_gt").glob("*/det/det.txt"))
    found = {file.parent.parent.name: read_detections(file) for file in files}
    return {name: detections for name, detections in found.items() if len(detections.frame)}


def _train_halves(run: Run) -> tuple[dict[str, Annotations], dict[str, Detections]]:
    """Ground truth and detections of the train halves that have any; detections are those of the source."""
    store = open_store(run, "train")
    infos = {info.name: info for info in store.sequences}
    gt, detections = {}, {}
    for folder in find_sequences(source_folder(run), run.config.sequences):
        file = folder / "det" / "det.txt"
        if folder.name in infos and file.is_file():
            frames = range(1, infos[folder.name].num_frames + 1)
            gt[folder.name] = store.annotations(folder.name)
            detections[folder.name] = cut(read_detections(file), frames)
    return gt, detections


def score_tracks(
    gt: Mapping[str, Annotations], pred: Mapping[str, Tracks], classes: Classes = PEOPLE
) -> dict[str, Results]:
    """Metrics under every protocol."""
    return {protocol: evaluate(gt, pred, protocol, classes=classes) for protocol in PROTOCOLS}


def flat_scores(scores: Mapping[str, Results]) -> dict[str, float]:
    """A record's metrics: `PROTOCOL.mota` of all sequences together, `PROTOCOL.SEQ.mota` of one.

    With several classes also `PROTOCOL.CLASSES.NAME.mota`.
    """
    return {
        f"{protocol}.{key}" if name == OVERALL else f"{protocol}.{name}.{key}": value
        for protocol, results in scores.items()
        for name, metrics in results.items()
        for key, value in metrics.items()
    }


def write_track_files(folder: Path, tracks: Mapping[str, Tracks]) -> None:
    """`SEQ.txt` of every sequence; the folder is replaced as a whole."""
    with replaced_folder(folder) as temporary:
        for name, found in tracks.items():
            write_tracks(temporary / f"{name}.txt", found)
