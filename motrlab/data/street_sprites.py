"""Pictures of people, props and streets, drawn with OpenCV primitives.

A sprite's picture is `uint8 [h, w, 4]` BGRA with colour premultiplied by alpha: anti-aliased drawing on a transparent
black canvas gives just that. Lengths of a body are fractions of its height, with x from its middle and y from its top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.data.street_world import AWAY, LEFT, NUM_PHASES, TOWARDS, Colour, Look, Prop, Scene

Image = NDArray[np.uint8]
Point = tuple[float, float]

_OVERSAMPLE = 2
_SHIFT = 4  # fractional bits of OpenCV's coordinates


@dataclass(frozen=True, eq=False)  # one is itself alone: pictures do not compare
class Sprite:
    """Pictures of one pose, large and half as large, and its tight box in units of the body height.

    `box` is left, top, right, bottom relative to the foot point.
    """

    levels: tuple[Image, Image]
    body: float  # body height in the first level, px
    origin: tuple[float, float]  # foot point in the first level, px
    box: tuple[float, float, float, float]


def person_sprite(look: Look, view: int, phase: int, *, body: int) -> Sprite:
    """A person `body` px high in one of the four views, at one of `NUM_PHASES` gait phases or standing."""
    pen = _Pen(_OVERSAMPLE * body)
    angle = 2 * math.pi * phase / NUM_PHASES
    swing, lift = (0.0, 0.0) if phase == NUM_PHASES else (math.sin(angle), math.cos(angle))
    if view in (TOWARDS, AWAY):
        _draw_front(pen, look, swing, facing=view == TOWARDS)
    else:
        _draw_side(pen, look, swing, lift)
    canvas = np.ascontiguousarray(pen.canvas[:, ::-1]) if view == LEFT else pen.canvas
    return _finish(canvas, pen.origin, pen.body)


class _Pen:
    """Draws in body units on a transparent canvas."""

    def __init__(self, body: int) -> None:
        self.body = body
        self.canvas: Image = np.zeros((round(1.12 * body), 2 * round(0.45 * body), 4), dtype=np.uint8)
        self.origin = (self.canvas.shape[1] / 2, 1.06 * body)
        self.drop = 0.0  # added to every y

    def _fixed(self, points: list[Point]) -> NDArray[np.int32]:
        at = np.add(points, (0.0, self.drop)) - (0.0, 1.0)
        return np.rint((self.origin + at * self.body - 0.5) * 2**_SHIFT).astype(np.int32)

    def line(self, points: list[Point], thickness: float, colour: Colour, shade: float = 1.0) -> None:
        width = max(1, round(thickness * self.body))
        cv2.polylines(self.canvas, [self._fixed(points)], False, _bgra(colour, shade), width, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: list[Point], colour: Colour, shade: float = 1.0) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], _bgra(colour, shade), cv2.LINE_AA, _SHIFT)

    def ellipse(self, centre: Point, radii: Point, colour: Colour, arc: tuple[float, float] = (0, 360)) -> None:
        (x, y), axes = self._fixed([centre])[0].tolist(), [round(r * self.body * 2**_SHIFT) for r in radii]
        cv2.ellipse(self.canvas, (x, y), axes, 0, *arc, _bgra(colour), -1, cv2.LINE_AA, _SHIFT)


def _bgra(colour: Colour, shade: float = 1.0) -> tuple[int, int, int, int]:
    blue, green, red = (min(255, round(c * shade)) for c in colour)
    return blue, green, red, 255


def _draw_side(pen: _Pen, look: Look, swing: float, lift: float) -> None:
    """Walking to the right: `swing` from -1 to 1 moves the legs, `lift` bends the knee of the leg in the air."""
    far, near = _leg(swing, lift), _leg(-swing, -lift)
    pen.drop = 0.975 - max(far[2][1], near[2][1])  # the lower foot stands on the ground
    _draw_leg(pen, look, far, 0.045, shade=0.75)
    _draw_arm(pen, look, (0.0, 0.21), -swing, shade=0.75)
    if look.bag is not None:
        pen.polygon([(-0.17, 0.2), (-0.06, 0.19), (-0.06, 0.42), (-0.17, 0.42)], look.bag)
    _draw_leg(pen, look, near, 0.045, shade=1.0)
    _draw_torso(pen, look, [(-0.1, 0.17), (0.09, 0.17), (0.13, 0.25), (0.115, 0.53), (-0.115, 0.53), (-0.13, 0.25)])
    _draw_head(pen, look, 0.03)
    _draw_arm(pen, look, (0.0, 0.21), swing, shade=0.85)


def _leg(swing: float, lift: float) -> list[Point]:
    """Hip, knee and ankle."""
    angle, bend = 0.36 * swing, 0.55 * max(lift, 0.0)
    knee = (0.23 * math.sin(angle + 0.3 * bend), 0.51 + 0.23 * math.cos(angle + 0.3 * bend))
    ankle = (knee[0] + 0.225 * math.sin(angle - bend), knee[1] + 0.225 * math.cos(angle - bend))
    return [(0.0, 0.51), knee, ankle]


def _draw_leg(pen: _Pen, look: Look, joints: list[Point], foot: float, shade: float) -> None:
    hip, knee, ankle = joints
    pen.line([knee, ankle], 0.075, look.skin if look.shorts else look.trousers, shade)
    pen.line([hip, knee], 0.1, look.trousers, shade)
    pen.line([ankle, (ankle[0] + foot, ankle[1])], 0.05, (25, 25, 30), shade)


def _draw_arm(pen: _Pen, look: Look, shoulder: Point, swing: float, shade: float, reach: float = 0.0) -> None:
    angle = -0.42 * swing
    elbow = (shoulder[0] + 0.16 * math.sin(angle) + reach / 2, shoulder[1] + 0.16 * math.cos(angle))
    hand = (elbow[0] + 0.14 * math.sin(angle + 0.25) + reach / 2, elbow[1] + 0.14 * math.cos(angle + 0.25))
    pen.line([elbow, hand], 0.05, look.skin, shade)
    pen.line([shoulder, elbow], 0.068, look.shirt, shade)


def _draw_torso(pen: _Pen, look: Look, outline: list[Point]) -> None:
    pen.polygon(outline, look.shirt)
    half = outline[2][0]
    for top in (0.27, 0.39):
        if look.stripe is not None:
            low = top + 0.06
            pen.polygon([(-half, top), (half, top), (half * 0.97, low), (-half * 0.97, low)], look.stripe)


def _draw_head(pen: _Pen, look: Look, nose: float, facing: bool = True) -> None:
    """`nose` is how far the face is turned to the right."""
    pen.line([(0.0, 0.14), (0.0, 0.19)], 0.06, look.skin, 0.9)
    if look.long_hair:
        pen.ellipse((-nose, 0.11), (0.075, 0.1), look.hair)
    pen.ellipse((0.0, 0.085), (0.066, 0.085), look.skin if facing else look.hair)
    pen.ellipse((-nose / 2, 0.07), (0.07, 0.072), look.hair, (175 + 300 * nose, 365 - 300 * nose))
    if nose:
        pen.ellipse((-nose, 0.075), (0.045, 0.06), look.hair)


def _draw_front(pen: _Pen, look: Look, swing: float, facing: bool) -> None:
    """Towards the camera or away from it: the legs take turns in being lifted."""
    for side, up in ((-1, max(swing, 0.0)), (1, max(-swing, 0.0))):
        hip, foot = 0.05 * side, 0.975 - 0.05 * up
        _draw_leg(pen, look, [(hip, 0.51), (hip * 1.1, 0.74 - 0.02 * up), (hip * 1.2, foot)], 0.0, 1 - 0.2 * up)
        _draw_arm(pen, look, (0.115 * side, 0.21), -0.3 * side, 0.85 - 0.1 * up, 0.02 * side)
    _draw_torso(pen, look, [(-0.1, 0.17), (0.1, 0.17), (0.125, 0.22), (0.1, 0.53), (-0.1, 0.53), (-0.125, 0.22)])
    if look.bag is not None:  # a backpack, of which the front shows the straps
        if facing:
            for side in (-1, 1):
                pen.line([(0.06 * side, 0.18), (0.07 * side, 0.38)], 0.03, look.bag)
        else:
            pen.polygon([(-0.08, 0.2), (0.08, 0.2), (0.08, 0.42), (-0.08, 0.42)], look.bag)
    _draw_head(pen, look, 0.0, facing)


def prop_sprite(prop: Prop) -> Sprite:
    """A prop in its own size; its body height is `prop.height`."""
    if prop.kind == "statue":
        return _statue_sprite(prop)
    height, width = (max(2, round(_OVERSAMPLE * side)) for side in (prop.height, prop.width))
    canvas: Image = np.full((height, width, 4), 255, dtype=np.uint8)
    colour = canvas[:, :, :3]
    shade = 1.15 - 0.5 * np.abs(np.linspace(-0.7, 1, width))  # round, lit from the left
    colour[:] = np.clip(shade[None, :, None] * np.array(prop.colour), 0, 255)
    trim = max(1, round((0.015 if prop.kind == "pole" else 0.06) * height))
    colour[:trim] //= 2
    if prop.kind == "column":
        posters = colour[round(0.3 * height) : round(0.7 * height)]
        posters[:] = posters // 3 + 120
    if prop.kind == "planter":
        leaves = np.random.default_rng(round(prop.foot[0])).integers(0, 60, (trim * 5, width, 1))
        colour[: trim * 5] = np.concatenate((30 + leaves // 2, 80 + leaves, 40 + leaves // 2), -1)[:height]
    return _finish(canvas, (width / 2, float(height)), height)


def _statue_sprite(prop: Prop) -> Sprite:
    """A standing figure of one colour; the plinth under it belongs to the figure."""
    grey, pen = prop.colour, _Pen(round(_OVERSAMPLE * prop.height))
    _draw_front(pen, Look(grey, grey, grey, grey, None, None, False, False), 0.0, facing=True)
    pen.polygon([(-0.2, 0.88), (0.2, 0.88), (0.2, 1.0), (-0.2, 1.0)], grey, 0.7)
    pen.polygon([(-0.17, 0.9), (0.17, 0.9), (0.17, 0.92), (-0.17, 0.92)], grey, 0.85)
    return _finish(pen.canvas, pen.origin, pen.body)


def draw_background(scene: Scene) -> Image:
    """The empty street, `uint8 [panorama height, panorama width, 3]` BGR: a wall with windows above a pavement."""
    rng = np.random.default_rng((*scene.seed, 1))
    width, height = scene.panorama
    unit = scene.config.height / 270
    wall_end = round(96 * unit + (height - scene.config.height) / 2)
    street = np.empty((height, width, 3), dtype=np.float32)
    tints = rng.uniform(-14, 14, (2, 3))
    street[:wall_end] = rng.uniform(115, 165) + tints[0]
    slope = np.linspace(-12, 12, height - wall_end, dtype=np.float32)[:, None, None]
    street[wall_end:] = rng.uniform(120, 170) + tints[1] + rng.choice((-1, 1)) * slope
    _draw_wall(rng, street[:wall_end], unit)
    _draw_ground(rng, street, wall_end, unit)
    for cell, strength in ((6, 4.0), (24, 7.0)):
        coarse = rng.normal(0, strength, (height // cell + 2, width // cell + 2)).astype(np.float32)
        street += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, None]
    return np.asarray(np.clip(street, 0, 255), dtype=np.uint8)


def _draw_wall(rng: np.random.Generator, wall: NDArray[np.float32], unit: float) -> None:
    """Bricks or plaster, with windows and shop doors."""
    height, width = wall.shape[:2]
    if rng.random() < 0.5:
        course = max(3, round(6 * unit))
        wall[::course] -= 18
        for row, top in enumerate(range(0, height, course)):
            wall[top : top + course, (row % 2) * course :: 2 * course] -= 14
    spacing = round(rng.uniform(45, 80) * unit)
    glass = np.array((75, 65, 60), dtype=np.float32) + rng.uniform(-10, 25)
    for left in range(int(rng.integers(spacing)), width, spacing):
        door, frame = rng.random() < 0.25, max(1, round(2 * unit))
        top, right = round((30 if door else 18) * unit), left + round(spacing * 0.45)
        window = wall[top : height if door else round(rng.uniform(58, 66) * unit), left:right]
        window[:] = glass + rng.uniform(-8, 8)
        for side in (window[:frame], window[:, :frame], wall[top : top + len(window), max(0, right - frame) : right]):
            side += 70
    wall[-max(2, round(4 * unit)) :] -= 25


def _draw_ground(rng: np.random.Generator, street: NDArray[np.float32], top: int, unit: float) -> None:
    """Slabs in perspective: rows grow wider towards the camera, joints run to a vanishing point."""
    height, width = street.shape[:2]
    joint, vanishing = rng.uniform(8, 16), (width * rng.uniform(0.3, 0.7), 30 * unit)
    lines, row, step = np.zeros((height, width), dtype=np.uint8), float(top), 5.0 * unit
    while row < height:
        cv2.line(lines, (0, round(row)), (width, round(row)), 255, 1)
        row, step = row + step, step * 1.25
    spread = rng.uniform(40, 70) * unit
    for k in range(-60, 61):
        foot = vanishing[0] + k * spread * (height - vanishing[1]) / (height - top)
        cv2.line(lines, (round(vanishing[0]), round(vanishing[1])), (round(foot), height), 255, 1, cv2.LINE_AA)
    lines[:top] = 0
    street -= lines[:, :, None] * np.float32(joint / 255)


def _finish(canvas: Image, origin: tuple[float, float], body: float) -> Sprite:
    """Shrink an oversampled drawing to its two levels and take its tight box."""
    padded = cv2.copyMakeBorder(canvas, 0, -canvas.shape[0] % 4, 0, -canvas.shape[1] % 4, cv2.BORDER_CONSTANT)
    height, width = padded.shape[:2]
    first, second = (cv2.resize(padded, (width // n, height // n), interpolation=cv2.INTER_AREA) for n in (2, 4))
    x, y, w, h = cv2.boundingRect((canvas[:, :, 3] >= 128).astype(np.uint8))
    left, top, right, bottom = ((np.array((x, y, x + w, y + h)) - (*origin, *origin)) / body).tolist()
    levels = np.asarray(first, np.uint8), np.asarray(second, np.uint8)
    return Sprite(levels, body / 2, (origin[0] / 2, origin[1] / 2), (left, top, right, bottom))
