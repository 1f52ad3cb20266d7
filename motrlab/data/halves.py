"""Prepared halves made small, to be carried to another machine: pictures resized and stored as JPEG again.

The folder is one that `prepare` could have written, in pixels of the smaller pictures, and `halves.json` beside: for
each part and sequence the share of the pixels that is left, `quality`, `mib`. Weights to start from may lie there, too.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from motrlab.config import ModelConfig
from motrlab.data.motchallenge import Annotations, SequenceInfo, label_files, write_files
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.preprocess import resize_image
from motrlab.data.store import FrameStore
from motrlab.errors import UserError, tell
from motrlab.files import replaced_folder, write_bytes, write_text, writing
from motrlab.run import project_root

PARTS = ("train", "test")
FACTS = "halves.json"
START = "start.safetensors"


def pack_halves(
    source: Path,
    destination: Path,
    model: ModelConfig,
    *,
    scale: float,
    quality: int = 65,
    most_mib: float = 40.0,
    start: bytes = b"",
) -> dict[str, float]:
    """Pack both halves of every sequence of `source`, what `prepare` wrote or a run's name or folder, small.

    A picture keeps its shape and gets sides of at least `scale` times the network's input; none is enlarged. `quality`:
    of JPEG, 1 to 100. Stills are left out, which is told. `start`: what the file `START` gets; b"": there is none.
    Gives the mebibytes of each part. Raises UserError where there is no such data, and when all parts together take
    more than `most_mib`.
    """
    _check(quality, scale, most_mib)
    folders = (source, source / "data", project_root() / "runs" / source / "data")
    found = next((folder for folder in folders if (folder / "train_lmdb").is_dir()), source)
    sizes, shares = {}, {}
    for part in PARTS:
        store = FrameStore(found / f"{part}_lmdb")
        _tell_stills(store)
        packed = destination / f"{part}_lmdb"
        with writing(destination), tempfile.TemporaryDirectory() as temporary:
            sources = list(_smaller(store, Path(temporary), model, scale, quality))
            write_store(packed, sources)
        shares[part] = {s.info.name: _pixels(s.info) / _pixels(store.info(s.info.name)) for s in sources}
        sizes[part] = _mib(packed)
    with replaced_folder(destination / "test_gt", marked=True) as folder:
        for item in sources:
            write_files(folder / item.info.name, label_files(item.info, item.annotations))
    sizes["test_gt"] = _mib(destination / "test_gt")
    if start:
        write_bytes(destination / START, start)
        sizes["start"] = len(start) / 2**20
    else:
        (destination / START).unlink(missing_ok=True)
    facts = {"quality": quality, "scale": scale, "pixels": shares, "mib": sizes}
    write_text(destination / FACTS, json.dumps(facts, indent=2) + "\n")
    if sum(sizes.values()) > most_mib:
        raise UserError(
            f"{destination}: {sum(sizes.values()):.1f} MiB at quality {quality} and scale {scale:g}, more than "
            f"{most_mib:g}: lower --quality or --scale, or allow --most-mib"
        )
    return sizes


def least_share(folder: Path) -> float:
    """Of the pixels of any picture packed there, what is left; 1 for halves that were not made small."""
    file = folder / FACTS
    if not file.is_file():
        return 1.0
    shares = json.loads(file.read_text(encoding="utf-8"))["pixels"]
    return min(share for part in shares.values() for share in part.values())


def _check(quality: int, scale: float, most_mib: float) -> None:
    if not 1 <= quality <= 100:
        raise UserError(f"pack-halves: quality is from 1 to 100, not {quality}")
    for name, value in (("scale", scale), ("most-mib", most_mib)):
        if not 0 < value < math.inf:
            raise UserError(f"pack-halves: {name} is a number above 0, not {value:g}")


def _tell_stills(store: FrameStore) -> None:
    if store.stills:
        count, names = sum(info.num_frames for info in store.stills), ", ".join(info.name for info in store.stills)
        tell(f"motrlab: {count} stills of {names} are left out: pseudo-clips there will use frames of the videos")


def _mib(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def _pixels(info: SequenceInfo) -> int:
    return info.width * info.height


def _smaller(
    store: FrameStore, folder: Path, model: ModelConfig, scale: float, quality: int
) -> Iterator[SequenceSource]:
    """Its sequences with smaller pictures, which are written to `folder`."""
    for info in store.sequences:
        factor = min(1.0, max(model.height * scale / info.height, model.width * scale / info.width))
        width, height = (max(1, round(side * factor)) for side in (info.width, info.height))
        small = replace(info, width=width, height=height, image_ext=".jpg")
        files = []
        for frame in range(1, info.num_frames + 1):
            files.append(folder / f"{info.name}-{frame:06d}.jpg")
            image = resize_image(store.image(info.name, frame), small.height, small.width)
            cv2.imwrite(str(files[-1]), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        annotations = _scaled(store.annotations(info.name), info, small)
        yield SequenceSource(info=small, files=tuple(files), annotations=annotations)


def _scaled(annotations: Annotations, info: SequenceInfo, small: SequenceInfo) -> Annotations:
    ratio = np.array([small.width / info.width, small.height / info.height] * 2)
    return replace(annotations, ltwh=annotations.ltwh * ratio)
