"""The plan of a synthetic street video, without a single pixel: camera, props, people, their walks and looks, light.

Scenes depend on the config and the video's index only. About every third camera moves; every fourth video has a
moment without people in its second half, every other fourth in its first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig
from motrlab.data.street_world import AWAY, LEFT, NUM_PHASES, RIGHT, TOWARDS, Colour, Floats, Look, Person, Prop, Scene

# In pixels of an image _REFERENCE_HEIGHT high; scaled by height / _REFERENCE_HEIGHT, the unit.
_REFERENCE_HEIGHT = 270.0
_FOOT_MIN, _FOOT_MAX = 112.0, 264.0
_HORIZON = 30.0
_GROWTH = 0.56  # body height per pixel below the horizon: 46 px far away, 131 px in front

_WIDTH = 0.35  # mean width of a walking person, of its height; only for the plan, never for gt
_NUM_PEOPLE = (6.7, 7.7)  # wanted in each frame; drawn per video
_MAX_PEOPLE = 14  # at a time; the tracker of the `street` preset has 24 slots
# A person may be covered by more than this share, by plan, for so many frames in a row: crossings, not shadows.
_COVER_LIMITS = ((0.25, 20), (0.75, 12))
_MIN_INSIDE = 0.6  # share of a trajectory that stays clear of the left and right borders
_MAX_TRIES = 1500
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
    unit = config.height / _REFERENCE_HEIGHT
    camera, panorama = _camera(rng, config, unit, moving=index % (2 if unseen else 3) == 1)
    props = _props(rng, panorama, unit)
    stage = Stage(config, unit, camera, _empty_frames(rng, index, config, unseen), props)
    people = _dress(np.random.default_rng((*seed, 5)), populate(rng, stage))
    period = rng.uniform(0.5, 1.5) * 240
    wave = np.sin(2 * np.pi * np.arange(config.num_frames) / period + rng.uniform(0, 6))
    gain = rng.uniform(0.92, 1.06) * (1 + rng.uniform(0.02, 0.09) * wave)
    return Scene(name, config, seed, tuple(people), props, camera, panorama, gain, rng.uniform(1.0, 3.0))


def _camera(
    rng: np.random.Generator, config: StreetConfig, unit: float, moving: bool
) -> tuple[Floats, tuple[int, int]]:
    """A still camera, or a smooth pan with a small shake. Returns offsets and the size of the panorama."""
    if not moving:
        return np.zeros((config.num_frames, 2)), (config.width, config.height)
    time = np.arange(config.num_frames)
    reach, margin, period = 55 * unit, 4 * unit, rng.uniform(200, 300)
    pan = reach * (1 + np.sin(2 * np.pi * time / period + rng.uniform(0, 2 * np.pi)))
    camera = np.zeros((config.num_frames, 2))
    for frequency in (0.11, 0.23, 0.31):
        reach_px = rng.uniform(0.2, 0.6, 2) * unit
        camera += reach_px * np.sin(2 * np.pi * (frequency * time[:, None] + rng.uniform(0, 1, 2)))
    camera += margin
    camera[:, 0] += pan
    width = config.width + math.ceil(2 * reach + 2 * margin) + 1
    return camera, (width, config.height + math.ceil(2 * margin) + 1)


def _empty_frames(rng: np.random.Generator, index: int, config: StreetConfig, unseen: bool) -> NDArray[np.bool_]:
    """Every fourth video has a moment without people in its second half, every other fourth in its first."""
    empty = np.zeros(config.num_frames, dtype=bool)
    if unseen or index % 2 == 1 or config.num_frames < _MIN_FRAMES_TO_LEAVE:
        return empty
    length, half = config.num_frames // 24, config.num_frames // 2
    first = int(rng.integers(1, half - length)) + (half if index % 4 == 0 else 0)
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
        body, shade = float(body_height(foot_y, unit)), int(rng.integers(0, 25))
        blue, green, red = (value + shade for value in colour)
        props.append(Prop(kind, (float(slot) * panorama[0], foot_y), width * body, height * body, (blue, green, red)))
    return tuple(props)


@dataclass(frozen=True)
class Stage:
    """What a trajectory is planned on."""

    config: StreetConfig
    unit: float
    camera: Floats
    empty: NDArray[np.bool_]  # [num_frames] frames that must stay without people
    props: tuple[Prop, ...]


def body_height(foot_y: float | Floats, unit: float) -> float | Floats:
    """Height in pixels of a person of mean stature whose foot point is at `foot_y`."""
    return _GROWTH * (foot_y - _HORIZON * unit)


def populate(rng: np.random.Generator, stage: Stage) -> list[Person]:
    """Add trajectories where the street is emptiest until every frame has its share of people."""
    wanted = rng.uniform(*_NUM_PEOPLE)
    people: list[Person] = []
    covers: list[Floats] = []
    count = np.zeros(stage.config.num_frames, dtype=np.int64)
    for _ in range(_MAX_TRIES):
        missing = np.where(stage.empty, 0, np.clip(wanted - count, 0, None))
        if missing.sum() < 0.04 * wanted * len(count):
            break
        anchor = int(rng.choice(len(count), p=missing / missing.sum()))
        group, added = _candidates(rng, stage, anchor), np.zeros_like(count)
        for person in group:
            added[person.start : person.stop] += 1
        if not group or added[stage.empty].any() or (count + added).max() > _MAX_PEOPLE:
            continue
        trial = _covers(stage, people, covers, group)
        if not any(_too_long(cover) for cover in trial):
            people, covers, count = people + group, trial, count + added
    return people


def _candidates(rng: np.random.Generator, stage: Stage, anchor: int) -> list[Person]:
    """One walker, or two side by side, somewhere in the picture at frame `anchor`."""
    foot, stature = _walk(rng, stage, anchor), rng.uniform(0.93, 1.07)
    feet = [(foot, stature)]
    if rng.random() < 0.15:
        height = body_height(foot[anchor, 1], stage.unit)
        offset = (rng.choice((-1, 1)) * rng.uniform(0.42, 0.6) * height, rng.uniform(3, 8) * stage.unit)
        beside = foot + np.array(offset)
        sway = 0.05 * height * np.sin(np.arange(len(foot)) / rng.uniform(15, 30))
        feet.append((beside + np.stack((sway, np.zeros_like(sway)), -1), rng.uniform(0.9, 1.07)))
    people = [_cut(rng, stage, anchor, foot, stature) for foot, stature in feet]
    return [p for p in people if p is not None] if all(people) else []


def _walk(rng: np.random.Generator, stage: Stage, anchor: int) -> Floats:
    """Foot points of a walk over all frames, `[num_frames, 2]`: a pace, perhaps a stop, a turn, a change of depth."""
    num_frames, unit = stage.config.num_frames, stage.unit
    x = stage.camera[anchor, 0] + rng.uniform(0.0, 1.0) * stage.config.width
    y = rng.uniform(_FOOT_MIN, _FOOT_MAX) * unit
    height = float(body_height(y, unit))
    pace = np.full(num_frames, rng.uniform(0.02, 0.042) * height * rng.choice((-1.0, 1.0)))
    drift = np.full(num_frames, rng.normal(0, 0.15) * unit)
    if rng.random() < 0.22:  # towards the camera or away from it
        drift[:] = rng.choice((-1.0, 1.0)) * rng.uniform(0.7, 1.1) * unit
    if rng.random() < 0.15:
        pace[int(rng.integers(num_frames)) :] *= -1
    if rng.random() < 0.25:
        first = int(rng.integers(num_frames))
        stop = slice(first, first + int(rng.integers(12, 35)))
        pace[stop], drift[stop] = 0, 0
    depth = _smooth(np.clip(y + _integrate(drift, anchor), _FOOT_MIN * unit, _FOOT_MAX * unit))
    moving = np.abs(np.gradient(depth)) > 0.5 * unit
    pace = np.where(moving, 0.35 * pace, pace)  # who walks in depth hardly moves sideways
    return np.stack((x + _integrate(_smooth(pace), anchor), depth), -1)


def _integrate(velocity: Floats, anchor: int) -> Floats:
    total = np.cumsum(velocity)
    return total - total[anchor]


def _smooth(values: Floats, length: int = 9) -> Floats:
    return np.convolve(np.pad(values, length // 2, mode="edge"), np.full(length, 1 / length), mode="valid")


def _cut(rng: np.random.Generator, stage: Stage, anchor: int, foot: Floats, stature: float) -> Person | None:
    """The stretch around `anchor` in which the person touches the image, with its views and gait phases."""
    height = stature * np.asarray(body_height(foot[:, 1], stage.unit))
    left = foot[:, 0] - stage.camera[:, 0]
    margin = 0.3 * height  # a little more than half a stride
    outside = np.flatnonzero((left < -margin) | (left > stage.config.width + margin))
    start = int(outside[outside < anchor].max(initial=-1)) + 1
    stop = int(outside[outside > anchor].min(initial=len(foot)))
    inside = (left > margin) & (left < stage.config.width - margin)
    if anchor in outside or stop - start < 3 or inside[start:stop].mean() < _MIN_INSIDE:
        return None
    step = np.gradient(foot, axis=0)
    speed = np.hypot(step[:, 0], 2 * step[:, 1]) / height
    cycle = np.cumsum(speed / 0.6) + rng.uniform()
    phase = np.where(speed < 0.006, NUM_PHASES, np.floor(cycle * NUM_PHASES) % NUM_PHASES).astype(np.int64)
    side = np.where(step[:, 0] >= 0, RIGHT, LEFT)
    view = np.where(2 * np.abs(step[:, 1]) > np.abs(step[:, 0]), np.where(step[:, 1] > 0, TOWARDS, AWAY), side)
    span = slice(start, stop)
    return Person(start, foot[span], height[span], _steady(view[span]), phase[span])


def _steady(view: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hold a view for at least five frames, so that nobody flickers between side and front."""
    view, since = view.copy(), 0
    for i in range(1, len(view)):
        if view[i] != view[i - 1] and i - since < 5:
            view[i] = view[i - 1]
        elif view[i] != view[i - 1]:
            since = i
    return view


