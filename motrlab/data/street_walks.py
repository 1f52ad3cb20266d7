"""How people walk through a synthetic street: random trajectories, kept when they fit the ones already there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motrlab.config import StreetConfig
from motrlab.data.street_world import (
    AWAY,
    FOOT_MAX,
    FOOT_MIN,
    LEFT,
    NUM_PHASES,
    RIGHT,
    TOWARDS,
    UNDRESSED,
    Floats,
    Ints,
    Person,
    Prop,
    body_height,
)

_WIDTH = 0.35  # mean width of a walking person, of its height; only for the plan, never for gt
_NUM_PEOPLE = (6.7, 7.7)  # wanted in each frame; drawn per video
_MAX_PEOPLE = 14  # at a time; the tracker of the `street` preset has 24 slots
# A person may be covered by more than this share, by plan, for so many frames in a row: crossings, not shadows.
_COVER_LIMITS = ((0.25, 20), (0.75, 12))
_MIN_INSIDE = 0.6  # share of a trajectory that stays clear of the left and right borders
_MAX_TRIES = 1500


@dataclass(frozen=True)
class Stage:
    """What a trajectory is planned on."""

    config: StreetConfig
    unit: float
    camera: Floats
    empty: NDArray[np.bool_]  # [num_frames] frames that must stay without people
    props: tuple[Prop, ...]


def populate(rng: np.random.Generator, stage: Stage) -> list[Person]:
    """Add trajectories where the street is emptiest until every frame has its share of people."""
    wanted = rng.uniform(*_NUM_PEOPLE)
    count = np.zeros(stage.config.num_frames, dtype=np.int64)
    people: list[Person] = []
    covers: list[Floats] = []
    for _ in range(_MAX_TRIES):
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
    y = rng.uniform(FOOT_MIN, FOOT_MAX) * unit
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
    depth = _smooth(np.clip(depth, FOOT_MIN * unit, FOOT_MAX * unit))
    moving = np.abs(np.gradient(depth)) > 0.5 * unit
    pace = np.where(moving, 0.35 * pace, pace)  # who walks in depth hardly moves sideways
    return np.stack((x + _integrate(_smooth(pace), anchor), depth), -1)


def _integrate(velocity: Floats, anchor: int) -> Floats:
    total = np.cumsum(velocity)
    return total - total[anchor]


def _smooth(values: Floats, length: int = 9) -> Floats:
    padded = np.pad(values, length // 2, mode="edge")
    return np.convolve(padded, np.full(length, 1 / length), mode="valid")


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
    return Person(0, UNDRESSED, start, foot[span], height[span], _steady(view[span]), phase[span])


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


def _covers(stage: Stage, people: list[Person], known: list[Floats], group: list[Person]) -> list[Floats]:
    """How much of each of `people + group` is covered in each frame, by boxes, if `group` joins."""
    everyone, result = people + group, [cover.copy() for cover in known]
    for new in range(len(people), len(everyone)):
        result.append(_behind_props(stage, everyone[new]))
        for old in range(new):
            start = max(everyone[old].start, everyone[new].start)
            stop = max(start, min(everyone[old].stop, everyone[new].stop))
            for far, near in ((old, new), (new, old)):
                part, a, b = result[far][start:stop], everyone[far], everyone[near]
                rows, hiding = slice(start - a.start, stop - a.start), slice(start - b.start, stop - b.start)
                height = b.height[hiding]
                np.maximum(part, _cover(a, rows, b.foot[hiding], height * _WIDTH, height), out=part)
    return result


def _too_long(cover: Floats) -> bool:
    return any(_longest_run(cover > share) > limit for share, limit in _COVER_LIMITS)


def _behind_props(stage: Stage, person: Person) -> Floats:
    cover = np.zeros(stage.config.num_frames)
    part = cover[person.start : person.stop]
    for prop in stage.props:
        np.maximum(part, _cover(person, slice(None), np.array(prop.foot), prop.width, prop.height), out=part)
    return cover


def _cover(far: Person, rows: slice, foot: Floats, width: Floats | float, height: Floats | float) -> Floats:
    """Share of `far`'s planned box that a thing `[n or 1]` covers in those rows of it; 0 where it is not nearer."""
    x, y, size = far.foot[rows, 0], far.foot[rows, 1], far.height[rows]
    right = np.minimum(x + size * _WIDTH / 2, foot[..., 0] + width / 2)
    left = np.maximum(x - size * _WIDTH / 2, foot[..., 0] - width / 2)
    top = np.maximum(y - size, foot[..., 1] - height)
    cover = np.clip(right - left, 0, None) * np.clip(np.minimum(y, foot[..., 1]) - top, 0, None)
    return np.where(foot[..., 1] > y, cover / (size**2 * _WIDTH), 0.0)


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
