"""Frames of a synthetic street video, and the exact masks behind their gt.

A pixel belongs to a silhouette where the alpha of its sprite is at least half.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.data.street_sprites import Image, Sprite, draw_background, person_sprite, prop_sprite
from motrlab.data.street_world import Person, Prop, Scene


@dataclass(frozen=True)
class Silhouette:
    """One person or statue in one frame: its exact box, and the pixels of its mask (all of them, the visible ones)."""

    track_id: int
    distractor: bool
    ltwh: tuple[float, float, float, float]
    total: int
    visible: int

    @property
    def visibility(self) -> float:
        return self.visible / self.total


class Renderer:
    """Draws the frames of one scene. Sprites are made on first use and kept."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._person_sprite, self._prop_sprite = functools.cache(person_sprite), functools.cache(prop_sprite)
        self._place_prop = functools.lru_cache(16)(_place)  # the camera stands still in most videos

    def render(self, frame: int) -> tuple[Image, list[Silhouette]]:
        """The picture of 0-based `frame` as BGR `uint8 [H, W, 3]`, and its silhouettes."""
        image = self._view(frame)
        _, found = self.compose(frame, image)
        return self._expose(image, frame), found

    def compose(self, frame: int, image: Image | None = None) -> tuple[Image, list[Silhouette]]:
        """Paint from far to near onto `image` (if any) and a map of labels, `uint8 [H, W]`: n for the nth from afar.

        Returns the map, and the silhouettes, whose masks are counted on it.
        """
        labels = np.zeros((self.scene.config.height, self.scene.config.width), dtype=np.uint8)
        found: list[tuple[int, bool, tuple[float, float, float, float], int]] = []
        inside: list[int] = []
        for foot, thing, row in self._actors(frame):
            (sprite, scale), person = self._sprite(thing, row), isinstance(thing, Person)
            if image is not None and person:
                _shadow(image, foot, scale)
            patch, mask, corner = (_place if person else self._place_prop)(sprite, foot, scale)
            labelled = isinstance(thing, Person) or thing.kind == "statue"
            stamped = _stamp(labels, image, patch, mask, corner, len(found) + 1 if labelled else 0)
            if labelled:
                left, top, right, bottom = (edge * scale for edge in sprite.box)
                box = (foot[0] + left, foot[1] + top, right - left, bottom - top)
                track_id = thing.track_id if isinstance(thing, Person) else self._statue_id(thing)
                found.append((track_id, not person, box, int(mask.sum())))
                inside.append(stamped)
        visible = np.bincount(labels.ravel(), minlength=len(found) + 1)[1:]
        return labels, [Silhouette(*f, int(v)) for f, v, n in zip(found, visible, inside, strict=True) if n > 0]

    def _actors(self, frame: int) -> list[tuple[tuple[float, float], Person | Prop, int]]:
        """Everything in the world at `frame` with its foot point in the image, far to near, and a person's row."""
        there: list[tuple[Any, Person | Prop, int]] = [(prop.foot, prop, 0) for prop in self.scene.props]
        people = [(person, frame - person.start) for person in self.scene.people if person.start <= frame < person.stop]
        there += [(person.foot[row], person, row) for person, row in people]
        x, y = self.scene.camera[frame].tolist()
        actors = [((float(foot[0]) - x, float(foot[1]) - y), thing, row) for foot, thing, row in there]
        return sorted(actors, key=lambda actor: actor[0][1])

    def _statue_id(self, statue: Prop) -> int:
        statues = [p for p in self.scene.props if p.kind == "statue"]
        return len(self.scene.people) + 1 + statues.index(statue)

    def _sprite(self, thing: Person | Prop, row: int) -> tuple[Sprite, float]:
        """The sprite and its body height in the image, px."""
        if isinstance(thing, Prop):
            return self._prop_sprite(thing), thing.height
        largest = math.ceil(145 * self.scene.config.height / 270)
        sprite = self._person_sprite(thing.look, int(thing.view[row]), int(thing.phase[row]), body=largest)
        return sprite, float(thing.height[row])

    @functools.cached_property
    def _background(self) -> Image:
        return draw_background(self.scene)

    def _view(self, frame: int) -> Image:
        """The background as the camera sees it."""
        (x, y), size = self.scene.camera[frame], (self.scene.config.width, self.scene.config.height)
        shift = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
        return np.asarray(cv2.warpAffine(self._background, shift, size, flags=cv2.INTER_LINEAR), dtype=np.uint8)

    @functools.cached_property
    def _noise(self) -> NDArray[np.int16]:
        """Twice the picture's height and width, of which each frame gets a part."""
        size = (2 * self.scene.config.height, 2 * self.scene.config.width, 1)
        tile = np.random.default_rng((*self.scene.seed, 2)).normal(0, self.scene.noise, size)
        return np.repeat(np.rint(tile), 3, axis=2).astype(np.int16)

    def _expose(self, image: Image, frame: int) -> Image:
        """Brightness of the moment and sensor noise."""
        height, width = image.shape[:2]
        rng = np.random.default_rng((*self.scene.seed, 3, frame))
        top, left = int(rng.integers(height)), int(rng.integers(width))
        bright = cv2.multiply(image, np.full(4, float(self.scene.gain[frame])), dtype=cv2.CV_16S)
        noisy = cv2.add(bright, self._noise[top : top + height, left : left + width])
        return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _place(sprite: Sprite, foot: tuple[float, float], scale: float) -> tuple[Image, NDArray[np.bool_], tuple[int, int]]:
    """The sprite at `scale` px body height with its foot point at `foot`: a patch, its mask and its left top corner."""
    ratio = scale / sprite.body
    level = 0 if ratio > 0.5 or min(sprite.levels[1].shape[:2]) < 4 else 1
    picture, ratio = sprite.levels[level], ratio * 2**level
    shift = np.array(foot) - np.divide(sprite.origin, 2**level) * ratio
    corner = np.floor(shift).astype(int)
    size = np.ceil(shift + np.array(picture.shape[1::-1]) * ratio).astype(int) - corner
    x, y = shift - corner + 0.5 * ratio - 0.5  # pixel i covers i..i+1, while OpenCV puts its centre at i
    matrix = np.array([[ratio, 0.0, x], [0.0, ratio, y]])
    patch = np.asarray(cv2.warpAffine(picture, matrix, size.tolist(), flags=cv2.INTER_LINEAR), dtype=np.uint8)
    return patch, patch[:, :, 3] >= 128, (int(corner[0]), int(corner[1]))


