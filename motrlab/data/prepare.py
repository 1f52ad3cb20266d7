"""From MOTChallenge folders to a training set: validate → split in halves → pack → link the gt of the test halves.

`destination` gets `train_lmdb`, `test_lmdb` and `test_gt/SEQ/{gt/gt.txt, det/det.txt, seqinfo.ini}`, the test halves
renumbered from frame 1; and `unseen_lmdb`, `unseen_gt` for videos kept whole. Every part is made under a temporary
name and moved into place, and a part that is already there from the same files, undamaged, is kept: run it again after
a kill, and it goes on after the last sequence that was packed. A folder of one of these names that `prepare` has not
made is never touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from motrlab.data.motchallenge import (
    Annotations,
    Detections,
    SequenceInfo,
    find_sequences,
    label_files,
    read_sequence_info,
    write_files,
)
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.summary import DataSummary, summarise
from motrlab.data.validate import CheckedSequence, check_people, open_sequence, validate_sequence
from motrlab.data.workers import frame_workers
from motrlab.errors import UserError
from motrlab.files import check_ours, locked, nearest_there, replaced_folder, writing
from motrlab.names import PARTS

Boxes = TypeVar("Boxes", Annotations, Detections)


def half_ranges(num_frames: int) -> tuple[range, range]:
    """Frames (from 1) of the train half, `1..floor(n / 2)`, and of the test half, the rest: as in the MOT17 papers."""
    middle = num_frames // 2
    return range(1, middle + 1), range(middle + 1, num_frames + 1)


def cut(boxes: Boxes, frames: range) -> Boxes:
    """The rows of `frames`, renumbered so that the first of them is frame 1."""
    part = boxes.select((boxes.frame >= frames.start) & (boxes.frame < frames.stop))
    return replace(part, frame=part.frame - (frames.start - 1))


def prepare(
    source: Path,
    destination: Path,
    sequences: Sequence[str] = (),
    *,
    num_workers: int = 1,
    unseen: Callable[[str], bool] | None = None,
    stills: Path | None = None,
) -> DataSummary:
    """Validate, split, pack and link the sequences under `source` (see `find_sequences`), all or those named.

    Sequences of stills, there and under `stills` (of which all are such), go into the train part whole. Videos for
    which `unseen(name)` holds are kept whole and never trained on. Sequences without gt are left out and reported in
    the summary. `num_workers` processes check the frames (1: this one), as many threads read them for packing. There
    is a bar on a terminal. Raises UserError for bad input, classes that differ, a full disk, a target that cannot be
    written, and when no sequence is left to train on.
    """
    _check_writable(destination)
    folders = [*find_sequences(source, sequences), *(_find_stills(stills, source) if stills is not None else ())]
    infos = [open_sequence(folder)[0] for folder in folders]
    _check_classes(infos, source)
    megapixels = sum(i.num_frames * i.width * i.height for i in infos) / 1e6
    with frame_workers(num_workers, megapixels) as frame_map:
        checked = [validate_sequence(folder, frame_map=frame_map) for folder in folders]
    check_people(source, checked)
    parts = _parts(checked, unseen)
    if not parts["train"]:
        raise UserError(f"{source}: no sequence with gt/gt.txt and two frames to train on")
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
    with locked(destination, "preparing data in"):
        hashes = {part: _write_part(destination, part, members, num_workers) for part, members in parts.items()}
    return DataSummary(
        sequences=tuple(
            summarise("stills" if m.info.stills else part, m.info, m.annotations)
            for part, members in parts.items()
            for m in members
        ),
        left_out=tuple(s.info.name for s in checked if s.annotations is None),
        notes=tuple(dict.fromkeys(note for s in checked for note in s.notes)),
        data_hash=hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
    )


def _check_classes(infos: Sequence[SequenceInfo], source: Path) -> None:
    """What is tracked in one video is background in none: raises UserError unless all say the same."""
    for info in infos:
        if info.tracked != infos[0].tracked:
            told = " but ".join(f"{', '.join(i.tracked.names)} in {i.name}" for i in (infos[0], info))
            raise UserError(f"{source}: tracked are {told}; give every seqinfo.ini the same classes=, or prepare apart")


def _folders(destination: Path, part: str) -> list[Path]:
    """Of a part's frames, and of its gt: training reads that from the frames' LMDB."""
    return [destination / f"{part}_{kind}" for kind in (("lmdb",) if part == "train" else ("lmdb", "gt"))]


def _check_writable(destination: Path) -> None:
    """Before hours of reading. Raises UserError."""
    nearest = nearest_there(destination)
    # os.access is false on a read-only file system for root as well
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "read-only" if nearest.is_dir() else "a file"
        raise UserError(f"{destination}: cannot be written ({nearest} is {why}); choose another folder")
    for folder in (folder for part in PARTS for folder in _folders(destination, part)):
        check_ours(folder)


def _find_stills(folder: Path, source: Path) -> tuple[Path, ...]:
    """The sequences under `folder`, all of stills and none called like one under `source`."""
    found, taken = find_sequences(folder), {other.name for other in find_sequences(source)}
    for sequence in found:
        if not read_sequence_info(sequence).stills:
            raise UserError(f"{sequence}: a video, not stills (its seqinfo.ini has no stills=1); take it as data_root")
        if sequence.name in taken:
            raise UserError(f"{sequence}: {source} has a sequence of that name, too; rename one of them")
    return found


def _parts(checked: Iterable[CheckedSequence], unseen: Callable[[str], bool] | None) -> dict[str, list[SequenceSource]]:
    """Every sequence with gt given to its part."""
    parts: dict[str, list[SequenceSource]] = {part: [] for part in PARTS}
    for sequence in checked:
        if sequence.annotations is not None:
            num_frames = sequence.info.num_frames
            shares = dict(zip(("train", "test"), half_ranges(num_frames), strict=True))
            if sequence.info.stills:
                shares = {"train": range(1, num_frames + 1)}
            elif unseen is not None and unseen(sequence.info.name):
                shares = {"unseen": range(1, num_frames + 1)}
            for part, frames in shares.items():
                if frames:
                    parts[part].append(_cut(sequence, sequence.annotations, frames))
    return parts


def _cut(sequence: CheckedSequence, annotations: Annotations, frames: range) -> SequenceSource:
    """The frames of a sequence, renumbered from 1."""
    return SequenceSource(
        info=replace(sequence.info, num_frames=len(frames)),
        files=sequence.files[frames.start - 1 : frames.stop - 1],
        annotations=cut(annotations, frames),
        detections=sequence.detections and cut(sequence.detections, frames),
    )


def _write_part(destination: Path, part: str, members: list[SequenceSource], num_workers: int) -> str:
    """Pack a part, link its gt, and return its data hash; remove what an earlier run left of a part now empty."""
    store, *others = _folders(destination, part)
    if not members:
        for folder in (store, *others):
            check_ours(folder)
            shutil.rmtree(folder, ignore_errors=True)
        return ""
    data_hash = write_store(store, members, num_workers=num_workers)
    for gt in others:
        with replaced_folder(gt, marked=True) as folder:
            for m in members:
                write_files(folder / m.info.name, label_files(m.info, m.annotations, m.detections))
    return data_hash
