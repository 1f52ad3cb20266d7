"""`TuneExplorer`: thresholds of the tracker over a grid, replayed on recorded outputs of the networks.

Values are chosen on the train halves; the test halves show only what was chosen. What a replay may change, and how far
it can be trusted, `tracking.replay` says: `KINDS` repeats it for every threshold.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from textwrap import fill
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.config import TrackerConfig
from motrlab.errors import UserError
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tuning import SCORES, WHOLE, Axis, Half, best, with_values
from motrlab.tracking.replay import EXACT, STRICTER
from motrlab.viz.curves import COLOURS, figure_png, heading, panels
from motrlab.viz.explore import Live

KINDS = {
    **dict.fromkeys(EXACT, "exact: it decides only what is written"),
    **{
        name: f"approximate, {'higher' if way > 0 else 'lower'} values only: may have the wrong sign, try a closed loop"
        for name, way in STRICTER.items()
    },
}
EXCLUDED = (
    "birth_score, suppress_iou, coast and velocity_gain are not here: they change which slots live or where they look,"
    " and only a closed loop can tell"
)
_FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_NUM_VALUES = 7
SHOWN = ("mota", "idf1", "idsw")  # side by side
TITLES = {"mota": "MOTA", "idf1": "IDF1", "idsw": "switches", "fp": "false positives", "fn": "misses"}
ClosedLoop = Callable[[TrackerConfig, int], Mapping[str, float]]  # rules, frames of each video → scores


def axis(name: str, rules: TrackerConfig) -> Axis:
    """Values of a threshold to try: the present one and some around it that can be replayed.

    Raises UserError for a threshold that cannot be replayed.
    """
    if name not in KINDS:
        raise UserError(f"tuning: {name!r} cannot be replayed; one of {', '.join(KINDS)}. {EXCLUDED}")
    now = float(getattr(rules, name))
    steps: Sequence[float]
    if name == "min_area_px":
        steps = [0.0, *(max(now, 50.0) * 2.0**power for power in range(-1, 5))]
    elif name == "coast_written":
        steps = range(7)
    elif name == "max_misses":
        steps = [max(1, math.ceil(now * share)) for share in (0.05, 0.1, 0.25, 0.5, 0.75)]
    else:
        steps = _FRACTIONS
    if name in WHOLE:
        now = int(now)
    allowed = [v for v in steps if name in EXACT or (v - now) * STRICTER[name] > 0]
    nearest = sorted(set(allowed) - {now}, key=lambda v: abs(v - now))[: _NUM_VALUES - 1]
    return Axis(name, tuple(sorted({now, *nearest})))


class TuneExplorer:
    """`train` and `test`: recordings of one model and one set of rules. `closed_loop`, where there is one, runs the
    networks with other rules on some frames of the train halves: what an approximation is held against.
    """

    def __init__(
        self, train: Half, test: Half, *, protocol: str = PROTOCOLS[0], closed_loop: ClosedLoop | None = None
    ) -> None:
        if train.recording.rules != test.recording.rules:
            raise UserError("tuning: the halves were recorded under different rules; record both again")
        self.halves = {"train": train, "test": test}
        self.rules, self.protocol, self.closed_loop = train.recording.rules, check_protocol(protocol), closed_loop
        self.axes = {name: axis(name, self.rules) for name in KINDS}
        self._cell = lru_cache(4096)(lambda half, rules: self.halves[half].scores(rules, self.protocol))

    def scores(self, half: str = "train", **values: float) -> dict[str, float]:
        """`evaluation.tuning.SCORES` of `train` or `test` with these thresholds, NaN where they do not go together.

        Raises UserError for a threshold that cannot be replayed.
        """
        for name, value in values.items():
            self._check(name, value)
        try:
            rules = with_values(self.rules, values)
        except UserError:
            return dict.fromkeys(SCORES, math.nan)
        return dict(self._cell(half, rules))

    def _check(self, name: str, value: float) -> None:
        if name not in KINDS:
            axis(name, self.rules)
        now = getattr(self.rules, name)
        if name in STRICTER and (value - now) * STRICTER[name] < 0:
            raise UserError(f"tuning: {name} {value} cannot be replayed, recorded with {now}; {KINDS[name]}")

    def rows(self, across: str, down: str) -> Iterator[dict[str, np.ndarray]]:
        """The grid of the train halves, row after row: each of `SCORES` `[values of across]`."""
        if across == down:
            raise UserError(f"tuning: {across} is on both axes; choose two")
        for y in self._axis(down).values:
            cells = [self.scores("train", **{across: x, down: y}) for x in self._axis(across).values]
            yield {name: np.array([cell[name] for cell in cells]) for name in SCORES}

    def _axis(self, name: str) -> Axis:
        return self.axes.get(name) or axis(name, self.rules)

    def grid(self, across: str, down: str) -> dict[str, np.ndarray]:
        """Each of `SCORES` on the train halves: `[values of down, values of across]`."""
        rows = list(self.rows(across, down))
        return {name: np.stack([row[name] for row in rows]) for name in SCORES}

    def best(self, across: str, down: str, metric: str = "mota") -> dict[str, float]:
        """The thresholds with the best `metric` on the train halves."""
        place = best(self.grid(across, down)[metric], metric)
        assert place is not None, "the present rules are on every grid"
        return {across: self._axis(across).values[place[1]], down: self._axis(down).values[place[0]]}

    def describe(self, metric: str = "mota", **values: float) -> str:
        """What two thresholds give beside the present rules, and how exact that is: on the train halves, and on the
        test halves for the best `metric` of the train halves alone, so that nothing can be chosen on test.
        """
        names = list(values)
        chosen = len(names) == 2 and values == self.best(names[0], names[1], metric)
        lines = [f"{'':<8}{'':<8}" + "".join(f"{name:>9}" for name in SCORES)]
        for half in ("train", "test") if chosen else ("train",):
            for label, changed in (("now", {}), ("chosen", values)):
                found = self.scores(half, **changed)
                lines.append(f"{half:<8}{label:<8}" + "".join(f"{_told(name, found[name]):>9}" for name in SCORES))
        lines += [] if chosen else [f"test    only for the cell with the best {metric} on the train halves"]
        lines += [f"{name} {values[name]:g} (now {getattr(self.rules, name):g}): {KINDS[name]}" for name in values]
        return "\n".join((*lines, fill(EXCLUDED, 112)))

    def html(self, rows: Sequence[Mapping[str, np.ndarray]], across: str, down: str, metric: str = "mota") -> str:
        """The grid as a coloured table, as far as `rows` go; the best cell has a frame, the present rules a star."""
        values = np.stack([row[metric] for row in rows])
        low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0, 0)
        place, now = best(values, metric), asdict(self.rules)
        head = "".join(f"<th>{x:g}</th>" for x in self._axis(across).values)
        body = []
        for r, (y, row) in enumerate(zip(self._axis(down).values, rows, strict=False)):
            cells = []
            for c, x in enumerate(self._axis(across).values):
                told = "; ".join(f"{name} {_told(name, row[name][c])}" for name in SCORES)
                share = (values[r, c] - low) / (high - low) if high > low else 0.5
                good = share if metric in ("mota", "idf1") else 1 - share
                style = f"background:rgba(0,114,178,{0.75 * np.nan_to_num(good):.2f})"
                style += ";outline:2px solid #D55E00" if (r, c) == place else ""
                star = " ★" if (x, y) == (now[across], now[down]) else ""
                cells.append(f"<td style='{style}' title='{told}'>{_told(metric, values[r, c])}{star}</td>")
            body.append(f"<tr><th>{y:g}</th>{''.join(cells)}</tr>")
        corner = html.escape(f"{TITLES[metric]}: {down} ↓, {across} →")
        return f"<table><tr><th>{corner}</th>{head}</tr>{''.join(body)}</table>"

    def tables(self, rows: Sequence[Mapping[str, np.ndarray]], across: str, down: str, metric: str = "mota") -> str:
        """`html` of `metric` and of MOTA, IDF1 and switches, side by side."""
        each = (self.html(rows, across, down, name) for name in dict.fromkeys((metric, *SHOWN)))
        return f"<div style='display:flex;flex-wrap:wrap;gap:16px'>{''.join(each)}</div>"

    def figure(self, across: str = "output_score", down: str = "min_area_px") -> Figure:
        """MOTA, IDF1 and switches of the train halves over the grid; a ring: the best, a star: the present rules."""
        figure, axes = panels(13.0, 4.0, 3, grid="")
        grids = self.grid(across, down)
        for ax, metric in zip(axes, SHOWN, strict=True):
            self._draw(ax, grids[metric], metric, across, down)
        marks = axes[0].get_legend_handles_labels()
        figure.legend(*marks, frameon=False, fontsize=9, loc="outside lower center", ncols=2)
        return figure

    def _draw(self, ax: Axes, values: np.ndarray, metric: str, across: str, down: str) -> None:
        xs, ys = self._axis(across).values, self._axis(down).values
        ax.imshow(values, cmap="Blues" if metric in ("mota", "idf1") else "Blues_r", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
            ax.text(column, row, _told(metric, value), bbox={"color": "white", "alpha": 0.6, "pad": 1}, **text)
        ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        ax.set(xlabel=across, ylabel=down)
        place = best(values, metric)
        if place is not None:
            ring: dict[str, Any] = {"markersize": 26, "markerfacecolor": "none", "color": COLOURS[3]}
            ax.plot(*reversed(place), "o", **ring)
            ax.plot([], [], "o", **ring | {"markersize": 9}, label="best of the train halves")
        now = xs.index(getattr(self.rules, across)), ys.index(getattr(self.rules, down))
        ax.plot(now[0] + 0.33, now[1] - 0.3, "*", color=COLOURS[3], linestyle="", label="the rules now")
        heading(ax, f"{TITLES[metric]}, train halves")

    def png(self, across: str = "output_score", down: str = "min_area_px") -> bytes:
        """`figure` as the bytes of a PNG file: the static form."""
        return figure_png(self.figure(across, down), dpi=100)

    def widget(self) -> Any:
        """The live form (`ipywidgets.VBox`): the axes, the grids, which fill row by row, and a cell to look at."""
        names = [(f"{name} ({KINDS[name].partition(',')[0].partition(':')[0]})", name) for name in KINDS]
        across = widgets.Dropdown(options=names, value="output_score", description="across")
        down = widgets.Dropdown(options=names, value="min_area_px", description="down")
        metric = widgets.Dropdown(options=SCORES, value="mota", description="metric")
        x, y = (widgets.SelectionSlider(options=[0.0], continuous_update=False) for _ in range(2))
        table, words = widgets.HTML(), widgets.HTML()

        def fill(_: object = None) -> None:
            if across.value == down.value:
                table.value = "choose two thresholds"
                return
            for slider, name in ((x, across.value), (y, down.value)):
                values = self._axis(name).values
                if tuple(slider.options) != values:
                    slider.options, slider.value = values, getattr(self.rules, name)
                slider.description = name
            rows: list[Mapping[str, np.ndarray]] = []
            for row in self.rows(across.value, down.value):
                rows.append(row)
                table.value = self.tables(rows, across.value, down.value, metric.value)
            say()

        def say(_: object = None) -> None:
            if across.value != down.value:
                told = self.describe(metric.value, **{across.value: x.value, down.value: y.value})
                words.value = f"<pre>{html.escape(told)}</pre>"

        for control in (across, down, metric):
            control.observe(fill, names="value")
        for slider in (x, y):
            slider.observe(say, names="value")
        fill()
        loop = self._closed_loop_row(lambda: {across.value: x.value, down.value: y.value})
        rows = [widgets.HBox([across, down, metric]), table, widgets.HBox([x, y]), words, loop]
        return Live(rows, "TuneExplorer")

    def _closed_loop_row(self, chosen: Callable[[], dict[str, float]]) -> Any:
        """A button that runs the networks on the first frames of the train halves with the `chosen` thresholds."""
        frames = widgets.IntSlider(30, 5, 240, description="frames", continuous_update=False)
        button = widgets.Button(description="closed loop", disabled=self.closed_loop is None)
        told = widgets.HTML()

        def run(_: object) -> None:
            assert self.closed_loop is not None
            told.value = "the networks are running"
            try:
                found = self.closed_loop(with_values(self.rules, chosen()), frames.value)
            except UserError as error:
                told.value = html.escape(str(error))
                return
            scores = ", ".join(f"{name} {_told(name, found[name])}" for name in SCORES)
            told.value = f"closed loop, {frames.value} frames of each train half: {scores}"

        button.on_click(run)
        return widgets.HBox([frames, button, told])


def _told(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f}" if name in ("mota", "idf1") else f"{value:.0f}"
