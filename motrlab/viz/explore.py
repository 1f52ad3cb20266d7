"""Widgets to explore with: the tracks of a run's stages frame by frame, and the terms of a training's loss.

Each has `widget()` for a live notebook and `png(...)`, the same picture as a file's bytes, for pages that have no
kernel behind them. Pictures are drawn with `Figure`, never pyplot. What moves in a live one is painted with OpenCV on
pictures that are drawn once (`raster.py`): a step takes milliseconds, `benchmarks/explorers.py` prints how many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import cv2
import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from motrlab.data.pictures import Image
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tracks import read_tracks
from motrlab.names import STAGE_TITLES
from motrlab.run import Run
from motrlab.training.curve import loss_terms
from motrlab.viz.curves import COLOURS, TERM_TITLES, figure_png, loss_curves, panels, read_columns
from motrlab.viz.raster import Raster, beside, bgr, caption, jpeg, stacked
from motrlab.viz.track_view import MISTAKES, Shown, TrackView

_PANE_PX = {1: 800, 2: 560}  # width of a picture, alone or one of two
_CACHED_FRAMES = 64


class Live(widgets.VBox):  # type: ignore[misc]
    """What a `widget()` gives. Its text, which a page shows that has no kernel behind it, says what belongs there."""

    def __init__(self, children: Sequence[Any], name: str) -> None:
        super().__init__(children)
        self._told = f"{name}: moves in Jupyter only; `png()` gives its static form"

    def __repr__(self) -> str:
        return self._told


class TrackExplorer:
    """Frames of the test halves with the tracks of one stage over them, or of two side by side.

    `beside`: the second stage. `protocol`: which mistakes count. Raises UserError where the run has no tracks.
    """

    def __init__(
        self,
        run: Run,
        stage: str = "fixed_point",
        sequence: str = "",
        *,
        beside: str = "",
        protocol: str = PROTOCOLS[0],
    ) -> None:
        self.run, self.protocol = run, check_protocol(protocol)
        self.store = FrameStore(run.data / "test_lmdb")
        self._frame = lru_cache(_CACHED_FRAMES)(self._decoded)
        self.show_stages(stage, beside, sequence)

    def show_stages(self, stage: str, beside: str = "", sequence: str = "") -> None:
        """Go over to another stage, or to two. Raises UserError where one has no tracks, or none of `sequence`."""
        self.stages = (stage, beside) if beside else (stage,)
        packed = [info.name for info in self.store.sequences]
        self._files = {each: self._track_files(each) for each in self.stages}
        self.sequences = [name for name in packed if all(name in files for files in self._files.values())]
        if not self.sequences:
            raise UserError(
                f"{self.run.tracks(stage)}: tracks of none of {', '.join(packed)}; evaluate the stage again"
            )
        self.select(sequence or self.sequences[0])

    def _track_files(self, stage: str) -> dict[str, Any]:
        files = {file.stem: file for file in sorted(self.run.tracks(stage).glob("*.txt"))}
        if not files:
            command = f"python -m motrlab evaluate --run {self.run.name} --stage {stage}"
            raise UserError(f"{self.run.tracks(stage)}: no tracks; run `{command}`")
        return files

    @property
    def known_stages(self) -> list[str]:
        """Those that the run has tracks of."""
        return [stage for stage in STAGE_TITLES if any(self.run.tracks(stage).glob("*.txt"))]

    def select(self, sequence: str) -> None:
        """Go over to another sequence. Raises UserError if a stage has no tracks of it."""
        if sequence not in self.sequences:
            raise UserError(f"no tracks of {sequence!r}; there are {', '.join(self.sequences)}")
        self.sequence, info = sequence, self.store.info(sequence)
        self.num_frames = info.num_frames
        gt, tracked = self.store.annotations(sequence), info.tracked
        tracks = {stage: read_tracks(self._files[stage][sequence], tracked) for stage in self.stages}
        self.views = [TrackView(stage, found, gt, self.protocol, tracked) for stage, found in tracks.items()]
        self._pane = _PANE_PX[len(self.stages)]
        self._scale = self._pane / info.width
        self.__dict__.pop("_strip", None)

    def _decoded(self, sequence: str, frame: int, width: int) -> Image:
        """A frame in the width of a pane, decoded no larger than needed."""
        reduce = next(r for r in (8, 4, 2, 1) if r == 1 or self.store.info(sequence).width >= r * width)
        image = self.store.image(sequence, frame, reduce)
        height = round(width * image.shape[0] / image.shape[1])
        way = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)

    def image(self, frame: int, **shown: Any) -> Image:
        """Frame number `frame` (from 1) as each stage sees it, side by side; BGR. `shown`: fields of `Shown`."""
        if not 1 <= frame <= self.num_frames:
            raise UserError(f"frame {frame}: {self.sequence} has frames 1 to {self.num_frames}")
        image, what = self._frame(self.sequence, frame, self._pane), Shown(**shown)
        return beside([view.draw(image, frame, what, self._scale) for view in self.views])

    def jpeg(self, frame: int, **shown: Any) -> bytes:
        """`image` under the names of the stages, and below it the people and the mistakes of all frames: what the
        widget shows."""
        names = beside([caption(STAGE_TITLES[stage], self._pane) for stage in self.stages])
        strip = self._strip.with_line(frame, bgr(COLOURS[3]))
        return jpeg(stacked([names, self.image(frame, **shown), strip]))

    def next_error(self, frame: int) -> int | None:
        """The first frame after `frame`, of any stage, with a mistake; behind the last the first; None without any."""
        wrong = np.unique(np.concatenate([view.wrong_frames for view in self.views]))
        later = wrong[wrong > frame]
        return int(later[0] if len(later) else wrong[0]) if len(wrong) else None

    def describe(self, frame: int) -> str:
        """The numbers behind a frame's picture, one line."""
        told = []
        for view in self.views:
            counts = view.counts(frame)
            misses, false, switches = counts["miss"], counts["false"], counts["switch"]
            told.append(f"{view.stage}: {misses} missed, {false} false, {switches} switched")
        return f"{self.sequence}, frame {frame} of {self.num_frames}. " + "; ".join(told)

    def figure(self, frame: int, **shown: Any) -> Figure:
        """The frame, and below it how many people were found in each frame of the sequence, and the mistakes."""
        image = self.image(frame, **shown)
        height = 8.0 * image.shape[0] / image.shape[1]
        figure, (above, below) = panels(8.0, height + 1.8, rows=2, grid="", height_ratios=(height, 1.5))
        above.imshow(image[..., ::-1])
        above.set_axis_off()
        what = ", ".join(words for _, words in MISTAKES.values()) if shown.get("errors_only") else "white: ground truth"
        stages = " | ".join(STAGE_TITLES[stage] for stage in self.stages)
        place = f"{self.sequence}, frame {frame} of {self.num_frames}"
        above.set_title(f"{place}: {stages}; {what}", loc="left", fontsize=9)
        self._timeline(below)
        below.axvline(frame, color=COLOURS[3], linewidth=1.5)
        return figure

    def _timeline(self, ax: Axes) -> None:
        frames, gt = np.arange(1, self.num_frames + 1), self.views[0].gt.counted(self.views[0].classes)
        rows = [(gt.frame, "ground truth", COLOURS[6], ":")]
        rows += [(v.tracks.frame, STAGE_TITLES[v.stage], COLOURS[2 * i], "-") for i, v in enumerate(self.views)]
        highest = 1
        for counted, label, colour, dash in rows:
            counts = np.bincount(counted, minlength=self.num_frames + 1)[1 : self.num_frames + 1]
            highest = max(highest, int(counts.max()))
            ax.step(frames, counts, where="mid", color=colour, linestyle=dash, linewidth=1.2, label=label)
        for i, view in enumerate(self.views):
            for kind, (wrong, *_) in view.mistakes.items():
                height = np.full(len(wrong), -0.16 * highest * (i + 1))
                mark = {"miss": "|", "false": "x", "switch": "D"}[kind]
                ax.plot(
                    wrong, height, mark, color=MISTAKES[kind][0], markersize=4, label="" if i else MISTAKES[kind][1]
                )
        ax.set_xlabel("frame", fontsize=8)
        ax.set_ylabel("people", fontsize=8)
        ax.set(xlim=(0.5, self.num_frames + 0.5), ylim=(-0.16 * highest * (len(self.views) + 1), 1.6 * highest))
        ax.legend(frameon=False, fontsize=7, ncols=6, loc="upper right")

    @cached_property
    def _strip(self) -> Raster:
        width = self._pane * len(self.stages) + 6 * (len(self.stages) - 1)
        figure, (ax,) = panels(width / 100, 1.6, grid="")
        self._timeline(ax)
        return Raster.of(figure)

    def png(self, frame: int, **shown: Any) -> bytes:
        """`figure` as the bytes of a PNG file: the static form."""
        return figure_png(self.figure(frame, **shown), dpi=100)

    def widget(self) -> Any:
        """The live form (`ipywidgets.VBox`): what to show, play and a frame slider, "next error", the picture."""
        chosen = widgets.Dropdown(options=self.sequences, value=self.sequence, description="sequence")
        slider = widgets.IntSlider(1, 1, self.num_frames, description="frame", continuous_update=False)
        play = widgets.Play(value=1, min=1, max=self.num_frames, interval=200)
        widgets.jslink((play, "value"), (slider, "value"))
        gt, trails = widgets.Checkbox(True, description="ground truth"), widgets.Checkbox(True, description="trails")
        errors = widgets.Checkbox(False, description="errors only")
        stages = [widgets.Dropdown(options=self.known_stages, value=self.stages[0], description="stage")]
        options = ["", *self.known_stages]
        stages += [widgets.Dropdown(options=options, value=[*self.stages, ""][1], description="beside")]
        ids = widgets.Text("", description="ids", placeholder="all, or such as 3, 7")
        onward = widgets.Button(description="next error")
        words = widgets.HTML()

        def change_sequence(change: Mapping[str, Any]) -> None:
            self.select(change["new"])
            slider.max = play.max = self.num_frames  # clips a frame beyond the end

        def change_stages(_: object) -> None:
            self.show_stages(stages[0].value, stages[1].value, self.sequence)

        def next_error(_: object) -> None:
            slider.value = self.next_error(slider.value) or slider.value

        def draw() -> bytes:
            words.value = self.describe(slider.value)
            some = tuple(int(word) for word in ids.value.replace(",", " ").split() if word.isdigit())
            what = {"gt": gt.value, "trails": trails.value, "errors_only": errors.value, "ids": some}
            return self.jpeg(slider.value, **what)

        chosen.observe(change_sequence, names="value")
        for dropdown in stages:
            dropdown.observe(change_stages, names="value")
        onward.on_click(next_error)
        picture = live_picture(draw, chosen, *stages, slider, gt, trails, errors, ids, format="jpeg")
        rows = [widgets.HBox([chosen, play, slider, onward]), widgets.HBox([*stages, gt, trails, errors, ids])]
        return Live([*rows, picture, words], "TrackExplorer")


