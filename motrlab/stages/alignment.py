"""Verb `align`: do raw picture files give the tracks of the evaluation, byte for byte?

The evaluation reads packed pictures. Here the original files go the way of the deployed tracker: decoder of files,
`motrlab.runtime.Tracker`, text. Where the text differs, both ways go side by side until a slot differs.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.data.motchallenge import find_sequences
from motrlab.data.pictures import Image
from motrlab.data.prepare import half_ranges
from motrlab.data.preprocess import bgr_to_nv12
from motrlab.data.store import FrameStore
from motrlab.data.validate import open_sequence
from motrlab.data.videos import open_source
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, agreement
from motrlab.evaluation.tracks import Tracks, format_tracks, read_tracks
from motrlab.run import Run
from motrlab.runtime import Tracker
from motrlab.stages.accuracy import read_frames, require_tracks
from motrlab.stages.data import open_store, source_folder


def align(run: Run, *, nv12: bool = False) -> dict[str, Any]:
    """Track the raw frames of all test halves and compare with `tracks/fixed_point`.

    Record of stage `fixed_point`, kind `alignment`: `num_files`, `equal_files`, `num_frames`, `source` (`files`: the
    originals; `packed`: where these are not there any more, their bytes written out of the LMDB), `pixels`; and where
    not all are equal `sequence`, `frame`, `slot` (detect slots first), `what` (`pixels`, `scores`, `boxes`, or `tracks`
    where both ways agree and the stored tracks do not) of the first difference, and `mota`, `idf1` against the
    evaluation. `nv12`: the frames as a camera gives them, so chroma is halved and tracks are expected to differ a
    little. Raises UserError where the run has no artefact.
    """
    require_tracks(run, "fixed_point")
    started = time.time()
    store, tracker = open_store(run), Tracker(run.artifact, pixels="nv12" if nv12 else "bgr")
    metrics: dict[str, Any] = {"num_files": 0, "equal_files": 0, "num_frames": 0, "pixels": tracker.pixels}
    reference, found = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        metrics["source"] = _raw_folders(run, store, Path(folder))
        for info in store.sequences:
            raw = Path(folder) / info.name
            stored = run.tracks("fixed_point") / f"{info.name}.txt"
            found[info.name], reference[info.name] = _tracked(tracker, raw, nv12), read_tracks(stored, store.classes)
            equal = format_tracks(found[info.name]).encode() == stored.read_bytes()
            if not equal and metrics["num_files"] == metrics["equal_files"]:
                packed = read_frames(store, info.name)
                parting = _first_difference(run, packed, _images(raw, nv12))
                metrics |= {"sequence": info.name} | (parting or _first_row(stored.read_text(), found[info.name]))
            metrics["num_files"] += 1
            metrics["equal_files"] += equal
            metrics["num_frames"] += info.num_frames
    if metrics["equal_files"] < metrics["num_files"]:
        scores = agreement(reference, found)[OVERALL]
        metrics |= {name: scores[name] for name in ("mota", "idf1") if np.isfinite(scores[name])}
    run.add_record("fixed_point", "alignment", metrics, started=started, tracks=run.tracks("fixed_point"))
    return metrics


def _raw_folders(run: Run, store: FrameStore, folder: Path) -> str:
    """A folder of picture files for each test half, numbered from 1; says where they are from."""
    try:
        originals = {path.name: path for path in find_sequences(source_folder(run), run.config.sequences)}
        for info in store.sequences:
            whole, frames = open_sequence(originals[info.name])
            half = half_ranges(whole.num_frames)[1]
            if len(half) != info.num_frames:
                raise UserError(f"{originals[info.name]}: differs from what was packed")
            (folder / info.name).mkdir()
            for number, frame in enumerate(half, 1):
                file = frames.files[frame].resolve(strict=True)
                (folder / info.name / f"{number:06d}{file.suffix}").symlink_to(file)
        return "files"
    except (UserError, KeyError, OSError):
        for info in store.sequences:
            (folder / info.name).mkdir(exist_ok=True)
            for number in range(1, info.num_frames + 1):
                file = folder / info.name / f"{number:06d}{info.image_ext}"
                file.unlink(missing_ok=True)
                file.write_bytes(store.frame_bytes(info.name, number))
        return "packed"


def _images(folder: Path, nv12: bool) -> Iterator[Image]:
    for _, image in open_source(folder).frames:
        yield bgr_to_nv12(image) if nv12 else image


def _tracked(tracker: Tracker, folder: Path, nv12: bool) -> Tracks:
    tracker.reset()
    return Tracks.join([tracker.update(image) for image in _images(folder, nv12)])


def _first_difference(run: Run, packed: Iterable[Image], raw: Iterable[Image]) -> dict[str, Any] | None:
    """Where two ways part that begin with these pictures, by what the base graph is given and gives; None: nowhere."""
    runtime = load_artifact(run.artifact)
    steps = zip(runtime.steps(packed), runtime.steps(raw), strict=True)
    for frame, (one, other) in enumerate(steps, 1):
        for index, what in enumerate(("scores", "boxes")):
            a, b = (step.output.scores_and_boxes()[index][0] for step in (one, other))
            parted = np.flatnonzero((a != b).reshape(len(a), -1).any(1))
            if len(parted):
                pixels = int((one.frame != other.frame).any(-1).sum())
                told = {"pixels_different": pixels, "slots_different": len(parted)}
                return {"frame": frame, "slot": int(parted[0]), "what": "pixels" if pixels else what, **told}
    return None


def _first_row(stored: str, found: Tracks) -> dict[str, Any]:
    """The first line that differs where the graphs agree: the stored tracks were made otherwise."""
    lines = itertools.zip_longest(stored.splitlines(), format_tracks(found).splitlines(), fillvalue="")
    one, other = next((pair for pair in lines if pair[0] != pair[1]), ("", ""))
    frame = int((one or other or "0").split(",")[0])
    return {"frame": frame, "slot": -1, "what": "tracks", "stored": one, "raw": other}
