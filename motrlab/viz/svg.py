"""Pictures drawn into a page as SVG: sharp on paper, in the colours of the page, light or dark.

Colours are classes of `style.css`: `k0` to `k7` fill, `s0` to `s7` stroke, `axis`, `grid`, `quiet`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#6b7480", "#8a7a00")
STYLE = (  # for a drawing where `style.css` is not, such as a notebook: `svg(..., style=STYLE)`
    "".join(f".plot .k{i}{{fill:{c}}}.plot .s{i}{{stroke:{c}}}" for i, c in enumerate(COLOURS))
    + ".plot .line{fill:none;stroke-width:1.6}.plot .line.axis{stroke:#6b7480}.plot .line.grid{stroke:#8884}"
    ".plot text{fill:currentColor;font-size:12px}.plot .dot{stroke:#fff;stroke-width:.8;fill-opacity:.85}"
)
LEFT, RIGHT, BOTTOM = 96.0, 14.0, 34.0  # margins of a plot


def thin(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass
class Plot:
    """A plot of `width` × `height` pixels under construction; `x` and `y` map data into it.

    `x_range`, `y_range`: what the axes span; logarithmic with `log`. `top`: room above, for a legend 28.
    """

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False
    top: float = 10
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        return LEFT + _share(value, self.x_range, self.log) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - _share(value, self.y_range, self.log) * (self.height - self.top - BOTTOM)

    def text(self, x: float, y: float, text: str, style: str = "quiet", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{thin(x)}" y="{thin(y)}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def rect(self, x: float, y: float, width: float, height: float, style: str, told: str = "") -> None:
        """`told` is shown when a pointer rests on it."""
        shape = f'<rect x="{thin(x)}" y="{thin(y)}" width="{thin(max(width, 0.4))}" height="{thin(height)}"'
        self._add(f'{shape} class="{style}"', "rect", told)

    def dot(self, x: float, y: float, radius: float, style: str, told: str = "") -> None:
        self._add(f'<circle cx="{thin(x)}" cy="{thin(y)}" r="{thin(radius)}" class="dot {style}"', "circle", told)

    def _add(self, opening: str, tag: str, told: str) -> None:
        self.parts.append(f"{opening}><title>{escape(told)}</title></{tag}>" if told else f"{opening}/>")

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A polyline through points in pixels, or an area, by its style."""
        path, kind = "L".join(f"{thin(x)} {thin(y)}" for x, y in points), "" if style.startswith("area") else "line "
        self.parts.append(f'<path d="M{path}" class="{kind}{style}"/>')

    def steps(self, values: Sequence[float], width: float, style: str) -> None:
        """A value for each span of `width` along x from 0; filled down to the axis where `style` is a fill."""
        points = [(self.x(i * width), self.y(value)) for i, value in enumerate(values)]
        right = self.x(width) - self.x(0)
        found = [p for x, y in points for p in ((x, y), (x + right, y))]
        if style.startswith("k"):
            found = [(found[0][0], self.y(0)), *found, (found[-1][0], self.y(0))]
        self.line(found, f"area {style}" if style.startswith("k") else style)

    def axes(self, x_label: str, y_label: str = "", *, y_text: Callable[[float], str] | None = None) -> None:
        """Frame, ticks and their labels; those of y only with a label."""
        bottom, right = self.height - BOTTOM, self.width - RIGHT
        self.line([(LEFT, bottom), (right, bottom)], "axis")
        for tick in ticks(self.x_range, self.log):
            self.line([(self.x(tick), self.top), (self.x(tick), bottom)], "grid")
            self.text(self.x(tick), bottom + 13, short(tick), anchor="middle")
        self.text((LEFT + right) / 2, self.height - 4, x_label, anchor="middle")
        for tick in ticks(self.y_range, self.log) if y_label else ():
            self.line([(LEFT, self.y(tick)), (right, self.y(tick))], "grid")
            self.text(LEFT - 6, self.y(tick) + 4, (y_text or short)(tick), anchor="end")
        if y_label:
            self.text(8, 18, y_label)

    def legend(self, names: Mapping[str, str]) -> None:
        """What the colours mean, above the plot: name → class."""
        at = LEFT
        for name, style in names.items():
            self.rect(at, 8, 12, 12, style)
            self.text(at + 17, 18, name)
            at += 34 + 7 * len(name)

    def svg(self, told: str, style: str = "") -> str:
        """The picture; `told` says in words what it shows. `style`: `STYLE` where no page has it."""
        size = f'viewBox="0 0 {thin(self.width)} {thin(self.height)}" width="{thin(self.width)}"'
        inside = (f"<style>{style}</style>" if style else "") + "".join(self.parts)
        return f'<svg class="plot" role="img" aria-label="{escape(told)}" {size}>{inside}</svg>'


def _share(value: float, span: tuple[float, float], log: bool) -> float:
    low, high = span
    if log:
        value, low, high = (math.log10(max(v, 1e-12)) for v in (value, low, high))
    return (value - low) / (high - low) if high > low else 0.0


def ticks(span: tuple[float, float], log: bool = False) -> list[float]:
    """Round numbers within a span: powers of ten, or about six steps of 1, 2 or 5."""
    low, high = span
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]
    if high <= low:
        return [low]
    raw = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick's number."""
    if value and abs(value) >= 1e5:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:.6g}"


def data_size(value: float) -> str:
    """Bytes as text."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
