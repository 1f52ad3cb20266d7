"""Who walks where in a synthetic street video: people, props and the camera, without a single pixel.

World coordinates are pixels of a panorama; the image is the window at `Scene.camera`. The ground is a plane seen
from above eye level: the y of a foot point gives a person's size, and who stands lower in the picture is nearer.
Trajectories are drawn at random and kept when they fit the ones already there (`build_scene`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Colour = tuple[int, int, int]  # BGR

NUM_PHASES = 12  # pictures of one gait cycle; phase NUM_PHASES is standing
RIGHT, LEFT, TOWARDS, AWAY = range(4)  # views of a person

# In pixels of a 270 px high image; scaled by height / 270.
_REFERENCE_HEIGHT = 270.0
_HORIZON, _FOOT_MIN, _FOOT_MAX = 30.0, 112.0, 264.0
_GROWTH = 0.56  # body height per pixel below the horizon: 46 px far away, 131 px in front
_WIDTH = 0.35  # mean width of a walking person, of its height; only for the plan, never for gt

_MAX_PEOPLE = 14  # at a time; the tracker of the `street` preset has 24 slots
# A person may be covered by more than this share, by plan, for so many frames in a row: crossings, not shadows.
_COVER_LIMITS = ((0.25, 23), (0.75, 14))
_MIN_INSIDE = 0.6  # share of a trajectory that stays clear of the left and right borders

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


@dataclass(frozen=True)
class Person:
    """One trajectory, one row per frame from `start` (0-based) on: foot point, height, view and gait phase."""

    track_id: int
    look: Look
    start: int
    foot: Floats  # [n, 2] world px
    height: Floats  # [n] px, standing
    view: Ints  # [n]
    phase: Ints  # [n] 0..NUM_PHASES

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


@dataclass(frozen=True)
class _Stage:
    """What a trajectory is planned on."""

    config: StreetConfig
    unit: float
    camera: Floats
    empty: NDArray[np.bool_]  # [num_frames] frames that must stay without people
    props: tuple[Prop, ...]


def build_scene(name: str, index: int, config: StreetConfig, *, unseen: bool = False) -> Scene:
    """The scene of video `index` (from 0, counted separately for unseen videos). Depends on its arguments only."""
    seed = (config.seed, int(unseen), index)
    rng = np.random.default_rng(seed)
    unit = config.height / _REFERENCE_HEIGHT
    moving = index % 2 == 1 if unseen else index % 3 == 1
    camera, panorama = _camera(rng, config, unit, moving)
    props = _props(rng, panorama, unit)
    stage = _Stage(config, unit, camera, _empty_frames(rng, index, config, unseen), props)
    people = _populate(rng, stage)
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
        shake += (
            rng.uniform(0.2, 0.6, 2) * unit * np.sin(2 * np.pi * (frequency * time[:, None] + rng.uniform(0, 1, 2)))
        )
    camera = shake + margin
    camera[:, 0] += pan
    width = config.width + math.ceil(2 * reach + 2 * margin) + 1
    return camera, (width, config.height + math.ceil(2 * margin) + 1)


def _empty_frames(rng: np.random.Generator, index: int, config: StreetConfig, unseen: bool) -> NDArray[np.bool_]:
    """Every fourth video has a moment without people in its second half, every other fourth in its first."""
    empty = np.zeros(config.num_frames, dtype=bool)
    if unseen or index % 2 == 1:
        return empty
    length = max(1, config.num_frames // 24)
    half = config.num_frames // 2
    first = int(rng.integers(1, half - length)) if half - length > 1 else 0
    first += half if index % 4 == 0 else 0
    empty[first : first + length] = True
    return empty


def _props(rng: np.random.Generator, panorama: tuple[int, int], unit: float) -> tuple[Prop, ...]:
    """Two to four poles, most often a column or a planter, and one or two statues, spread over the panorama."""
    kinds = ["pole"] * int(rng.integers(2, 4)) + ["statue"] * int(rng.integers(1, 3))
    kinds += ["column"] * int(rng.integers(1, 3)) + ["planter"] * int(rng.random() < 0.5)
    rng.shuffle(kinds)
    slots = (np.arange(len(kinds)) + rng.uniform(0.2, 0.8, len(kinds))) / len(kinds)
    props = []
    for kind, slot in zip(kinds, slots, strict=True):
        low, high = {"pole": (165, 240), "column": (175, 225), "planter": (170, 225), "statue": (104, 150)}[kind]
        foot_y = float(rng.uniform(low, high)) * unit
        body = float(body_height(foot_y, unit))
        width, height = {"pole": (0.085, 2.4), "column": (0.49, 1.25), "planter": (0.6, 0.28), "statue": (0.4, 0.95)}[
            kind
        ]
        shade = int(rng.integers(0, 25))
        colour: Colour = {
            "pole": (50 + shade, 60 + shade, 50 + shade),
            "column": (60 + shade, 85 + shade, 70 + shade),
            "planter": (60 + shade, 85 + shade, 110 + shade),
            "statue": (150 + shade, 155 + shade, 155 + shade),
        }[kind]
        props.append(Prop(kind, (float(slot) * panorama[0], foot_y), width * body, height * body, colour))
    return tuple(props)


def body_height(foot_y: float | Floats, unit: float) -> float | Floats:
    """Height in pixels of a person of mean stature whose foot point is at `foot_y`."""
    return _GROWTH * (foot_y - _HORIZON * unit)


def _populate(rng: np.random.Generator, stage: _Stage) -> list[Person]:
    """Add trajectories where the street is emptiest until every frame has its share of people."""
    wanted = rng.uniform(6.7, 7.7)
    count = np.zeros(stage.config.num_frames, dtype=np.int64)
    people: list[Person] = []
    covers: list[Floats] = []
    looks = _Wardrobe(rng)
    for _ in range(1500):
        missing = np.where(stage.empty, 0, np.clip(wanted - count, 0, None))
        if missing.sum() < 0.04 * wanted * len(count):
            break
        anchor = int(rng.choice(len(count), p=missing / missing.sum()))
        group = _candidates(rng, stage, anchor)
        added = np.zeros_like(count)
        for person in group:
            added[person.start : person.stop] += 1
        if not group or (added > 0)[stage.empty].any() or (count + added).max() > _MAX_PEOPLE:
            continue
        trial = _covers(stage, people, covers, group)
        if any(_too_long(cover) for cover in trial):
            continue
        for person in group:
            people.append(replace(person, track_id=len(people) + 1, look=looks.draw()))
        covers, count = trial, count + added
    return people


class _Wardrobe:
    """Draws looks that differ, and now and then one that was there before."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        pairs = [(s, t) for s in range(len(_SHIRTS)) for t in range(len(_TROUSERS)) if _contrast(s, t)]
        self.pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        self.used: list[Look] = []

    def draw(self) -> Look:
        rng = self.rng
        if self.used and rng.random() < 0.13:
            return self.used[int(rng.integers(len(self.used)))]
        # A shirt colour comes back only after all others had their turn.
        worn = [_SHIRTS.index(look.shirt) for look in dict.fromkeys(self.used)]
        fewest = min(worn.count(s) for s in range(len(_SHIRTS)))
        place = next(i for i, (s, _) in enumerate(self.pairs) if worn.count(s) == fewest)
        shirt, trousers = self.pairs.pop(place)
        other = [c for i, c in enumerate(_SHIRTS) if i != shirt]
        look = Look(
            shirt=_SHIRTS[shirt],
            trousers=_TROUSERS[trousers],
            hair=_HAIR[int(rng.integers(len(_HAIR)))],
            skin=_SKIN[int(rng.integers(len(_SKIN)))],
            stripe=other[int(rng.integers(len(other)))] if rng.random() < 0.35 else None,
            bag=other[int(rng.integers(len(other)))] if rng.random() < 0.35 else None,
            shorts=bool(rng.random() < 0.2),
            long_hair=bool(rng.random() < 0.4),
        )
        self.used.append(look)
        return look


