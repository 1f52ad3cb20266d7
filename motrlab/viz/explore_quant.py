"""`QuantExplorer`: tensors ranked by error, each one's values against its grid, and what another grid would do."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.config.scheme import OBSERVERS, PRECISIONS
from motrlab.data.pictures import Image
from motrlab.data.preprocess import preprocess
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.quantization.analysis import whatif
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.sensitivity_tables import OUTPUTS
from motrlab.quantization.analysis.whatif import Grid
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key
from motrlab.run import Run
from motrlab.viz.curves import COLOURS, GREY, figure_png, heading, legend_above, panels, rows_downwards
from motrlab.viz.explore import Live, live_picture
from motrlab.viz.grids import draw_histogram, grid_words
from motrlab.viz.raster import Raster, bgr, jpeg

RANKS = {"error so far": "fake_sqnr_db", "own rounding": "own_sqnr_db", "clipped": "saturated_share", "graph order": ""}
_DOUBLINGS = 3.0  # the slider of the range goes so far down and up


@dataclass(frozen=True)
class Trial:
    """A tensor on another grid (None: float), and the outputs' error with it."""

    key: Key
    grid: Grid | None
    error: OutputError


class QuantExplorer:
    """The fake-quantised model of a stage on a few frames of the train halves, of which it holds everything.

    What is changed is one grid, for as long as it is looked at; neither the run nor the model are.
    """

    def __init__(self, quantised: QuantizedMotr, probe: Probe, title: str = "") -> None:
        self.quantised, self.probe, self.title = quantised, probe, title
        self.found = whatif.observe(quantised, probe)
        self.values = {key: found.values for key, found in self.found.items()}
        self.now = probe.output_error(quantised.graphs)
        self._histogram = lru_cache(16)(lambda key: Raster.of(self._background(key)))
        self._error = lru_cache(256)(lambda key, grid: whatif.output_error(quantised, probe, key, grid))

    @staticmethod
    def of_run(run: Run, stage: str = "calibration", num_frames: int = 3, sequence: str = "") -> QuantExplorer:
        """Of `calibration` or `qat`, on frames of a train half, spread evenly over its first 32: a range is chosen
        here, and the test halves are not for choosing.

        Raises UserError where the stage has no model.
        """
        config, store = run.config, FrameStore(run.data / "train_lmdb")
        info = store.info(sequence or store.sequences[0].name)
        every = max(1, min(32, info.num_frames) // max(1, num_frames))
        quantised = QuantizedMotr.load(config, run.model_file(stage))
        sizes = config.model.height, config.model.width
        frames = [
            torch.from_numpy(preprocess(store.image(info.name, frame), *sizes))[None]
            for frame in range(1, min(info.num_frames, every * num_frames) + 1, every)
        ]
        quantised.mode("float")
        probe = Probe(quantised.graphs, [frames], config)
        quantised.mode("evaluate")
        return QuantExplorer(
            quantised, probe, f"{stage} of run {run.name}, {len(frames)} frames of the train half of {info.name}"
        )

    def ranked(self, by: str = "error so far") -> list[Key]:
        """The tensors, the worst first; `by` is one of `RANKS`."""
        if by not in RANKS:
            raise UserError(f"quantisation: no rank {by!r}; there are {', '.join(RANKS)}")
        keys = list(self.found)
        if not RANKS[by]:
            return keys
        sign = -1 if RANKS[by] == "saturated_share" else 1
        worth = {key: sign * getattr(self.found[key].row, RANKS[by]) for key in keys}
        return sorted(keys, key=lambda key: np.nan_to_num(worth[key], nan=np.inf))

    def table(self, by: str = "error so far", most: int = 20) -> str:
        """The first `most` ranked tensors as aligned text."""
        lines = [f"{'tensor':<52}{'so far dB':>10}{'own dB':>9}{'clipped %':>11}{'range used':>12}"]
        for key in self.ranked(by)[:most]:
            row = self.found[key].row
            numbers = f"{row.fake_sqnr_db:>10.1f}{row.own_sqnr_db:>9.1f}{100 * row.saturated_share:>11.3f}"
            lines.append(f"{row.name:<52}{numbers}{row.range_used:>12.2f}")
        return "\n".join(lines)

    def try_grid(self, key: Key, **rule: Any) -> Trial:
        """Another rule for one tensor and those that share its grid: see `whatif.changed_grid`. A fraction of a second.

        Raises UserError where there is no such tensor or rule.
        """
        if key not in self.found:
            raise UserError(f"no tensor {key!r} on these frames; see `ranked()`")
        grid = whatif.changed_grid(self.quantised, key, self.values, **rule)
        same = grid == whatif.grid_of(self.quantised, key)
        return Trial(key, grid, self.now if same else self._error(key, grid))

    def describe(self, trial: Trial) -> str:
        """The numbers of a trial, a line each: the grid now and tried, then every output's SQNR now and tried."""
        row, values, now = self.found[trial.key].row, self.values[trial.key], whatif.grid_of(self.quantised, trial.key)
        lines = [f"{row.name}, observer {row.observer}; {row.num_sharing} tensors share its grid"]
        lines += [f"now:   {grid_words(now, values)}", f"tried: {grid_words(trial.grid, values)}"]
        for output, words in OUTPUTS.items():
            before, after = self.now.db(output), trial.error.db(output)
            lines.append(f"{words}: SQNR {before:.2f} dB now, {after:.2f} dB tried ({after - before:+.2f})")
        return "\n".join(lines)

    def _background(self, key: Key) -> Figure:
        figure, (ax,) = panels(7.0, 3.2, grid="")
        draw_histogram(ax, self.values[key])
        low, high = whatif.grid_of(self.quantised, key).reach
        reach = max(float(np.abs(self.values[key]).max(initial=0)), high) * 1.15
        ax.set_xlim(-reach if low < 0 or float(self.values[key].min()) < 0 else -0.03 * reach, reach)
        heading(ax, f"{self.found[key].row.name}: float values")
        return figure

    def picture(self, trial: Trial) -> Image:
        """The values, the grid's ends now and tried, and what would be clipped in grey; BGR."""
        raster = self._histogram(trial.key)
        image, (left, right, top, bottom) = raster.image.copy(), raster.span()
        if trial.grid is not None:
            low, high = (np.clip(raster.place(end, 1)[0], left, right) for end in trial.grid.reach)
            for first, last in ((left, low), (high, right)):
                part = image[top:bottom, first:last]
                part[:] = part // 2 + 96
        for index, (word, grid, colour) in enumerate(self._grids(trial)):
            for end in grid.reach if grid is not None else ():
                image = raster.with_line(end, bgr(colour), image=image)
            place = right - 90, top + 14 + 16 * index
            cv2.putText(image, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, bgr(colour), 1, cv2.LINE_AA)
        return image

    def _grids(self, trial: Trial) -> list[tuple[str, Grid | None, str]]:
        """Name, grid and colour of the tensor's grid now and, where it is another one, of the one tried."""
        now = whatif.grid_of(self.quantised, trial.key)
        tried = ("tried" if trial.grid else "tried: float", trial.grid, COLOURS[3])
        return [("now", now, COLOURS[2]), *([tried] if trial.grid != now else [])]

    def figure(self, key: Key | None = None, by: str = "error so far", **rule: Any) -> Figure:
        """The worst tensors, one's values against its grid now and tried, and the outputs' errors."""
        key = key or self.ranked(by)[0]
        trial = self.try_grid(key, **rule)
        figure, axes = panels(12.0, 4.2, 3, grid="x", width_ratios=(1.1, 1.3, 1))
        rows = [self.found[k].row for k in self.ranked(by)[:16]]
        axes[0].barh(range(len(rows)), [row.fake_sqnr_db for row in rows], color=COLOURS[0])
        rows_downwards(axes[0], [f"{row.graph} {row.tensor}" for row in rows], "SQNR so far, dB")
        axes[0].tick_params(axis="y", labelsize=6)
        draw_histogram(axes[1], self.values[key])
        heading(axes[1], f"{self.found[key].row.name}")
        for name, grid, colour in self._grids(trial):
            for index, end in enumerate(grid.reach if grid else ()):
                axes[1].axvline(end, color=colour, linewidth=1.5, label="" if index else name)
        axes[1].legend(frameon=False, fontsize=8)
        self._draw_outputs(axes[2], trial)
        return figure

    def _draw_outputs(self, ax: Axes, trial: Trial) -> None:
        place = np.arange(len(OUTPUTS))
        errors, grids = (self.now, trial.error), self._grids(trial)
        shifts = (-0.2, 0.2) if len(grids) > 1 else (0.0,)
        for shift, error, (label, _, colour) in zip(shifts, errors, grids, strict=False):
            values = [error.db(output) for output in OUTPUTS]
            known = [value if math.isfinite(value) else 0 for value in values]
            ax.barh(place + shift, known, height=0.38, color=colour, label=label)
        ax.axvline(0, color=GREY, linewidth=0.8)
        rows_downwards(ax, list(OUTPUTS.values()), "outputs: SQNR against float, dB")
        legend_above(ax, ncols=2)

    def png(self, key: Key | None = None, by: str = "error so far", **rule: Any) -> bytes:
        """`figure` as the bytes of a PNG file: the static form."""
        return figure_png(self.figure(key, by, **rule), dpi=100)

    def widget(self) -> Any:
        """The live form (`ipywidgets.VBox`): ranked tensors, the rule and the range to try, histogram and numbers."""
        by = widgets.Dropdown(options=list(RANKS), description="rank by")
        tensor = widgets.Select(options=self._options(by.value), rows=14, layout=widgets.Layout(width="430px"))
        precision = widgets.Dropdown(options=PRECISIONS, description="precision")
        observer = widgets.Dropdown(options=[("as it is", ""), *((o, o) for o in OBSERVERS)], description="observer")
        span = widgets.FloatSlider(
            0.0, min=-_DOUBLINGS, max=_DOUBLINGS, step=0.125, description="range × 2^", continuous_update=False
        )
        words = widgets.HTML()

        def draw() -> bytes:
            key, rule = tensor.value, {"precision": precision.value, "observer": observer.value}
            try:
                trial = self.try_grid(key, **rule)
                if trial.grid is not None and span.value:
                    reach = trial.grid.scale * trial.grid.high * 2**span.value
                    trial = self.try_grid(key, precision=precision.value, reach=reach)
                told = self.describe(trial)
            except UserError as error:
                trial, told = Trial(key, whatif.grid_of(self.quantised, key), self.now), str(error)
            words.value = f"<pre>{html.escape(told)}</pre>"
            return jpeg(self.picture(trial))

        def rank(_: object) -> None:
            kept = tensor.value
            tensor.options = self._options(by.value)
            tensor.value = kept

        by.observe(rank, names="value")
        picture = live_picture(draw, tensor, precision, observer, span, format="jpeg")
        rules = widgets.HBox([by, precision, observer, span])
        return Live([rules, widgets.HBox([tensor, widgets.VBox([picture, words])])], "QuantExplorer")

    def _options(self, by: str) -> Sequence[tuple[str, Key]]:
        rows = ((key, self.found[key].row) for key in self.ranked(by))
        return [(f"{row.fake_sqnr_db:6.1f} dB  {row.name}", key) for key, row in rows]
