"""Verb `demo-video`: a clip of the embedded street videos, for a first try of `track`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from motrlab.config import StreetConfig
from motrlab.data.street import street_names, street_scene
from motrlab.data.street_render import Renderer
from motrlab.data.videos import VideoFile
from motrlab.errors import UserError
from motrlab.files import writing

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
