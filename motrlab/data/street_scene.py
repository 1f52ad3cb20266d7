"""The plan of a synthetic street video, without a single pixel: camera, props, people, light.

Scenes depend on the config and the video's index only. About every third camera moves; every fourth video has a
moment without people in its second half, every other fourth in its first.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig
from motrlab.data.street_looks import dress
from motrlab.data.street_walks import Stage, populate
from motrlab.data.street_world import REFERENCE_HEIGHT, Colour, Floats, Prop, Scene, body_height

_MIN_FRAMES_TO_LEAVE = 96  # a shorter video is over before all have left the street

# kind: foot y in reference px (lowest, highest), width and height in body heights at that place, colour
_PROPS: dict[str, tuple[tuple[float, float], tuple[float, float], Colour]] = {
    "pole": ((165, 240), (0.075, 2.4), (50, 60, 50)),
    "column": ((175, 225), (0.38, 1.25), (60, 85, 70)),
    "planter": ((170, 225), (0.6, 0.28), (60, 85, 110)),
    "statue": ((104, 150), (0.4, 0.95), (150, 155, 155)),
}


def build_scene(name: str, index: int, config: StreetConfig, *, unseen: bool = False) -> Scene:
    """The scene of video `index` (from 0, counted separately for unseen videos). Depends on its arguments only."""
    seed = (config.seed, int(unseen), index)
    rng = np.random.default_rng(seed)
    unit = config.height / REFERENCE_HEIGHT
    moving = index % 2 == 1 if unseen else index % 3 == 1
    camera, panorama = _camera(rng, config, unit, moving)
    props = _props(rng, panorama, unit)
    stage = Stage(config, unit, camera, _empty_frames(rng, index, config, unseen), props)
    people = dress(np.random.default_rng((*seed, 5)), populate(rng, stage))
    time = np.arange(config.num_frames)
    period = rng.uniform(0.5, 1.5) * 240
    wave = np.sin(2 * np.pi * time / period + rng.uniform(0, 6))
    gain = rng.uniform(0.92, 1.06) * (1 + rng.uniform(0.02, 0.09) * wave)
    return Scene(name, config, seed, tuple(people), props, camera, panorama, gain, rng.uniform(1.0, 3.0))


def _camera(
    rng: np.random.Generator, config: StreetConfig, unit: float, moving: bool
) -> tuple[Floats, tuple[int, int]]:
    """A still camera, or a smooth pan with a small shake. Returns offsets and the size of the panorama."""
    if not moving:
        return np.zeros((config.num_frames, 2)), (config.width, config.height)
    time = np.arange(config.num_frames)
    reach, margin = 55 * unit, 4 * unit
    period = rng.uniform(200, 300)
    pan = reach * (1 + np.sin(2 * np.pi * time / period + rng.uniform(0, 2 * np.pi)))
    shake = np.zeros((config.num_frames, 2))
    for frequency in (0.11, 0.23, 0.31):
        reach_px = rng.uniform(0.2, 0.6, 2) * unit
        shake += reach_px * np.sin(2 * np.pi * (frequency * time[:, None] + rng.uniform(0, 1, 2)))
    camera = shake + margin
    camera[:, 0] += pan
    width = config.width + math.ceil(2 * reach + 2 * margin) + 1
    return camera, (width, config.height + math.ceil(2 * margin) + 1)


def _empty_frames(rng: np.random.Generator, index: int, config: StreetConfig, unseen: bool) -> NDArray[np.bool_]:
    """Every fourth video has a moment without people in its second half, every other fourth in its first."""
    empty = np.zeros(config.num_frames, dtype=bool)
    if unseen or index % 2 == 1 or config.num_frames < _MIN_FRAMES_TO_LEAVE:
        return empty
    length = max(1, config.num_frames // 24)
    half = config.num_frames // 2
    first = int(rng.integers(1, half - length)) if half - length > 1 else 0
    first += half if index % 4 == 0 else 0
    empty[first : first + length] = True
    return empty


def _props(rng: np.random.Generator, panorama: tuple[int, int], unit: float) -> tuple[Prop, ...]:
    """Two or three poles, two advertising columns, perhaps a planter, one or two statues: spread over the panorama."""
    kinds = ["pole"] * int(rng.integers(2, 4)) + ["statue"] * int(rng.integers(1, 3))
    kinds += ["column"] * 2 + ["planter"] * int(rng.random() < 0.5)
    rng.shuffle(kinds)
    slots = (np.arange(len(kinds)) + rng.uniform(0.2, 0.8, len(kinds))) / len(kinds)
    props = []
    for kind, slot in zip(kinds, slots, strict=True):
        (low, high), (width, height), colour = _PROPS[kind]
        foot_y = float(rng.uniform(low, high)) * unit
        body = float(body_height(foot_y, unit))
        shade = int(rng.integers(0, 25))
        blue, green, red = colour
        foot = (float(slot) * panorama[0], foot_y)
        props.append(Prop(kind, foot, width * body, height * body, (blue + shade, green + shade, red + shade)))
    return tuple(props)
