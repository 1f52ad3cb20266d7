"""Records and their assets → pictures that a page can carry: drawn here, or made small enough."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from motrlab.report.tables import (
    COMPARED,
    METRIC_NAMES,
    STAGE_NAMES,
    STAGES,
    Record,
    last,
    medians,
    overall,
)
from motrlab.viz.curves import accuracy_bars, figure_png, latency_bars, loss_curves, read_columns

# Bytes for all pictures of frames together: a third more as base64, and charts and text beside them, stay below 2 MB.
FRAME_BUDGET = 1_000_000
MAX_FRAMES = 8
_WIDTHS = (1280, 1000, 800, 640, 480, 320)  # tried in turn until a picture fits
_JPEG_QUALITY = 82
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_LOSS_TERMS = ("loss", "total", "class", "l1", "giou", "clip", "aux")


@dataclass(frozen=True)
class Picture:
    """`data` holds a PNG or JPEG file; `caption` says in a sentence what is to be seen."""

    data: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


def _drawn(figure: Figure, alt: str, caption: str) -> Picture:
    return Picture(figure_png(figure), alt, caption)


def accuracy_picture(records: Sequence[Record], protocol: str) -> Picture | None:
    """MOTA, IDF1 and HOTA by stage; None unless a stage has been evaluated."""
    found = {s: overall(r, protocol) for s in STAGES if (r := last(records, s, "accuracy"))}
    found = {stage: metrics for stage, metrics in found.items() if metrics}
    if not found:
        return None
    names = [STAGE_NAMES[s] for s in found]
    values = {METRIC_NAMES[m]: [metrics.get(m, float("nan")) for metrics in found.values()] for m in COMPARED}
    told = "; ".join(
        f"{name} {', '.join(f'{100 * v:.1f}' for v in series if not np.isnan(v))}" for name, series in values.items()
    )
    return _drawn(
        accuracy_bars(names, values),
        f"Bars of MOTA, IDF1 and HOTA for {', '.join(names)}. {told}.",
        f"Accuracy on the test halves, protocol {protocol}, from {names[0]} to {names[-1]}. The second number over a "
        f"bar is its distance from {names[0]} in points.",
    )


def loss_pictures(records: Sequence[Record], run_folder: Path) -> tuple[list[Picture], list[str]]:
    """A figure for each training that left a CSV of its losses, and what is missing."""
    pictures, missing = [], []
    for stage in ("float", "qat", "float_extra"):
        record = last(records, stage, "training")
        if record is None:
            continue
        for name in (a for a in record["assets"] if a.endswith(".csv")):
            path = run_folder / name
            if not path.is_file():
                missing.append(f"loss curve of {STAGE_NAMES[stage]} ({name} is gone)")
                continue
            picture = _loss_picture(stage, read_columns(path))
            pictures += [picture] if picture else []
    return pictures, missing


def _loss_picture(stage: str, columns: dict[str, list[float]]) -> Picture | None:
    steps = columns.get("step", [])
    terms = {name: values for name, values in columns.items() if name in _LOSS_TERMS or name.endswith("_loss")}
    if len(steps) < 2 or not terms:
        return None
    window = max(1, len(steps) // 40)
    first = next(iter(terms))
    start, end = float(np.nanmean(terms[first][: max(1, window)])), float(np.nanmean(terms[first][-max(1, window) :]))
    title = f"{STAGE_NAMES[stage]} training"
    return _drawn(
        loss_curves(steps, terms, title=title, window=window),
        f"Curves of {', '.join(terms)} over {int(steps[-1])} steps of {title.lower()}.",
        f"{title}: {first} goes from {start:.3g} to {end:.3g} in {int(steps[-1])} steps"
        + (f"; bold lines are means over {window} recorded points." if window > 1 else "."),
    )


def latency_picture(record: Record | None) -> Picture | None:
    """Median latencies of both graphs by runtime and of the parts of the frame step."""
    if record is None:
        return None
    metrics = record["metrics"]
    graphs = {
        f"{title}, {name.replace('_', '-')}": value
        for head, title in (("base", "base graph"), ("qim", "QIM"))
        for name, value in medians(metrics, head).items()
    }
    steps = {f"step: {name.replace('_', ' ')}": value for name, value in medians(metrics, "step").items()}
    bars = graphs | steps
    if not bars:
        return None
    emphasis = [name for name in bars if name.endswith("fixed-point")]
    return _drawn(
        latency_bars(bars, emphasis=emphasis),
        "Bars of median latency: " + ", ".join(f"{name} {value:.2f} ms" for name, value in bars.items()) + ".",
        "Median latency of each graph by precision (fixed-point in vermilion) and of each part of the frame step.",
    )


def frame_pictures(
    records: Sequence[Record], run_folder: Path, budget: int = FRAME_BUDGET
) -> tuple[list[Picture], list[str]]:
    """Overlays of the last stage that has them, re-encoded to share `budget` bytes; and what is missing."""
    record = next((r for s in reversed(STAGES) if (r := last(records, s, "overlay"))), None)
    if record is None:
        return [], ["overlays of the fixed-point tracker (notebook 06)"]
    names = [a for a in record["assets"] if a.lower().endswith(_PICTURE_SUFFIXES)]
    pictures, missing = [], [f"{len(names) - MAX_FRAMES} more overlays, left out for size"] * (len(names) > MAX_FRAMES)
    shown = names[:MAX_FRAMES]
    for name in shown:
        image = cv2.imread(str(run_folder / name)) if (run_folder / name).is_file() else None
        if image is None:
            missing.append(f"overlay {name} (gone or unreadable)")
            continue
        title = Path(name).stem.removeprefix("overlay").removeprefix(record["stage"]).strip("_- ") or name
        pictures.append(
            Picture(
                _shrunk(np.asarray(image, np.uint8), budget // len(shown)),
                f"Frames with boxes, ids and trails of the {STAGE_NAMES[record['stage']].lower()} tracker: {title}.",
                f"{title}: colour and number are the track's id, the line is the way of its feet over the last frames.",
            )
        )
    return pictures, missing


def _shrunk(image: np.ndarray, max_bytes: int) -> bytes:
    """The image as JPEG of at most `max_bytes`, as wide as that allows."""
    data = b""
    for width in _WIDTHS:
        width = min(width, image.shape[1])
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        if len(data) <= max_bytes:
            break
    return data