def _stamp(
    labels: Image, image: Image | None, patch: Image, mask: NDArray[np.bool_], corner: tuple[int, int], label: int
) -> int:
    """Put a patch over what is there; returns how many of its mask's pixels lie inside the image."""
    height, width = labels.shape
    x0, y0 = max(corner[0], 0), max(corner[1], 0)
    x1, y1 = min(corner[0] + patch.shape[1], width), min(corner[1] + patch.shape[0], height)
    if x1 <= x0 or y1 <= y0:
        return 0
    target, part = np.s_[y0:y1, x0:x1], np.s_[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
    labels[target][mask[part]] = label
    if image is not None:
        paint = patch[part]
        rest = (255 - paint[:, :, 3:]).astype(np.uint16)
        image[target] = paint[:, :, :3] + ((image[target] * rest + 127) // 255).astype(np.uint8)
    return int(np.count_nonzero(mask[part]))


def _shadow(image: Image, foot: tuple[float, float], scale: float) -> None:
    """A soft dark spot under the feet; no part of the silhouette."""
    radius_x, radius_y = max(2, round(0.2 * scale)), max(1, round(0.045 * scale))
    x, y = round(foot[0]), round(foot[1])
    x0, y0 = max(x - radius_x, 0), max(y - radius_y, 0)
    part = image[y0 : max(y + radius_y, 0), x0 : max(x + radius_x, 0)]
    rows = (np.arange(y0, y0 + part.shape[0]) + 0.5 - y) / radius_y
    columns = (np.arange(x0, x0 + part.shape[1]) + 0.5 - x) / radius_x
    dark = np.clip(1 - rows[:, None] ** 2 - columns[None, :] ** 2, 0, 1) * 0.5
    part[:] = (part * (1 - dark[:, :, None])).astype(np.uint8)
