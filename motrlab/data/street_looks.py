"""What the people of a synthetic street wear: colours that tell them apart, and a few look-alikes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from motrlab.data.street_world import Colour, Look, Person

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


def dress(rng: np.random.Generator, people: list[Person]) -> list[Person]:
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