def _covers(stage: Stage, people: list[Person], known: list[Floats], group: list[Person]) -> list[Floats]:
    """How much of each of `people + group` is covered in each frame, by boxes, if `group` joins."""
    everyone, result = people + group, [cover.copy() for cover in known]
    for new, person in enumerate(group, len(people)):
        result.append(np.zeros(stage.config.num_frames))
        part = result[new][person.start : person.stop]
        for prop in stage.props:
            np.maximum(part, _cover(person, slice(None), np.array(prop.foot), prop.width, prop.height), out=part)
        for old, other in enumerate(everyone[:new]):
            start, stop = max(other.start, person.start), min(other.stop, person.stop)
            if start >= stop:
                continue
            for far, a, b in ((old, other, person), (new, person, other)):
                rows, hiding = (slice(start - p.start, stop - p.start) for p in (a, b))
                part, height = result[far][start:stop], b.height[hiding]
                np.maximum(part, _cover(a, rows, b.foot[hiding], height * _WIDTH, height), out=part)
    return result


def _too_long(cover: Floats) -> bool:
    return any(np.convolve(cover > share, np.ones(limit + 1)).max() > limit for share, limit in _COVER_LIMITS)


def _cover(far: Person, rows: slice, foot: Floats, width: Floats | float, height: Floats | float) -> Floats:
    """Share of `far`'s planned box that a thing `[n or 1]` covers in those rows of it; 0 where it is not nearer."""
    x, y, size = far.foot[rows, 0], far.foot[rows, 1], far.height[rows]
    right = np.minimum(x + size * _WIDTH / 2, foot[..., 0] + width / 2)
    left = np.maximum(x - size * _WIDTH / 2, foot[..., 0] - width / 2)
    top = np.maximum(y - size, foot[..., 1] - height)
    cover = np.clip(right - left, 0, None) * np.clip(np.minimum(y, foot[..., 1]) - top, 0, None)
    return np.where(foot[..., 1] > y, cover / (size**2 * _WIDTH), 0.0)


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

    def one_of(colours: Sequence[Colour]) -> Colour:
        return colours[int(rng.integers(len(colours)))]

    while len(looks) < count:
        shirts = shirts or [int(i) for i in rng.permutation(len(_SHIRTS))]
        shirt = shirts.pop()
        fitting = [t for t, c in enumerate(_TROUSERS) if np.abs(np.subtract(_SHIRTS[shirt], c)).sum() > 120]
        trousers = int(rng.choice([t for t in fitting if (shirt, t) not in worn] or fitting))
        worn.add((shirt, trousers))
        others = [colour for colour in _SHIRTS if colour != _SHIRTS[shirt]]
        hair, skin = one_of(_HAIR), one_of(_SKIN)
        stripe, bag = (one_of(others) if rng.random() < 0.35 else None for _ in range(2))
        shorts, long_hair = rng.random() < 0.2, rng.random() < 0.4
        looks.append(Look(_SHIRTS[shirt], _TROUSERS[trousers], hair, skin, stripe, bag, shorts, long_hair))
    return looks
