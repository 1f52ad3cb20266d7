"""Pictures that change fast: a figure is drawn once, and what moves is painted on its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from motrlab.data.pictures import Image

Colour = tuple[int, int, int]  # BGR
_MARGINS = (0.6, 0.15, 0.45, 0.3)  # left, right, bottom, top: inches


def bgr(colour: str) -> Colour:
    """`#rrggbb` as OpenCV has it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red


@dataclass(frozen=True)
class Raster:
    """A figure in pixels, and where its axes are. `image` is BGR `uint8 [H, W, 3]`."""

    image: Image
    axes: Sequence[Axes]

    @staticmethod
    def of(figure: Figure, dpi: int = 100) -> Raster:
        """Draw `figure` with `dpi` pixels an inch, within fixed margins: a layout that looks for them draws twice."""
        figure.set_dpi(dpi)
        figure.set_layout_engine(None)
        width, height = figure.get_size_inches()
        left, right, bottom, top = _MARGINS
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())
        return Raster(np.ascontiguousarray(pixels[..., 2::-1]), figure.axes)

    def place(self, x: float, y: float, axes: int = 0) -> tuple[int, int]:
        """Column and row of a point in the data of one of the axes."""
        column, row = self.axes[axes].transData.transform((x, y))
        return round(float(column)), self.image.shape[0] - 1 - round(float(row))

    def span(self, axes: int = 0) -> tuple[int, int, int, int]:
        """First and last column, first and last row of the axes."""
        (left, bottom), (right, top) = self.axes[axes].transAxes.transform([(0, 0), (1, 1)])
        height = self.image.shape[0] - 1
        return round(left), round(right), height - round(top), height - round(bottom)

    def with_line(self, x: float, colour: Colour, axes: int = 0, *, image: Image | None = None) -> Image:
        """A copy (of `image` if given) with an upright line at `x`, through the whole height of the axes."""
        drawn = (self.image if image is None else image).copy()
        column = self.place(x, self.axes[axes].get_ylim()[0] or 1, axes)[0]
        left, right, top, bottom = self.span(axes)
        if left <= column <= right:
            cv2.line(drawn, (column, top), (column, bottom), colour, 2)
        return drawn


def jpeg(image: Image, quality: int = 85) -> bytes:
    """The bytes of a JPEG file."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def caption(text: str, width: int) -> Image:
    """A line of ASCII text on white, `[22, width, 3]`."""
    bar = np.full((22, width, 3), 255, np.uint8)
    cv2.putText(bar, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (46, 39, 34), 1, cv2.LINE_AA)
    return bar


def beside(images: Sequence[Image], gap_px: int = 6) -> Image:
    """Pictures of one height side by side on white."""
    gap = np.full((images[0].shape[0], gap_px, 3), 255, np.uint8)
    parts: list[Any] = [part for image in images for part in (image, gap)][:-1]
    return np.concatenate(parts, 1)


def stacked(images: Sequence[Image]) -> Image:
    """Pictures one below the other on white, all from the left edge."""
    width = max(image.shape[1] for image in images)
    rows = [np.pad(i, ((0, 0), (0, width - i.shape[1]), (0, 0)), constant_values=255) for i in images]
    return np.concatenate(rows)
