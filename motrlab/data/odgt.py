"""CrowdHuman's labels (arXiv 1805.00123): a JSON object a line, `ID` (its picture is `ID.jpg`) and `gtboxes`.

A person is the box of the whole body, `fbox`, and as visible as the share of it that `vbox` has. What is to be ignored
(`ignore` 1 in `extra`), what is no person (tag `mask`) and who has no such box, only that of a head, gets flag 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.data.formats import Labels
from motrlab.data.importing import LabelledVideo, safe_name, with_area
from motrlab.data.motchallenge import check_labels
from motrlab.data.rows import Rows, is_number, read_text
from motrlab.errors import UserError

_CLASSES = {1: "person", 2: "mask"}


def read_odgt(source: Path, images: Path | None = None) -> LabelledVideo:
    """The labels as stills. Pictures lie in `images`, by default `Images` beside the file, or its folder.

    Raises UserError with the line that is wrong.
    """
    beside = source.parent / "Images"
    folder = images or (beside if beside.is_dir() else source.parent)
    lines = [(number, line) for number, line in enumerate(read_text(source).splitlines(), 1) if line.strip()]
    table: list[list[float]] = []
    numbers: list[int] = []
    files: dict[Path, int] = {}
    for frame, (number, line) in enumerate(lines, 1):
        where = f"{source}:{number}"
        name, boxes = _read_line(line, where)
        if files.setdefault(folder / f"{name}.jpg", number) != number:
            raise UserError(f"{where}: ID {name!r} for the second time")
        for box in boxes:
            table.append([frame, len(table) + 1, *_columns(box, where)])
            numbers.append(number)
    if not lines:
        raise UserError(f"{source}: no line in it; an .odgt has a JSON object a line")
    rows = Rows(source, [""] * len(numbers), numbers, None)
    labels = with_area(Labels(np.array(table).reshape(-1, 9), rows, dict(_CLASSES), True), source)
    return LabelledVideo(
        name=safe_name(source.stem), frame_rate=1.0, images=list(files),
        annotations=check_labels(labels, len(lines)), names=_CLASSES, stills=True,
    )  # fmt: skip


def _read_line(line: str, where: str) -> tuple[str, list[Any]]:
    """The picture's name and its boxes."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); an .odgt has an object a line") from error
    name, boxes = (item.get("ID"), item.get("gtboxes")) if isinstance(item, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(boxes, list) or not name or Path(name).name != name:
        raise UserError(f"{where}: ID, a file's name without its .jpg, and a list gtboxes expected")
    return name, boxes


def _columns(box: Any, where: str) -> list[float]:
    """Left, top, width, height, flag, class and visibility."""
    if not isinstance(box, dict):
        raise UserError(f"{where}: an item of gtboxes is no object")
    extra = box.get("extra")
    body, seen = box.get("fbox"), box.get("vbox")
    found: Any = body or seen or box.get("hbox")
    for value in (found, seen or found):
        if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
            raise UserError(f"{where}: box {value!r}; [left, top, width, height] in pixels expected")
    is_person = box.get("tag") == "person"
    ignored = bool(extra.get("ignore")) if isinstance(extra, dict) else False
    area = found[2] * found[3]
    visibility = min(max(seen[2] * seen[3] / area, 0), 1) if seen and area > 0 else 1.0
    flag = is_person and not ignored and bool(body)
    return [*found, flag, 1 if is_person else 2, visibility]
