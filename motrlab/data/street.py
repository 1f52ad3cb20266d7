"""`street`, the embedded synthetic data set: MOTChallenge sequences of people walking about, byte-identical for a seed.

    from motrlab.config import StreetConfig
    generate_street(StreetConfig(), Path("runs/default/street"))

Videos `STREET-01`, ... are meant to be split in halves; `STREET-U1`, ... are whole videos never to be trained on.
A scene is planned first (`street_scene`), then drawn (`street_render`); gt boxes are those of what is drawn, and
visibility is counted on the same masks: visible pixels / all pixels of a silhouette, those outside the image included.
Boxes are `ltwh` in pixels, the left top corner of the image being (0, 0). Class 1 with flag 1 are people; class 8 with
flag 0 are statues, the distractor that the `motchallenge` protocol removes.
"""

from __future__ import annotations

import dataclasses
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
from motrlab.data.street_render import Renderer, Silhouette
from motrlab.data.street_scene import build_scene
from motrlab.data.street_world import Scene
from motrlab.data.workers import worker_map
from motrlab.errors import UserError
from motrlab.files import replaced_folder, writing

VERSION = 3  # of the generator: raised whenever the same config gives other bytes
DISTRACTOR_CLASS = 8
JPEG_QUALITY = 90
_MARKER = "street.json"
_PREFIX = "STREET-"


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
    index = names.index(name)
    unseen = is_unseen(name)
    return build_scene(name, index - config.num_videos if unseen else index, config, unseen=unseen)


def annotate_scene(scene: Scene) -> NDArray[np.float64]:
    """The rows of gt.txt without drawing a picture, `float64 [n, 9]`.

    Columns: frame (from 1), id, left, top, width, height (px), flag, class, visibility (fraction 0 to 1).
    """
    renderer = Renderer(scene)
    frames = (renderer.silhouettes(i) for i in range(scene.config.num_frames))
    rows = [_gt_row(i + 1, found) for i, frame in enumerate(frames) for found in frame]
    return np.array(rows, dtype=np.float64).reshape(-1, 9)


def generate_street(
    config: StreetConfig, destination: Path, *, num_workers: int = 2, progress: bool | None = None
) -> list[Path]:
    """Write the data set below `destination` and return the folders of its sequences.

    A sequence that is there already, from the same config, is kept; one from another config is made anew. The bytes
    do not depend on `num_workers`. `progress=None` shows a bar on a terminal only. Raises UserError when a folder
    is in the way that this function did not write.
    """
    destination = Path(destination)
    names = street_names(config)
    with writing(destination):
        destination.mkdir(parents=True, exist_ok=True)
        _clear_stale(destination, config, names)
    missing = [name for name in names if not (destination / name).is_dir()]
    task = partial(_write_sequence, config=config, destination=destination)
    with worker_map(min(num_workers, len(missing))) as run:
        done = run(task, missing)
        disable = None if progress is None else not progress
        for _ in tqdm(done, total=len(missing), desc="street", unit="video", disable=disable):
            pass
    return [destination / name for name in names]


def _marker(config: StreetConfig) -> str:
    return json.dumps({"version": VERSION, **dataclasses.asdict(config)}, indent=1) + "\n"


def _clear_stale(destination: Path, config: StreetConfig, names: Sequence[str]) -> None:
    """Remove sequences of another config, and what a killed run left; refuse to touch what is not ours."""
    for folder in sorted(destination.glob(f"{_PREFIX}*")) + sorted(destination.glob(f".{_PREFIX}*")):
        marker = folder / _MARKER
        if folder.name.startswith(".") or (marker.is_file() and marker.read_text(encoding="utf-8") != _marker(config)):
            shutil.rmtree(folder)
        elif not marker.is_file() and folder.name in names:
            raise UserError(f"{folder}: exists and was not written by the street generator; remove or rename it")


def _write_sequence(name: str, config: StreetConfig, destination: Path) -> str:
    """Write one sequence under a temporary name and move it into place."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with replaced_folder(destination / name) as folder:
            _write_files(street_scene(name, config), folder)
    finally:
        cv2.setNumThreads(threads)
    return name


def _write_files(scene: Scene, folder: Path) -> None:
    for part in ("img1", "gt", "det"):
        (folder / part).mkdir()
    renderer = Renderer(scene)
    rng = np.random.default_rng((*scene.seed, 4))
    gt: list[str] = []
    det: list[str] = []
    for index in range(scene.config.num_frames):
        image, found = renderer.render(index)
        ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert ok
        (folder / "img1" / f"{index + 1:06d}.jpg").write_bytes(jpeg.tobytes())
        gt += [_gt_line(_gt_row(index + 1, silhouette)) for silhouette in found]
        det += _detections(rng, index + 1, found, scene.config)
    (folder / "gt" / "gt.txt").write_text("".join(gt), encoding="utf-8")
    (folder / "det" / "det.txt").write_text("".join(det), encoding="utf-8")
    (folder / "seqinfo.ini").write_text(_seqinfo(scene), encoding="utf-8")
    (folder / _MARKER).write_text(_marker(scene.config), encoding="utf-8")


def _gt_row(frame: int, found: Silhouette) -> list[float]:
    """Rounded as in the file, so that `annotate_scene` agrees with it."""
    flag, kind = (0, DISTRACTOR_CLASS) if found.distractor else (1, 1)
    box = [round(v, 2) for v in found.ltwh]
    return [frame, found.track_id, *box, flag, kind, round(found.visibility, 4)]


def _gt_line(row: Sequence[float]) -> str:
    frame, track_id, left, top, width, height, flag, kind, visibility = row
    box = f"{left:.2f},{top:.2f},{width:.2f},{height:.2f}"
    return f"{frame:.0f},{track_id:.0f},{box},{flag:.0f},{kind:.0f},{visibility:.4f}\n"


def _detections(rng: np.random.Generator, frame: int, found: Sequence[Silhouette], config: StreetConfig) -> list[str]:
    """A plain detector: it shifts boxes, misses who is covered, sees statues and now and then nothing at all."""
    lines = []
    for silhouette in found:
        noise, chance, quality = rng.normal(0, 0.03, 4), rng.random(), rng.normal(0, 0.08)
        visibility = silhouette.visibility
        seen = 0.35 if silhouette.distractor else 0.97 * np.clip((visibility - 0.1) / 0.5, 0, 1)
        if chance < seen:
            left, top, width, height = silhouette.ltwh
            box = (left + noise[0] * width, top + noise[1] * height, width * (1 + noise[2]), height * (1 + noise[3]))
            base = 0.5 if silhouette.distractor else 0.45 + 0.5 * visibility
            lines.append(_det_line(frame, box, base + quality))
    for _ in range(int(rng.poisson(0.15))):
        height = rng.uniform(0.17, 0.45) * config.height
        left, top = rng.uniform(0, config.width), rng.uniform(0, config.height - height)
        lines.append(_det_line(frame, (left, top, 0.38 * height, height), rng.uniform(0.2, 0.6)))
    return lines


def _det_line(frame: int, box: tuple[float, ...], score: float) -> str:
    left, top, width, height = box
    score = min(max(score, 0.05), 1.0)
    return f"{frame},-1,{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.3f},-1,-1,-1\n"


def _seqinfo(scene: Scene) -> str:
    config = scene.config
    return (
        f"[Sequence]\nname={scene.name}\nimDir=img1\nframeRate={config.frame_rate}\nseqLength={config.num_frames}\n"
        f"imWidth={config.width}\nimHeight={config.height}\nimExt=.jpg\n"
    )
