"""Widgets to explore with: the tracks of a stage frame by frame, and the terms of a training's loss.

Each has `widget()` for a live notebook and `png(...)`, the same picture as a file's bytes, for pages that have no
kernel behind them. Pictures are drawn with `Figure`, never pyplot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, read_tracks
from motrlab.run import Run
from motrlab.viz.curves import COLOURS, figure_png, loss_curves, panels, read_columns
from motrlab.viz.overlay import draw_frame, tracks_of_frame, trails_until

_NOT_LOSSES = ("step", "lr", "grad_norm")


class TrackExplorer:
    """Frames of the test halves with a stage's tracks over them. Raises UserError where the run has none."""

    def __init__(self, run: Run, stage: str = "fixed_point", sequence: str = "") -> None:
        files = {file.stem: file for file in sorted(run.tracks(stage).glob("*.txt"))}
        if not files:
            command = f"python -m motrlab evaluate --run {run.name} --stage {stage}"
            raise UserError(f"{run.tracks(stage)}: no tracks; run `{command}`")
        self.stage, self.store = stage, FrameStore(run.data / "test_lmdb")
        packed = [info.name for info in self.store.sequences]
        self.sequences = [name for name in packed if name in files]
        if not self.sequences:
            raise UserError(f"{run.tracks(stage)}: tracks of none of {', '.join(packed)}; evaluate the stage again")
        self._files = files
        self.select(sequence or self.sequences[0])

    def select(self, sequence: str) -> None:
        """Go over to another sequence. Raises UserError if the stage has no tracks of it."""
        if sequence not in self.sequences:
            raise UserError(f"no tracks of {sequence!r}; there are {', '.join(self.sequences)}")
        self.sequence = sequence
        self.num_frames = self.store.info(sequence).num_frames
        self.tracks: Tracks = read_tracks(self._files[sequence])
        self._gt = self.store.annotations(sequence).people

    def image(self, frame: int) -> NDArray[np.uint8]:
        """Frame number `frame` (from 1) with boxes, ids and trails; BGR."""
        if not 1 <= frame <= self.num_frames:
            raise UserError(f"frame {frame}: {self.sequence} has frames 1 to {self.num_frames}")
        return draw_frame(
            self.store.image(self.sequence, frame),
            tracks_of_frame(self.tracks, frame),
            trails_until(self.tracks, frame),
            gt=self._gt.ltwh[self._gt.frame == frame],
        )

    def figure(self, frame: int) -> Figure:
        """The frame, and below it how many people were found in each frame of the sequence."""
        image = self.image(frame)
        height = 8.0 * image.shape[0] / image.shape[1]
        figure, (above, below) = panels(8.0, height + 1.5, rows=2, grid="", height_ratios=(height, 1.2))
        above.imshow(image[..., ::-1])
        above.set_axis_off()
        shown = f"{self.sequence}, frame {frame} of {self.num_frames}"
        above.set_title(f"{shown}: {self.stage} tracks, white: ground truth", loc="left", fontsize=9)
        self._timeline(below, frame)
        return figure

    def _timeline(self, ax: Axes, frame: int) -> None:
        frames = np.arange(1, self.num_frames + 1)
        for counted, label, colour, dash in (
            (self._gt.frame, "ground truth", COLOURS[6], ":"),
            (self.tracks.frame, "tracks", COLOURS[0], "-"),
        ):
            counts = np.bincount(counted, minlength=self.num_frames + 1)[1 : self.num_frames + 1]
            ax.step(frames, counts, where="mid", color=colour, linestyle=dash, linewidth=1.2, label=label)
        ax.axvline(frame, color=COLOURS[3], linewidth=1.5)
        ax.set_xlabel("frame", fontsize=8)
        ax.set_ylabel("people", fontsize=8)
        ax.set(xlim=(0.5, self.num_frames + 0.5), ylim=(0, None))
        ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")

    def png(self, frame: int) -> bytes:
        """`figure` as the bytes of a PNG file: the static form."""
        return figure_png(self.figure(frame), dpi=100)

    def widget(self) -> Any:
        """A sequence list, a play button and a frame slider over the picture (`ipywidgets.VBox`)."""
        chosen = widgets.Dropdown(options=self.sequences, value=self.sequence, description="sequence")
        slider = widgets.IntSlider(1, 1, self.num_frames, description="frame", continuous_update=False)
        play = widgets.Play(value=1, min=1, max=self.num_frames, interval=200)
        widgets.jslink((play, "value"), (slider, "value"))

        def change_sequence(change: Mapping[str, Any]) -> None:
            self.select(change["new"])
            slider.max = play.max = self.num_frames  # clips a frame beyond the end

        chosen.observe(change_sequence, names="value")
        picture = _live_picture(lambda: self.png(slider.value), chosen, slider)
        return widgets.VBox([widgets.HBox([chosen, play, slider]), picture])


class LossExplorer:
    """The terms of a training's loss, chosen and smoothed at will. `columns` holds `step` and one list per term."""

    def __init__(self, columns: Mapping[str, Sequence[float]], title: str = "") -> None:
        self.columns, self.title = columns, title
        self.terms = [name for name in columns if name not in _NOT_LOSSES]
        if "step" not in columns or not self.terms:
            raise UserError(f"loss table has columns {', '.join(columns) or 'none'}: needs step and at least one term")

    @staticmethod
    def of_run(run: Run, stage: str = "float") -> "LossExplorer":
        """From `assets/STAGE_loss.csv`. Raises UserError if the stage has not been trained."""
        path = run.assets / f"{stage}_loss.csv"
        if not path.is_file():
            raise UserError(f"{path}: no losses of stage {stage!r}; train it first")
        return LossExplorer(read_columns(path), title=f"{stage} training of run {run.name}")

    def png(self, terms: Sequence[str] = (), window: int = 1, *, log: bool = False) -> bytes:
        """The chosen terms (all if none) with their trailing mean over `window` points: the static form."""
        unknown = [name for name in terms if name not in self.terms]
        if unknown:
            raise UserError(f"no loss term {unknown[0]!r}; there are {', '.join(self.terms)}")
        chosen = {name: self.columns[name] for name in terms or self.terms}
        return figure_png(loss_curves(self.columns["step"], chosen, title=self.title, window=window, log=log), dpi=100)

    def widget(self) -> Any:
        """A list of terms, a smoothing slider and a switch for the log scale over the picture (`ipywidgets.VBox`)."""
        terms = widgets.SelectMultiple(options=self.terms, value=self.terms, description="terms")
        longest = max(2, len(self.columns["step"]) // 4)
        window = widgets.IntSlider(1, 1, longest, description="mean over", continuous_update=False)
        log = widgets.Checkbox(False, description="log scale")
        picture = _live_picture(lambda: self.png(terms.value, window.value, log=log.value), terms, window, log)
        return widgets.VBox([widgets.HBox([terms, widgets.VBox([window, log])]), picture])


def _live_picture(draw: Callable[[], bytes], *controls: Any) -> Any:
    """`widgets.Image` of what `draw` gives, drawn again whenever one of the controls changes."""
    picture = widgets.Image(format="png")

    def redraw(_: object = None) -> None:
        picture.value = draw()

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    return picture
