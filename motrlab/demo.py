"""A first try: a clip of the embedded street videos for `track` (verb `demo-video`), and the same tracked at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from motrlab.config import StreetConfig
from motrlab.data.motchallenge import Annotations
from motrlab.data.pictures import Image
from motrlab.data.street import gt_rows, street_names, street_scene
from motrlab.data.street_render import Renderer
from motrlab.data.videos import VideoFile
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks
from motrlab.files import writing
from motrlab.shipped import shipped_artifact
from motrlab.viz.overlay import TRAIL_FRAMES, draw_frame, trails_of

SEED = 101


def write_demo_video(path: Path, *, seed: int = SEED, num_frames: int = 225) -> StreetConfig:
    """Write a street video with a moving camera, the same for a seed; returns its size and frame rate.

    It is one of those that nothing is trained on, whatever the seed (`data/street.py`). Raises UserError where `path`
    is already there or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path}: already there; remove it, or give another name")
    config = StreetConfig(seed=seed, num_frames=num_frames)
    renderer = Renderer(street_scene(street_names(config)[-1], config))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    video = VideoFile(path, config.frame_rate)
    try:
        for index in tqdm(range(num_frames), desc="street", unit="frame", disable=None):
            video.write(renderer.render(index)[0])
    finally:
        video.close()
    return config


def track_demo(num_frames: int = 48, *, seed: int = SEED) -> tuple[list[Image], dict[str, float]]:
    """The frames of that video with boxes, ids and trails of the tracker that comes with motrlab, drawn into them
    (BGR), and its metrics there by name, protocol motchallenge.
    """
    config = StreetConfig(seed=seed, num_frames=num_frames)
    renderer = Renderer(street_scene(street_names(config)[-1], config))
    images, silhouettes = zip(*map(renderer.render, range(num_frames)), strict=True)
    found = list(load_artifact(shipped_artifact()).track(images))
    rows = gt_rows(silhouettes)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    frame, track_id, flag, kind = rows[:, (0, 1, 6, 7)].astype(np.int64).T
    gt = Annotations(frame, track_id, rows[:, 2:6], flag, kind, rows[:, 8], has_class=True)
    tracks = Tracks.of_frames(found)
    drawn = [
        draw_frame(image, found[i], trails_of(found[max(0, i + 1 - TRAIL_FRAMES) : i + 1]))
        for i, image in enumerate(images)
    ]
    return drawn, evaluate({"demo": gt}, {"demo": tracks})[OVERALL]
