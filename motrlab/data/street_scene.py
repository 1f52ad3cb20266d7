"""The plan of a synthetic street video, without a single pixel: camera, props, people and their looks, light.

Scenes depend on the config and the video's index only. About every third camera moves; every fourth video has a
moment without people in its second half, every other fourth in its first.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig
from motrlab.data.street_walks import Stage, populate
from motrlab.data.street_world import REFERENCE_HEIGHT, Colour, Floats, Look, Person, Prop, Scene, body_height

_MIN_FRAMES_TO_LEAVE = 96  # a shorter video is over before all have left the street

# kind: foot y in reference px (lowest, highest), width and height in body heights at that place, colour
_PROPS: dict[str, tuple[tuple[float, float], tuple[float, float], Colour]] = {
    "pole": ((165, 240), (0.075, 2.4), (50, 60, 50)),
    "column": ((175, 225), (0.38, 1.25), (60, 85, 70)),
    "planter": ((170, 225), (0.6, 0.28), (60, 85, 110)),
    "statue": ((104, 150), (0.4, 0.95), (150, 155, 155)),
}

_LOOK_ALIKES = 0.2  # share of the people who dress like another one

_SHIRTS: tuple[Colour, ...] = (
    (40, 40, 210), (30, 130, 245), (40, 215, 240), (60, 160, 40), (150, 150, 20), (215, 110, 30), (110, 40, 20),
    (170, 50, 130), (180, 120, 245), (245, 245, 245), (25, 25, 30), (30, 60, 105), (70, 235, 150), (235, 215, 90),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (25, 25, 25), (120, 60, 25), (50, 70, 100), (225, 225, 230), (35, 35, 120), (40, 90, 40), (165, 130, 60),
    (110, 190, 220),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = ((20, 20, 25), (25, 45, 80), (70, 170, 220), (40, 70, 150), (190, 190, 195))
_SKIN: tuple[Colour, ...] = ((170, 200, 240), (130, 170, 220), (80, 120, 170), (50, 75, 110))


def build_scene(name: str, index: int, config: StreetConfig, *, unseen: bool = False) -> Scene:
    """The scene of video `index` (from 0, counted separately for unseen videos). Depends on its arguments only."""
    seed = (config.seed, int(unseen), index)
    rng = np.random.default_rng(seed)
    unit = config.height / REFERENCE_HEIGHT
    moving = index % 2 == 1 if unseen else index % 3 == 1
    camera, panorama = _camera(rng, config, unit, moving)
    props = _props(rng, panorama, unit)
    stage = Stage(config, unit, camera, _empty_frames(rng, index, config, unseen), props)
    people = _dress(np.random.default_rng((*seed, 5)), populate(rng, stage))
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


def _dress(rng: np.random.Generator, people: list[Person]) -> list[Person]:
    """Give everyone a look: a fifth of the people, two at least, share theirs with another one."""
    looks = _looks(rng, len(people))
    order = rng.permutation(len(people))
    for pair in range(max(1, round(_LOOK_ALIKES / 2 * len(people))) if len(people) > 1 else 0):
        looks[order[2 * pair]] = looks[order[2 * pair + 1]]
    return [replace(person, track_id=i + 1, look=looks[i]) for i, person in enumerate(people)]


def _looks(rng: np.random.Generator, count: int) -> list[Look]:
    """`count` different looks; a shirt colour comes back only after all the others had their turn."""
    looks: list[Look] = []
    shirts: list[int] = []
    worn: set[tuple[int, int]] = set()
    while len(looks) < count:
        shirts = shirts or [int(i) for i in rng.permutation(len(_SHIRTS))]
        shirt = shirts.pop()
        fitting = [t for t in range(len(_TROUSERS)) if _contrast(shirt, t)]
        trousers = [t for t in fitting if (shirt, t) not in worn] or fitting
        trouser = int(rng.choice(trousers))
        worn.add((shirt, trouser))
        others = [colour for colour in _SHIRTS if colour != _SHIRTS[shirt]]
        look = Look(
            shirt=_SHIRTS[shirt],
            trousers=_TROUSERS[trouser],
            hair=_HAIR[int(rng.integers(len(_HAIR)))],
            skin=_SKIN[int(rng.integers(len(_SKIN)))],
            stripe=others[int(rng.integers(len(others)))] if rng.random() < 0.35 else None,
            bag=others[int(rng.integers(len(others)))] if rng.random() < 0.35 else None,
            shorts=bool(rng.random() < 0.2),
            long_hair=bool(rng.random() < 0.4),
        )
        looks.append(look)
    return looks


def _contrast(shirt: int, trousers: int) -> bool:
    return bool(np.abs(np.subtract(_SHIRTS[shirt], _TROUSERS[trousers])).sum() > 120)
