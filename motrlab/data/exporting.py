"""From packed LMDBs back to MOTChallenge folders: the JPEG bytes as they came in, gt in the form it came in.

gt rows stand by frame, then id, numbers in their shortest form; world coordinates of MOT15 files and `det.txt` are not
in an LMDB and do not come back. Of a run, or the folder that `prepare` made, the halves of a video are put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np

from motrlab.data.motchallenge import ANNOTATION_FIELDS, Annotations, SequenceInfo, label_files, write_files
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.files import replaced_folder

_HALVES = ("train_lmdb", "test_lmdb")  # in the order of the frames


def export_sequences(source: Path, destination: Path) -> list[SequenceInfo]:
    """Write `destination/SEQ/{img1, gt/gt.txt, seqinfo.ini}` of every sequence and return their infos.

    `source` is a packed LMDB, the folder that `prepare` wrote, or a run's folder. A sequence's folder that is there
    already is not overwritten. Raises UserError.
    """
    halves: dict[str, list[FrameStore]] = {}
    for store in map(FrameStore, _find_stores(source)):
        for info in (*store.sequences, *store.stills):
            halves.setdefault(info.name, []).append(store)
    for name in halves:
        if (destination / name).exists():
            raise UserError(f"{destination / name}: already there; move it away or choose another --dst")
    return [_export(name, parts, destination) for name, parts in halves.items()]


def _find_stores(source: Path) -> list[Path]:
    if (source / "data.mdb").is_file():
        return [source]
    for folder in (source, source / "data"):
        found = [folder / name for name in (*_HALVES, "unseen_lmdb") if (folder / name).is_dir()]
        if found:
            return found
    raise UserError(f"{source}: no packed data (data.mdb or train_lmdb) in it; give a run's folder or an LMDB's")


def _export(name: str, parts: Sequence[FrameStore], destination: Path) -> SequenceInfo:
    infos = [store.info(name) for store in parts]
    info = replace(infos[0], num_frames=sum(i.num_frames for i in infos))
    _check_safe(parts[0].path, info)
    with replaced_folder(destination / name) as folder:
        (folder / info.image_dir).mkdir()
        frames = ((store, i) for store, part in zip(parts, infos, strict=True) for i in range(1, part.num_frames + 1))
        for number, (store, frame) in enumerate(frames, 1):
            info.frame_path(folder, number).write_bytes(store.frame_bytes(name, frame))
        write_files(folder, label_files(info, _joined([store.annotations(name) for store in parts], infos)))
    return info


def _check_safe(path: Path, info: SequenceInfo) -> None:
    """Names in a file from elsewhere must not lead out of the target."""
    for text in (info.name, info.image_dir):
        if len(PurePath(text).parts) != 1 or text in ("..", "gt", "det"):
            raise UserError(f"{path}: folder name {text!r} in its meta data; not written by motrlab, refused")
    if not info.image_ext.startswith(".") or "/" in info.image_ext or "\\" in info.image_ext:
        raise UserError(f"{path}: file extension {info.image_ext!r} in its meta data; not written by motrlab, refused")


def _joined(parts: Sequence[Annotations], infos: Sequence[SequenceInfo]) -> Annotations:
    """Frames of later parts count on from those before."""
    first = np.cumsum([0, *(info.num_frames for info in infos[:-1])])
    moved = [replace(part, frame=part.frame + offset) for part, offset in zip(parts, first, strict=True)]
    arrays = {field: np.concatenate([getattr(part, field) for part in moved]) for field in ANNOTATION_FIELDS}
    return Annotations(**arrays, has_class=all(part.has_class for part in parts if len(part)))