class LossExplorer:
    """The terms of a training's loss, chosen and smoothed at will. `columns` holds `step` and one list per term."""

    def __init__(self, columns: Mapping[str, Sequence[float]], title: str = "") -> None:
        self.columns, self.title = columns, title
        self.terms = loss_terms(columns)
        if "step" not in columns or not self.terms:
            raise UserError(f"loss table has columns {', '.join(columns) or 'none'}: needs step and at least one term")

    @staticmethod
    def of_run(run: Run, stage: str = "float") -> LossExplorer:
        """From `assets/STAGE_loss.csv`. Raises UserError if the stage has not been trained."""
        path = run.assets / f"{stage}_loss.csv"
        if not path.is_file():
            raise UserError(f"{path}: no losses of stage {stage!r}; train it first")
        return LossExplorer(read_columns(path), title=f"{STAGE_TITLES[stage]}, run {run.name}: training")

    @property
    def _longest(self) -> int:
        return max(2, len(self.columns["step"]) // 4)

    def png(self, terms: Sequence[str] = (), window: int = 1, *, log: bool = False) -> bytes:
        """The chosen terms (all if none) with their trailing mean over `window` points, at most a quarter of the curve:
        the static form."""
        unknown = [name for name in terms if name not in self.terms]
        if unknown:
            raise UserError(f"no loss term {unknown[0]!r}; there are {', '.join(self.terms)}")
        chosen = {name: self.columns[name] for name in terms or self.terms}
        window = min(window, self._longest)
        return figure_png(loss_curves(self.columns["step"], chosen, title=self.title, window=window, log=log), dpi=100)

    def widget(self) -> Any:
        """A list of terms, a smoothing slider and a switch for the log scale over the picture (`ipywidgets.VBox`)."""
        named = [(TERM_TITLES.get(name, name), name) for name in self.terms]
        terms = widgets.SelectMultiple(options=named, value=self.terms, description="terms")
        window = widgets.IntSlider(1, 1, self._longest, description="mean over", continuous_update=False)
        log = widgets.Checkbox(False, description="log scale")
        picture = live_picture(lambda: self.png(terms.value, window.value, log=log.value), terms, window, log)
        return Live([widgets.HBox([terms, widgets.VBox([window, log])]), picture], "LossExplorer")


def live_picture(draw: Callable[[], bytes], *controls: Any, format: str = "png") -> Any:
    """`widgets.Image` of what `draw` gives, drawn again whenever one of the controls changes."""
    picture = widgets.Image(format=format)

    def redraw(_: object = None) -> None:
        picture.value = draw()

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    return picture
