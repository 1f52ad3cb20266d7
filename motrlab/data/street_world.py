"""What a synthetic street consists of: people with their looks and trajectories, props, the scene.

World coordinates are pixels of a panorama; the image is the window at `Scene.camera`. The ground is a plane seen
from above eye level: the y of a foot point gives a person's size, and who stands lower in the picture is nearer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Colour = tuple[int, int, int]  # BGR

NUM_PHASES = 12  # pictures of one gait cycle; phase NUM_PHASES is standing
RIGHT, LEFT, TOWARDS, AWAY = range(4)  # views of a person


@dataclass(frozen=True)
class Look:
    """What a person wears; two people with equal looks are look-alikes."""

    shirt: Colour
    trousers: Colour
    hair: Colour
    skin: Colour
    stripe: Colour | None
    bag: Colour | None
    shorts: bool
    long_hair: bool


_UNDRESSED = Look((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), None, None, False, False)


@dataclass(frozen=True)
class Person:
    """One trajectory, one row per frame from `start` (0-based) on: foot point, height, view and gait phase."""

    start: int
    foot: Floats  # [n, 2] world px
    height: Floats  # [n] px, standing
    view: Ints  # [n]
    phase: Ints  # [n] 0..NUM_PHASES
    track_id: int = 0
    look: Look = _UNDRESSED

    @property
    def stop(self) -> int:
        return self.start + len(self.height)


@dataclass(frozen=True)
class Prop:
    """A thing that stands still: `pole`, `column`, `planter` occlude; `statue` is the distractor class."""

    kind: str
    foot: tuple[float, float]  # world px, bottom centre
    width: float
    height: float
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """Everything a renderer needs. `camera [num_frames, 2]` is the image's left top corner in the world."""

    name: str
    config: StreetConfig
    seed: tuple[int, ...]
    people: tuple[Person, ...]
    props: tuple[Prop, ...]
    camera: Floats
    panorama: tuple[int, int]  # width and height of the world, px
    gain: Floats  # [num_frames] brightness factor
    noise: float  # standard deviation, grey levels
