"""Drawings of how the tracker works, with the shapes of a config: one or more for each notebook.

A drawing is data: boxes on a grid, arrows between them. Colours say what a box is. Those of `street` are in the docs:

    python -m motrlab.viz.drawings docs/drawings
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from motrlab.config import Config, ModelConfig, street
from motrlab.files import write_text
from motrlab.viz.curves import COLOURS, INK

_KINDS = {
    "graph": (COLOURS[0], "network graph"),
    "host": (COLOURS[1], "host, NumPy"),
    "data": (COLOURS[2], "data"),
    "integer": (COLOURS[3], "integer function"),
    "train": (COLOURS[4], "training only"),
    "program": (COLOURS[7], "program"),
}
_WIDTH, _HEIGHT = 0.86, 0.62  # of a box, in cells of the grid


@dataclass(frozen=True)
class Box:
    """`at`: column and row, from the top left; `kind`: a key of `_KINDS`; `text` of a few short lines."""

    at: tuple[float, float]
    kind: str
    text: str


def draw(boxes: Mapping[str, Box], arrows: str, title: str) -> Figure:
    """Boxes and arrows as a figure, with a legend of the kinds that occur; arrows as in "a > b, b > c: label"."""
    columns = max(box.at[0] for box in boxes.values()) + 1
    rows = max(box.at[1] for box in boxes.values()) + 1
    figure = Figure(figsize=(1.75 * columns, 0.95 * rows + 0.7), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xlim(-0.55, columns - 0.45)
    axes.set_ylim(rows - 0.45, -0.6)
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    for box in boxes.values():
        _draw_box(axes, box)
    for arrow in arrows.split(", "):
        ends, _, label = arrow.partition(": ")
        first, second = ends.split(" > ")
        _draw_arrow(axes, boxes[first].at, boxes[second].at, label)
    for kind in dict.fromkeys(box.kind for box in boxes.values()):
        axes.scatter([], [], marker="s", s=70, color=_KINDS[kind][0], alpha=0.35, label=_KINDS[kind][1])
    figure.legend(loc="outside lower left", ncols=5, frameon=False, fontsize=8)
    return figure


def _draw_box(axes: Axes, box: Box) -> None:
    (x, y), colour = box.at, _KINDS[box.kind][0]
    corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
    style: Any = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.1, "edgecolor": colour}
    axes.add_patch(FancyBboxPatch(corner, _WIDTH, _HEIGHT, facecolor=f"{colour}22", **style))
    axes.text(x, y, box.text, ha="center", va="center", fontsize=7.5, color=INK, linespacing=1.25)


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], label: str) -> None:
    (x0, y0), (x1, y1) = start, end
    across = abs(x1 - x0) > 0.5
    if across:
        sign = 1 if x1 > x0 else -1
        tail, head = (x0 + sign * _WIDTH / 2, y0), (x1 - sign * _WIDTH / 2, y1)
    else:
        sign = 1 if y1 > y0 else -1
        tail, head = (x0, y0 + sign * _HEIGHT / 2), (x1, y1 - sign * _HEIGHT / 2)
    axes.add_patch(FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=9, linewidth=1, color=INK))
    if label:
        middle = ((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2)
        offset = (0, -0.08) if across else (0.05, 0)
        place: Any = {"ha": "center", "va": "bottom"} if across else {"ha": "left", "va": "center"}
        axes.text(middle[0] + offset[0], middle[1] + offset[1], label, fontsize=6.5, color=INK, **place)


def _slots(model: ModelConfig, num: int) -> str:
    """Shape of the embeddings of `num` slots: channels, rows, columns."""
    return f"{model.d_model}×{num // model.slot_columns}×{model.slot_columns}"


def frame_loop(config: Config) -> Figure:
    """One frame after the other: what goes into the two graphs, what the tracker decides, what comes back."""
    m = config.model
    state = f"1×{_slots(m, m.num_track)}"
    boxes = {
        "image": Box((0, 0), "data", f"image\n1×3×{m.height}×{m.width}\nYUV"),
        "base": Box((1.3, 0), "graph", f"base graph\n{m.num_detect} detect +\n{m.num_track} track slots"),
        "out": Box((2.6, 0), "data", f"scores, boxes\nof {m.num_slots} slots\nembedding {m.d_model}"),
        "tracker": Box((3.9, 0), "host", "tracker\nborn, kept, ended\nslots chosen"),
        "tracks": Box((5.2, 0), "data", "tracks\nid, box, score"),
        "qim": Box((3.9, 1.3), "graph", f"QIM\n{m.num_track} slots"),
        "state": Box((1.3, 1.3), "data", f"track query {state}\nmask 1×1×1×{m.num_track}\nreference boxes"),
    }
    arrows = (
        "image > base, base > out, out > tracker, tracker > tracks: written, "
        "tracker > qim: embeddings of live slots, qim > state: next queries, state > base: next frame"
    )
    return draw(boxes, arrows, "The frame loop")


def query_life(config: Config) -> Figure:
    """What becomes of one query, from a detect slot to the end of its track (MOTR, arXiv 2105.03247, section 3)."""
    m, rules = config.model, config.tracker
    decoder = f"{m.decoder_layers} decoder layers\n1×{_slots(m, m.num_slots)}\nsee image and slots"
    boxes = {
        "detect": Box((0, 0), "data", f"detect queries\n{m.num_detect}×{m.d_model}, learned"),
        "decoder": Box((1.3, 0), "graph", decoder),
        "kept": Box((2.6, 0), "host", f"kept\nscore ≥ {rules.miss_score:g}"),
        "ended": Box((3.9, 0), "host", f"ended\nafter {rules.max_misses} misses\n(score < {rules.miss_score:g})"),
        "born": Box((2.6, 1.05), "host", f"born\nscore ≥ {rules.birth_score:g}\nin a free slot"),
        "track": Box((1.3, 1.95), "data", f"track queries\n1×{_slots(m, m.num_track)}\nown ids"),
        "qim": Box((3.9, 1.95), "graph", f"QIM\n1×{m.d_model}×1×{m.num_track}\n→ next queries"),
    }  # fmt: skip
    arrows = (
        "detect > decoder, decoder > kept, decoder > born, kept > ended, kept > qim, born > qim, qim > track, "
        "track > decoder: next frame"
    )
    return draw(boxes, arrows, "The life of a query")


def training_clip(config: Config) -> Figure:
    """Who is supervised by what in a clip, and what only training has."""
    m, train = config.model, config.train
    loss = f"loss of {m.decoder_layers} layers\nlogits {m.num_slots}×{m.num_classes}, boxes ×4\nfocal 2, L1 5, GIoU 2"
    keep = f"{m.num_track} track slots\nkeep their people\nwhile IoU > {train.keep_iou:g}"
    boxes = {
        "first": Box((0, 0), "data", f"frame 1\n3×{m.height}×{m.width}\nall people are new"),
        "match": Box((1.3, 0), "host", f"Hungarian matching\nnew people ×\n{m.num_detect} detect slots"),
        "loss": Box((2.6, 0.62), "graph", loss),
        "next": Box((0, 1.25), "data", f"frames 2 to {train.clip_frames[-1]}\nqueries carried on"),
        "keep": Box((1.3, 1.25), "host", keep),
        "extra": Box((2.6, 1.7), "train", "dropped tracks,\nfalse positives,\ndenoising slots"),
        "sum": Box((3.9, 0.62), "graph", "sum of the clip /\nits people\n→ one gradient"),
    }  # fmt: skip
    arrows = (
        "first > match, first > next, next > match, next > keep, match > loss, keep > loss, extra > loss, loss > sum"
    )
    return draw(boxes, arrows, "What a clip teaches")


def quantisers(config: Config) -> Figure:
    """Where tensors go onto their grids, in one layer of the decoder and at the ends."""
    m, bits, levels = config.model, config.scheme.weight_bits, config.scheme.levels
    image, slots = f"1×3×{m.height}×{m.width}", f"1×{_slots(m, m.num_slots)}"
    stem = f"1×{m.stem_channels}×{-(-m.height // 2)}×{-(-m.width // 2)}"
    boxes = {
        "image": Box((0, 0), "data", f"image bytes\n{image}\nscale 1/128, fixed"),
        "conv": Box((1.25, 0), "graph", f"convolution\nint8 × int{bits}\n→ int32 sums"),
        "relu": Box((2.5, 0), "data", f"after a ReLU\n{stem}\n0 to {levels}, observed"),
        "norm": Box((3.75, 0), "integer", "LayerNorm of a sum\nnine bits inside"),
        "token": Box((5, 0), "data", f"tokens\n{slots}\n−128 to 127, observed"),
        "qk": Box((5, 1.25), "graph", f"query · key, int8\n{m.num_heads}×{m.num_slots}×{m.num_slots}"),
        "soft": Box((3.75, 1.25), "integer", "softmax\nlogits in 1/16,\na table of exp"),
        "box": Box(
            (2.5, 1.25), "integer", f"boxes\n1×4×{m.num_slots // m.slot_columns}×{m.slot_columns}\nint16, 1/16384"
        ),
        "state": Box((1.25, 1.25), "data", f"next queries\n1×{_slots(m, m.num_track)}\non the base's grid"),
    }
    arrows = "image > conv, conv > relu, relu > norm, norm > token, token > qk, qk > soft, soft > box, box > state: QIM"
    return draw(boxes, arrows, "Where the grids are")


def integer_forms(config: Config) -> Figure:
    """One description of the network, several interpreters; which of them give the same bits."""
    m, bits = config.model, config.scheme.weight_bits
    model = f"base.py, qim.py\nimage 3×{m.height}×{m.width},\n{m.num_slots} slots of {m.d_model}"
    functions = f"functions.py\nsums of int8 × int{bits}\nbelow 2²⁴, tables"
    boxes = {
        "model": Box((0, 0.65), "graph", model),
        "functions": Box((1.4, 1.6), "integer", functions),
        "torch": Box((2.8, 0), "program", "PyTorch\nQAT, evaluation"),
        "kernels": Box((2.8, 0.9), "program", "*.ort.onnx\nONNX Runtime's\ninteger kernels"),
        "plain": Box((2.8, 1.8), "program", "plain operators\nOpenVINO"),
        "tracks": Box((4.2, 0.9), "data", f"≤ {m.num_track} tracks a frame;\nfiles equal\nbyte for byte"),
    }  # fmt: skip
    arrows = (
        "model > torch, model > kernels, functions > torch, functions > kernels, "
        "kernels > plain: when loaded, torch > tracks, kernels > tracks, plain > tracks"
    )
    return draw(boxes, arrows, "One definition, three programs, the same bits")


def halves(config: Config) -> Figure:
    """From a folder of videos to the packed halves."""
    frames = " / ".join(map(str, config.train.clip_frames))
    boxes = {
        "video": Box((0, 0.6), "data", "video\nimg1/, gt/gt.txt\nseqinfo.ini"),
        "check": Box((1.3, 0.6), "host", "check\nframes, rows,\nclasses, flags"),
        "train": Box((2.6, 0), "data", "first half\ntrain_lmdb"),
        "test": Box((2.6, 1.2), "data", "second half\ntest_lmdb, test_gt\nframes from 1 again"),
        "clip": Box((3.9, 0), "host", f"clips of {frames} frames\none random choice\na clip"),
        "input": Box((5.2, 0), "data", f"network input\n3×{config.model.height}×{config.model.width}"),
        "metric": Box((3.9, 1.2), "host", "evaluation\nevery frame"),
    }  # fmt: skip
    arrows = "video > check, check > train, check > test, train > clip, clip > input, test > metric"
    return draw(boxes, arrows, "From videos to clips")


def qat_step(config: Config) -> Figure:
    """How a step of QAT goes forwards and backwards, and what ends the training."""
    m, qat = config.model, config.qat
    clip = f"clip of {qat.clip_frames} frames\n{qat.clip_frames}×3×{m.height}×{m.width}"
    boxes = {
        "clip": Box((0, 0), "data", clip),
        "product": Box((1.3, 0), "graph", "product\nfloat weights"),
        "grid": Box((2.6, 0), "integer", "activation grid\nround, clip to\n−128 to 127"),
        "loss": Box((3.9, 0), "train", "loss\nas in float training"),
        "weights": Box((1.3, 1.25), "data", "weights\nin float"),
        "slope": Box((3.9, 1.25), "train", "gradient\n1 inside the grid,\n0 outside"),
        "rounded": Box((0, 1.25), "integer", f"int{config.scheme.weight_bits} weights\nadaptive rounding"),
    }  # fmt: skip
    arrows = (
        "clip > product, product > grid, grid > loss, loss > slope: backwards, slope > weights: update, "
        "weights > product, weights > rounded: at the end"
    )
    return draw(boxes, arrows, "A step of QAT")


def tracker_rules(config: Config) -> Figure:
    """What the tracker decides in one frame, on arrays with a row for each slot."""
    m, rules = config.model, config.tracker
    suppress = "off" if rules.suppress_iou is None else f"IoU > {rules.suppress_iou:g}"
    boxes = {
        "out": Box((0, 0.62), "data", f"scores {m.num_slots}\nboxes {m.num_slots}×4"),
        "seen": Box((1.3, 0), "host", f"{m.num_track} track slots\nseen: score ≥ {rules.miss_score:g}"),
        "new": Box((1.3, 1.25), "host", f"{m.num_detect} detect slots\nnew: score ≥ {rules.birth_score:g}"),
        "ended": Box((2.6, 0), "host", f"not seen: a miss\n{rules.max_misses} misses:\nthe track ends"),
        "double": Box((2.6, 1.25), "host", f"duplicates removed\n{suppress}"),
        "next": Box((3.9, 0.62), "host", f"slots of the next\nframe: {m.num_track} indices"),
        "ids": Box(
            (5.2, 0), "host", f"ids corrected\nby colours:\n{'on' if rules.coast and rules.appearance else 'off'}"
        ),
        "written": Box((5.2, 1.25), "data", f"boxes written\nscore > {rules.output_score:g}"),
    }
    arrows = "out > seen, out > new, seen > ended, new > double, ended > next, double > next, next > ids, ids > written"
    return draw(boxes, arrows, "What the tracker decides")


def from_records(config: Config) -> Figure:
    """From the stages of a run to the pages of its report."""
    boxes = {
        "stages": Box((0, 0.62), "program", f"stages of a run\npreset {config.preset},\nseed {config.seed}"),
        "records": Box((1.3, 0.62), "data", "records.jsonl\nmetrics, versions,\nmade_from"),
        "count": Box((2.6, 0.62), "program", "does it count?\nmade_from is still\nin the folder"),
        "verdict": Box((3.9, 0), "data", "index.html\nbudgets met or not"),
        "pages": Box((3.9, 1.25), "data", "accuracy, latency,\nquantization,\ntraining"),
        "compare": Box((5.2, 0.62), "data", "compare\nruns side by side"),
    }
    arrows = (
        "stages > records, records > count, count > verdict, count > pages: why, verdict > compare, pages > compare"
    )
    return draw(boxes, arrows, "From records to pages")


DRAWINGS: Mapping[str, Callable[[Config], Figure]] = {
    "halves": halves,
    "frame_loop": frame_loop,
    "query_life": query_life,
    "training_clip": training_clip,
    "quantisers": quantisers,
    "qat_step": qat_step,
    "integer_forms": integer_forms,
    "tracker_rules": tracker_rules,
    "from_records": from_records,
}


def write_drawings(folder: Path, config: Config) -> list[Path]:
    """Every drawing as `folder/NAME.svg`, with its text as text; the same bytes from the same matplotlib."""
    paths = []
    for name, drawing in DRAWINGS.items():
        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
            drawing(config).savefig(file, format="svg", metadata={"Date": None})
        paths.append(folder / f"{name}.svg")
        write_text(paths[-1], file.getvalue())
    return paths


if __name__ == "__main__":
    print(*write_drawings(Path(sys.argv[1]), street()), sep="\n")