def _contrast(shirt: int, trousers: int) -> bool:
    return bool(np.abs(np.subtract(_SHIRTS[shirt], _TROUSERS[trousers])).sum() > 120)


def _candidates(rng: np.random.Generator, stage: _Stage, anchor: int) -> list[Person]:
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


def _walk(rng: np.random.Generator, stage: _Stage, anchor: int) -> Floats:
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
    depth = y + _integrate(drift, anchor)
    depth = _smooth(np.clip(depth, _FOOT_MIN * unit, _FOOT_MAX * unit))
    moving = np.abs(np.gradient(depth)) > 0.5 * unit
    pace = np.where(moving, 0.35 * pace, pace)  # who walks in depth hardly moves sideways
    return np.stack((x + _integrate(_smooth(pace), anchor), depth), -1)


def _integrate(velocity: Floats, anchor: int) -> Floats:
    total = np.cumsum(velocity)
    return total - total[anchor]


def _smooth(values: Floats, length: int = 9) -> Floats:
    padded = np.pad(values, length // 2, mode="edge")
    return np.convolve(padded, np.full(length, 1 / length), mode="valid")


def _cut(rng: np.random.Generator, stage: _Stage, anchor: int, foot: Floats, stature: float) -> Person | None:
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
    look = Look((0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0), None, None, False, False)
    return Person(0, look, start, foot[span], height[span], _steady(view[span]), phase[span])


def _steady(view: Ints) -> Ints:
    """Hold a view for at least five frames, so that nobody flickers between side and front."""
    view = view.copy()
    held = 0
    for i in range(1, len(view)):
        held += 1
        if view[i] != view[i - 1] and held < 5:
            view[i] = view[i - 1]
        elif view[i] != view[i - 1]:
            held = 0
    return view


def _covers(stage: _Stage, people: list[Person], known: list[Floats], group: list[Person]) -> list[Floats]:
    """How much of each of `people + group` is covered in each frame, by boxes, if `group` joins."""
    everyone, result = people + group, [cover.copy() for cover in known]
    for new in range(len(people), len(everyone)):
        result.append(_behind_props(stage, everyone[new]))
        for old in range(new):
            start = max(everyone[old].start, everyone[new].start)
            stop = max(start, min(everyone[old].stop, everyone[new].stop))
            for far, near in ((old, new), (new, old)):
                part = result[far][start:stop]
                np.maximum(part, _cover(everyone[far], everyone[near], start, stop), out=part)
    return result


def _too_long(cover: Floats) -> bool:
    return any(_longest_run(cover > share) > limit for share, limit in _COVER_LIMITS)


def _cover(far: Person, near: Person, start: int, stop: int) -> Floats:
    """Share of `far`'s planned box that `near` covers in frames `start..stop`; 0 where it is not nearer."""
    if stop <= start:
        return np.zeros(0)
    a, b = slice(start - far.start, stop - far.start), slice(start - near.start, stop - near.start)
    width = _overlap(far.foot[a, 0], far.height[a] * _WIDTH, near.foot[b, 0], near.height[b] * _WIDTH)
    top = np.maximum(far.foot[a, 1] - far.height[a], near.foot[b, 1] - near.height[b])
    height = np.clip(np.minimum(far.foot[a, 1], near.foot[b, 1]) - top, 0, None)
    cover = width * height / (far.height[a] ** 2 * _WIDTH)
    return np.where(near.foot[b, 1] > far.foot[a, 1], cover, 0.0)


def _behind_props(stage: _Stage, person: Person) -> Floats:
    cover = np.zeros(stage.config.num_frames)
    part = cover[person.start : person.stop]
    for prop in stage.props:
        width = _overlap(person.foot[:, 0], person.height * _WIDTH, np.float64(prop.foot[0]), np.float64(prop.width))
        top = np.maximum(person.foot[:, 1] - person.height, prop.foot[1] - prop.height)
        share = width * np.clip(person.foot[:, 1] - top, 0, None) / (person.height**2 * _WIDTH)
        np.maximum(part, np.where(prop.foot[1] > person.foot[:, 1], share, 0.0), out=part)
    return cover


def _overlap(a: Floats, width_a: Floats, b: Floats | np.float64, width_b: Floats | np.float64) -> Floats:
    """Common length of intervals given by centre and width."""
    return np.clip(np.minimum(a + width_a / 2, b + width_b / 2) - np.maximum(a - width_a / 2, b - width_b / 2), 0, None)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
