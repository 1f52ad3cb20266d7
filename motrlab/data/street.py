"""`street`, the embedded synthetic data set: MOTChallenge sequences of people walking about, byte-identical for a seed.

    from motrlab.config import StreetConfig
    generate_street(StreetConfig(), Path("runs/default/street"))

Videos `STREET-01`, ... are meant to be split in halves; `STREET-U1`, ... are whole videos never to be trained on.
A scene is planned first (`street_scene`), then drawn (`street_render`); gt boxes are those of what is drawn, and
visibility is counted on the same masks: visible pixels / all pixels of a silhouette, those outside the image included.
Boxes are `ltwh` in pixels, the left top corner of the image being (0, 0). Class 1 with flag 1 are people; class 8 with
flag 0 are statues, the distractor that the `motchallenge` protocol removes. With `second_class` they have flag 1 and
are tracked as well; nothing else changes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from motrlab.config import StreetConfig
from motrlab.config.checks import counted_fields
from motrlab.data.motchallenge import SequenceInfo, format_sequence_info, write_files
from motrlab.data.street_render import Renderer, Silhouette
from motrlab.data.street_scene import build_scene
from motrlab.data.street_world import Scene
from motrlab.data.workers import worker_map
from motrlab.errors import UserError
from motrlab.files import replaced_folder, writing

VERSION = 3  # of the generator: raised whenever the same config gives other bytes
DISTRACTOR_CLASS = 8
_TWO_CLASSES = f"1 pedestrian, {DISTRACTOR_CLASS} statue"
JPEG_QUALITY = 90
_MARKER = "street.json"
_PREFIX = "STREET-"
_GT_FORMAT = "%d,%d,%.2f,%.2f,%.2f,%.2f,%d,%d,%.4f"
_DET_FORMAT = "%d,-1,%.2f,%.2f,%.2f,%.2f,%.3f,-1,-1,-1"


def street_names(config: StreetConfig) -> list[str]:
    """Names of all sequences: those to be split in halves, then the unseen ones."""
    seen = [f"{_PREFIX}{i + 1:02d}" for i in range(config.num_videos)]
    return seen + [f"{_PREFIX}U{i + 1}" for i in range(config.num_unseen)]


def is_unseen(name: str) -> bool:
    """Whether a sequence is one of the whole videos that nothing may be trained on."""
    return name.startswith(f"{_PREFIX}U")


def street_scene(name: str, config: StreetConfig) -> Scene:
    """The scene of the sequence called `name`. Raises UserError when the config has no such sequence."""
    names = street_names(config)
    if name not in names:
        raise UserError(f"street: no sequence {name!r} in this config; there are {', '.join(names)}")
    index, unseen = names.index(name), is_unseen(name)
    return build_scene(name, index - config.num_videos * unseen, config, unseen=unseen)


def generate_street(config: StreetConfig, destination: Path, *, num_workers: int = 2) -> list[Path]:
    """Write the data set below `destination` and return the folders of its sequences.

    A sequence that is there already, from the same config, is kept; one from another config is made again. The bytes
    do not depend on `num_workers`. Raises UserError when a folder is in the way that this function did not write.
    """
    names = street_names(config)
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
        _clear_stale(destination, config, names)
    missing = [name for name in names if not (destination / name).is_dir()]
    task = partial(_write_sequence, config=config, destination=destination)
    with worker_map(min(num_workers, len(missing))) as run:
        list(tqdm(run(task, missing), total=len(missing), desc="street", unit="video", disable=None))
    return [destination / name for name in names]


def _marker(config: StreetConfig) -> str:
    return json.dumps({"version": VERSION, **counted_fields(config)}, indent=1) + "\n"


def _clear_stale(destination: Path, config: StreetConfig, names: Sequence[str]) -> None:
    """Remove sequences of another config, and what a killed run left; refuse to touch what is not ours."""
    for folder in (*destination.glob(f"{_PREFIX}*"), *destination.glob(f".{_PREFIX}*")):
        marker = folder / _MARKER
        if folder.name.startswith(".") or (marker.is_file() and marker.read_text(encoding="utf-8") != _marker(config)):
            shutil.rmtree(folder)
        elif not marker.is_file() and folder.name in names:
            raise UserError(f"{folder}: exists and was not written by the street generator; remove or rename it")


def _write_sequence(name: str, config: StreetConfig, destination: Path) -> None:
    """Write one sequence under a temporary name and move it into place."""
    scene, threads = street_scene(name, config), cv2.getNumThreads()
    sizes = {field: getattr(config, field) for field in ("num_frames", "width", "height", "frame_rate")}
    classes = _TWO_CLASSES if config.second_class else ""
    info, renderer, frames = SequenceInfo(name=name, classes=classes, **sizes), Renderer(scene), []
    cv2.setNumThreads(1)
    try:
        with replaced_folder(destination / name) as folder:
            for part in ("img1", "gt", "det"):
                (folder / part).mkdir()
            for index in range(config.num_frames):
                image, found = renderer.render(index)
                ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                assert ok
                info.frame_path(folder, index + 1).write_bytes(jpeg.tobytes())
                frames.append(found)
            np.savetxt(folder / "gt" / "gt.txt", gt_rows(frames, second_class=config.second_class), _GT_FORMAT)
            np.savetxt(folder / "det" / "det.txt", _det_rows(scene, frames), _DET_FORMAT)
            write_files(folder, {"seqinfo.ini": format_sequence_info(info), _MARKER: _marker(config)})
    finally:
        cv2.setNumThreads(threads)


def gt_rows(frames: Sequence[Sequence[Silhouette]], *, second_class: bool = False) -> NDArray[np.float64]:
    """The rows of gt.txt, `float64 [n, 9]`, rounded as in the file; with `second_class` statues count."""
    rows = []
    for frame, found in enumerate(frames, 1):
        for s in found:
            flag, kind = (int(second_class), DISTRACTOR_CLASS) if s.distractor else (1, 1)
            rows.append([frame, s.track_id, *(round(v, 2) for v in s.ltwh), flag, kind, round(s.visibility, 4)])
    return np.array(rows, dtype=np.float64).reshape(-1, 9)


def _det_rows(scene: Scene, frames: Sequence[Sequence[Silhouette]]) -> NDArray[np.float64]:
    """Frame, box and score, of a plain detector: it shifts boxes, misses who is covered, sees statues and now and then
    nothing at all.
    """
    rng, config = np.random.default_rng((*scene.seed, 4)), scene.config
    rows: list[tuple[float, ...]] = []
    for frame, found in enumerate(frames, 1):
        for silhouette in found:
            shift, chance, quality = rng.normal(0, 0.03, 4), rng.random(), rng.normal(0, 0.08)
            seen, score = 0.97 * np.clip((silhouette.visibility - 0.1) / 0.5, 0, 1), 0.45 + 0.5 * silhouette.visibility
            if silhouette.distractor:
                seen, score = 0.35, 0.5
            if chance < seen:
                left, top, width, height = silhouette.ltwh
                size = (width * (1 + shift[2]), height * (1 + shift[3]))
                rows.append((frame, left + shift[0] * width, top + shift[1] * height, *size, score + quality))
        for _ in range(int(rng.poisson(0.15))):
            height = rng.uniform(0.17, 0.45) * config.height
            left, top = rng.uniform(0, config.width), rng.uniform(0, config.height - height)
            rows.append((frame, left, top, 0.38 * height, height, rng.uniform(0.2, 0.6)))
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    table[:, 5] = table[:, 5].clip(0.05, 1.0)
    return table
