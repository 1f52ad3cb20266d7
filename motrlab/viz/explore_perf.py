"""`PerfExplorer`: what `perf` found, by module or layer: time measured and predicted side by side, and the roofline."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from motrlab.deploy.performance import read_performance
from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.viz.curves import COLOURS, figure_png, heading, note, panels, rows_downwards
from motrlab.viz.explore import Live
from motrlab.viz.latency import draw_roofs
from motrlab.viz.roofline import Dot, roofline_plot
from motrlab.viz.svg import STYLE

Values = Mapping[str, Any]  # of `Performance.json()`
LEVELS = {"module": "module", "layer": "name"}  # what a row is → where a layer says so
SORTS = ("time", "time beside", "ratio", "multiply-accumulates", "bytes", "order")


@dataclass(frozen=True)
class Row:
    """A module of a graph, all its layers together, or one layer; `module` is its name.

    `ms`: of each result that is shown, NaN where it has no such layer. `macs` and `num_bytes`, read and written, are of
    the first, or else of the second. `bound`: what the prediction says of its longest layer, or `measured`.
    """

    graph: str
    module: str
    ms: tuple[float, ...]
    macs: int
    num_bytes: int
    num_layers: int
    bound: str
    order: int

    @property
    def name(self) -> str:
        return f"{self.graph} {self.module}"

    @property
    def ratio(self) -> float:
        """Second over first."""
        return self.ms[1] / self.ms[0] if len(self.ms) > 1 and self.ms[0] > 0 else np.nan


def module_rows(results: Sequence[Values], by: str = "module") -> list[Row]:
    """A row for each module (or layer) of one result, or of two beside each other, in order of execution.

    Two targets compile to other layers: few have the same name on both.
    """
    sums: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number, values in enumerate(results):
        for layer in values["layers"]:
            empty: list[dict[str, Any]] = [{"ms": 0.0, "macs": 0, "num_bytes": 0, "num_layers": 0} for _ in results]
            own = sums.setdefault((layer["graph"], layer[LEVELS[by]]), empty)[number]
            own["macs"] += layer["macs"]
            own["num_bytes"] += layer["bytes_read"] + layer["bytes_written"]
            own["num_layers"] += 1
            own["ms"] += layer["latency_ms"]
            if layer["latency_ms"] >= own.get("longest", 0):
                own |= {"longest": layer["latency_ms"], "bound": layer["bound"]}
    rows = []
    for order, ((graph, module), sides) in enumerate(sums.items()):
        known = next(side for side in sides if side["num_layers"])
        times = tuple(side["ms"] if side["num_layers"] else np.nan for side in sides)
        bounds = [side["bound"] for side in sides if side.get("bound", "measured") != "measured"]
        facts = (known["macs"], known["num_bytes"], known["num_layers"], next(iter(bounds), "measured"))
        rows.append(Row(graph, module, times, *facts, order))
    return rows


class PerfExplorer:
    """Results of `perf` by name, such as `horizon-j6e, predicted`. Raises UserError where there is none."""

    def __init__(self, results: Mapping[str, Values]) -> None:
        if not results:
            raise UserError("no result of `perf`; run `python -m motrlab perf --run NAME`, also with --target")
        self.results = dict(results)
        self._rows = lru_cache(None)(lambda shown, by: module_rows([self.results[name] for name in shown], by))

    @staticmethod
    def of_run(run: Run) -> PerfExplorer:
        """From the `perf_TARGET.KIND.json` of the records that count, measured ones first."""
        found: dict[str, Values] = {}
        for record in run.records("perf"):
            for asset in record["assets"]:
                name = asset.rpartition("/")[2]
                if name.startswith("perf_") and name.endswith(".json") and not name.endswith(".trace.json"):
                    values = read_performance(run.path / asset)
                    found[f"{values['target']}, {values['kind']}"] = values
        return PerfExplorer(dict(sorted(found.items(), key=lambda item: item[1]["kind"] != "measured")))

    @property
    def default(self) -> tuple[str, ...]:
        """The first result, and the first of the other kind beside it."""
        first, *others = self.results
        kind = self.results[first]["kind"]
        return (first, *[name for name in others if self.results[name]["kind"] != kind][:1])

    def _chosen(self, shown: Sequence[str]) -> tuple[str, ...]:
        unknown = [name for name in shown if name not in self.results]
        if unknown or len(shown) > 2:
            known = "; ".join(self.results)
            raise UserError(f"performance: {unknown[0] if unknown else 'more than two'}; show one or two of: {known}")
        return tuple(dict.fromkeys(shown)) or self.default

    def rows(
        self, shown: Sequence[str] = (), sort: str = "time", find: str = "", graph: str = "", by: str = "module"
    ) -> list[Row]:
        """Modules or layers whose name or bound has `find` in it, sorted by one of `SORTS`, the largest first."""
        if by not in LEVELS:
            raise UserError(f"performance: no rows of {by!r}; of one of {', '.join(LEVELS)}")
        if sort not in SORTS:
            raise UserError(f"performance: cannot sort by {sort!r}; by one of {', '.join(SORTS)}")
        rows: list[Row] = self._rows(self._chosen(shown), by)
        known = [r for r in rows if find.lower() in f"{r.name} {r.bound}".lower() and graph in ("", r.graph)]
        keys = {
            "time": lambda r: r.ms[0],
            "time beside": lambda r: r.ms[-1],
            "ratio": lambda r: r.ratio,
            "multiply-accumulates": lambda r: r.macs,
            "bytes": lambda r: r.num_bytes,
            "order": lambda r: -r.order,
        }
        return sorted(known, key=lambda r: np.nan_to_num(keys[sort](r), nan=-np.inf), reverse=True)

    def table(self, rows: Sequence[Row], shown: Sequence[str] = (), most: int = 25) -> str:
        """The first `most` rows as aligned text."""
        names = self._chosen(shown)
        lines = [f"{'module':<48}" + "".join(f"{name[:26]:>28}" for name in names) + f"{'MACs':>14}  bound"]
        for row in rows[:most]:
            times = "".join(f"{_ms(ms):>28}" for ms in row.ms)
            lines.append(f"{row.name:<48}{times}{row.macs:>14,}  {row.bound}")
        return "\n".join(lines)

    def html(self, rows: Sequence[Row], shown: Sequence[str] = (), most: int = 25) -> str:
        """The same as a table with bars; a pointer that rests on a row is told all of it."""
        names = self._chosen(shown)
        longest = [
            max((row.ms[i] for row in rows if row.ms[i] == row.ms[i]), default=0) or 1 for i in range(len(names))
        ]
        head = "".join(f"<th style='text-align:left'>{html.escape(name)}, ms</th>" for name in names)
        body = []
        for row in rows[:most]:
            cells = "".join(
                f"<td style='min-width:180px'>{_bar(ms / longest[i], COLOURS[i])}{_ms(ms)}</td>"
                for i, ms in enumerate(row.ms)
            )
            told = html.escape(self.describe(row, names), quote=True)
            body.append(f"<tr title='{told}'><td>{html.escape(row.name)}</td>{cells}<td>{row.bound}</td></tr>")
        left = f"<p>{len(rows) - most} more rows</p>" if len(rows) > most else ""
        return f"<table><tr><th>name</th>{head}<th>bound</th></tr>{''.join(body)}</table>{left}"

    def describe(self, row: Row, shown: Sequence[str] = ()) -> str:
        """All of a module, one line."""
        times = "; ".join(f"{name}: {_ms(ms)} ms" for name, ms in zip(self._chosen(shown), row.ms, strict=True))
        ratio = f"; ratio {row.ratio:.3g}" if row.ratio == row.ratio else ""
        bound = row.bound if row.bound == "measured" else f"bound by {row.bound}"
        work = f"{row.macs:,} multiply-accumulates, {row.num_bytes:,} bytes, {row.num_layers} layers"
        return f"{row.name}: {times}{ratio}; {work}, {bound}"

    def figure(
        self, shown: Sequence[str] = (), sort: str = "time", find: str = "", graph: str = "", most: int = 20
    ) -> Figure:
        """Bars of the first `most` modules, a panel for each result, and the roofline of the predicted one."""
        names, rows = self._chosen(shown), self.rows(shown, sort, find, graph)[:most]
        figure, axes = panels(11.0, 2.2 + 0.22 * max(8, len(rows)), len(names) + 1, grid="x")
        for index, (ax, name) in enumerate(zip(axes, names, strict=False)):
            ax.barh(range(len(rows)), [np.nan_to_num(row.ms[index]) for row in rows], color=COLOURS[index])
            rows_downwards(ax, ["" if index else row.name for row in rows], "milliseconds")
            ax.tick_params(axis="y", labelsize=7)
            heading(ax, name)
        self._draw_roofline(axes[-1], self._roof_of(names), [row.name for row in rows[:3]])
        return figure

    def _roof_of(self, names: Sequence[str]) -> str:
        """The last of these results whose target has roofs, else the first."""
        return next((name for name in reversed(names) if self.results[name].get("roofline")), names[0])

    def roofline(self, name: str, marked: str = "", by: str = "module") -> str:
        """Speed of every module (or layer) with products over its operations per byte, under the roofs of its target if
        known: SVG, in which a pointer that rests on a dot is told its name. `marked` gets a ring; "" without products.
        """
        dots = self._dots(name, by)
        told = f"Roofline of {name}: {len(dots)} {by}s with products."
        return roofline_plot(dots, self.results[name].get("roofline"), marked).svg(told, STYLE) if dots else ""

    def _dots(self, name: str, by: str = "module") -> list[Dot]:
        found = (Dot.of(r.name, r.macs, r.num_bytes, r.ms[0], r.bound) for r in self._rows((name,), by))
        return [dot for dot in found if dot]

    def _draw_roofline(self, ax: Axes, name: str, named: Sequence[str] = ()) -> None:
        roof, dots = self.results[name].get("roofline"), self._dots(name)
        heading(ax, f"roofline: {name}")
        ax.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="10⁹ operations a second")
        if not dots:
            return
        x, y, ms = np.array([(dot.x, dot.y, dot.ms) for dot in dots]).T
        ax.scatter(x, y, s=8 + 120 * ms / ms.max(), color=COLOURS[0], alpha=0.7, label="a module, area: time")
        for dot in dots:
            if dot.name in named:
                note(ax, dot.name, (dot.x, dot.y), (6, 4), fontsize=7)
        if roof:
            draw_roofs(ax, roof, x)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        ax.legend(frameon=False, fontsize=7, loc="lower right")

    def png(
        self, shown: Sequence[str] = (), sort: str = "time", find: str = "", graph: str = "", most: int = 20
    ) -> bytes:
        """`figure` as the bytes of a PNG file: the static form."""
        return figure_png(self.figure(shown, sort, find, graph, most), dpi=100)

    def widget(self) -> Any:
        """The live form (`ipywidgets.VBox`): what to show, the table, whose rows tell more to a pointer that rests on
        them, and the roofline with the chosen module marked."""
        names, default = list(self.results), self.default
        first = widgets.Dropdown(options=names, value=default[0], description="result")
        second = widgets.Dropdown(
            options=["", *names], value=default[-1] if len(default) > 1 else "", description="beside"
        )
        sort = widgets.Dropdown(options=SORTS, value="time", description="sort by")
        find = widgets.Text("", description="filter", placeholder="such as decoder.0 or off_chip")
        most = widgets.IntSlider(20, 5, 100, description="rows", continuous_update=False)
        level = widgets.Dropdown(options=list(LEVELS), description="rows are")
        module = widgets.Dropdown(description="marked")
        table, words, picture = widgets.HTML(), widgets.HTML(), widgets.HTML()

        def shown() -> tuple[str, ...]:
            return tuple(dict.fromkeys(name for name in (first.value, second.value) if name))

        def rows() -> list[Row]:
            return self.rows(shown(), sort.value, find.value, by=level.value)

        def fill(_: object = None) -> None:
            found = rows()
            table.value = self.html(found, shown(), most.value)
            kept = module.value
            module.options = [row.name for row in found]
            module.value = kept if kept in module.options else next(iter(module.options), None)

        def draw(_: object = None) -> None:
            row = next((row for row in rows() if row.name == module.value), None)
            words.value = html.escape(self.describe(row, shown())) if row else f"no {level.value} has that in its name"
            picture.value = self.roofline(self._roof_of(shown()), module.value or "", level.value)

        for control in (first, second, sort, find, most, level):
            control.observe(fill, names="value")
        for control in (first, second, level, module):
            control.observe(draw, names="value")
        fill()
        draw()
        above = [widgets.HBox([first, second, sort]), widgets.HBox([find, most, module, level])]
        return Live([*above, words, widgets.HBox([table, picture])], "PerfExplorer")


def _ms(value: float) -> str:
    return f"{value:.4f}" if value == value else "none"


def _bar(share: float, colour: str) -> str:
    width = round(100 * share) if share == share else 0
    style = f"display:inline-block;height:10px;background:{colour};margin-right:4px;width:{width}px"
    return f"<span style='{style}'></span>"
