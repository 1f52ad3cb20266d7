"""Section: frames with the tracks on them, made small enough for a page."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from motrlab.names import CHAIN
from motrlab.report.blocks import Picture, Section, Source
from motrlab.report.values import stage_word

# Bytes for all pictures of frames together: a third more as base64, and the rest of the page, stay below 2 MB.
FRAME_BUDGET = 600_000
MAX_FRAMES = 8
FIRST_BUDGET = 300_000  # of the one on the first page
_WIDTHS = (1280, 1000, 800, 640, 480, 320)  # tried in turn until a picture fits
_JPEG_QUALITY = 82
_SUFFIXES = (".png", ".jpg", ".jpeg")


def first(source: Source) -> Section:
    """One sheet, for the first page."""
    found = section(source, MAX_FRAMES * FIRST_BUDGET)
    return Section(found.blocks[:1], found.missing)


def section(source: Source, budget: int = FRAME_BUDGET) -> Section:
    """Overlays of the last stage that has them, re-encoded to share `budget` bytes."""
    if source.numbers_only:
        return Section(["Pictures are left out of this report: it holds numbers only."])
    record = next((r for s in reversed(CHAIN) if (r := source.last(s, "overlay"))), None)
    if record is None:
        return Section(missing=["overlays of the fixed-point tracker (notebook 06)"])
    names = [a for a in record["assets"] if a.lower().endswith(_SUFFIXES)]
    missing = [f"{len(names) - MAX_FRAMES} more overlays, left out for size"] * (len(names) > MAX_FRAMES)
    pictures, shown = [], names[:MAX_FRAMES]
    for name in shown:
        file = source.run.path / name
        image = cv2.imread(str(file)) if file.is_file() else None
        if image is None:
            missing.append(f"overlay {name} (missing or unreadable)")
            continue
        title = Path(name).stem.removeprefix("overlay").removeprefix(record["stage"]).strip("_- ") or name
        pictures.append(
            Picture(
                shrunk(np.asarray(image, np.uint8), budget // len(shown)),
                f"Frames with boxes, ids and trails of the {stage_word(record['stage'])} tracker: {title}.",
                f"{title}: colour and number are the track's id, the line is where its feet were in the last frames.",
                "frames",
            )
        )
    return Section(pictures, missing)


def shrunk(image: np.ndarray, max_bytes: int) -> bytes:
    """The image as JPEG of at most `max_bytes`, as wide as that allows."""
    for widest in _WIDTHS:
        width = min(widest, image.shape[1])
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        if len(data) <= max_bytes:
            break
    return data
