"""How data sets write their ground truth: by what each is recognised, and what its columns mean.

A data set is an entry of `FORMATS`. MOTChallenge's rows are read as they are; `import` converts the others; one that is
only recognised, to be refused by name, is not `converted`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from motrlab.data.rows import Rows, read_ini
from motrlab.errors import UserError

# Names by class number. MOT16 to MOT20: arXiv 1603.00831, table 3; the last is MOT20's.
MOT_CLASSES = (
    "", "pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person",
    "distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd",
)  # fmt: skip
_VISDRONE = (
    "ignored region", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus",
    "motor", "others",
)  # fmt: skip
# The share that is seen at a level of occlusion: the middles of VisDrone's ranges (0, to 50, to 100 %). KITTI says the
# same three in words; its 3 is "unknown".
_SEEN = (1.0, 0.75, 0.25, 1.0)

PLACES = ("", "train", "training")  # in a data set's folder, where a `Format.layout` starts
Table = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Format:
    """One data set's way of writing; columns count from 0, -1 stands for what the rows do not say.

    Rows fit by their number of columns (0: any), by the columns in which words stand, and by the `ranges` of others. A
    format is certain by the sequence folder's name, by a file in it, or by what the rows show; else it is possible
    if `plain`.
    """

    name: str
    columns: int
    says: str  # what is known of it, for messages
    converted: bool = True
    is_mot: bool = False
    words: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int, int], ...] = ()  # column, lowest and highest of its whole numbers
    plain: bool = True
    folder: str = "$^"
    certain: Callable[[Table], bool] = lambda table: False
    box: tuple[int, ...] = (2, 3, 4, 5)
    corners: bool = False  # the box is left, top, right, bottom
    flag: int = 6
    kind: int = -1
    seen: int = -1
    levels: tuple[float, ...] = ()  # visible shares that `seen` counts through
    names: tuple[str, ...] = MOT_CLASSES  # of the numbers in `kind`
    roles: str = ""  # file with the class of each track
    regions: str = "-"  # class that is no object
    layout: tuple[str, str] = ("", "")  # label file and frames of a sequence `*`, where not MOTChallenge's
    frame_rate: float = 30.0


NINE_COLUMNS = Format(name="MOT17", columns=9, says="9 columns", is_mot=True, folder="MOT17-", kind=7, seen=8)
_TEN_COLUMNS = Format(name="MOT15", columns=10, says="10 columns, the last three world coordinates or -1", is_mot=True,
              folder="ADL-|ETH-|KITTI-|PETS09-|TUD-|Venice-|AVG-")  # fmt: skip
FORMATS = (
    NINE_COLUMNS,
    replace(NINE_COLUMNS, name="MOT16", folder="MOT16-"),
    replace(NINE_COLUMNS, name="MOT20", folder="MOT20-"),
    replace(NINE_COLUMNS, name="DanceTrack", folder=r"dancetrack\d"),
    replace(NINE_COLUMNS, name="SportsMOT", folder=r"v_.+_c\d+$"),
    _TEN_COLUMNS,
    replace(_TEN_COLUMNS, name="SoccerNet", says="classes in gameinfo.ini", folder="$^", roles="gameinfo.ini"),
    Format(
        name="VisDrone", columns=10, says="10 columns, the last three category, truncation and occlusion",
        ranges=((6, 0, 1), (7, 0, 11), (8, 0, 1), (9, 0, 2)),
        certain=lambda table: len(np.unique(table[:, 7:], axis=0)) > 1, kind=7, seen=9, levels=_SEEN,
        names=_VISDRONE, regions="ignored region", layout=("annotations/*.txt", "sequences/*"),
    ),
    Format(
        name="KITTI", columns=17, says="17 columns, the third a word", words=(2,), box=(6, 7, 8, 9), corners=True,
        flag=-1, kind=2, seen=4, levels=_SEEN, regions="DontCare", layout=("label_02/*.txt", "image_02/*"),
        frame_rate=10.0,
    ),
    Format(
        name="UAVDT", columns=9, says="9 columns, the last three out-of-view, occlusion and category", converted=False,
        ranges=((6, 1, 3), (7, 1, 4), (8, 1, 3)), plain=False, folder=r"M\d{4}$",
        certain=lambda table: bool((table[:, [6, 8]] > 1).any()), layout=("GT/*_gt_whole.txt", "*"),
    ),
    Format(name="DarkLabel", columns=0, says="names of classes in the second or last column", converted=False,
           words=(1, -1, *range(7, 500, 6))),
)  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """`table`, `float64 [n, 9]`: frame, id, left, top, width, height, flag, class, visibility, and the rows it is from.

    `names`: what the class numbers are called. Frames and classes are numbered as in the file.
    """

    table: Table
    rows: Rows
    names: dict[int, str]
    has_class: bool


def recognise(rows: Rows, folder: Path) -> Format:
    """The format of `rows`, which belong to the sequence in `folder`.

    Raises UserError where none fits, and where two fit that read the rows in different ways.
    """
    if not len(rows):
        return NINE_COLUMNS
    chances = {format: _chance(format, rows, folder) for format in FORMATS}
    best = [format for format, chance in chances.items() if chance and chance == max(chances.values())]
    if not best:
        count = len(rows.cells())
        known = "9 or 10 expected" if count > 10 else "at least 9 needed"
        raise UserError(f"{rows.path}:{rows.numbers[0]}: {count} columns, {known} (frame,id,left,top,width,height,…)")
    if len({(format.kind, format.seen, format.roles) for format in best}) > 1:
        fits = " and ".join(f"{format.name} ({format.says})" for format in best)
        choices = " or ".join(f"`--format {format.name.lower()}`" for format in best)
        raise UserError(f"{rows.path}: fits {fits}; say which it is: `python -m motrlab import` with {choices}")
    return best[0]


def laid_out_as(root: Path) -> Format | None:
    """The data set whose layout the folder has, where that is not MOTChallenge's."""
    own = [format for format in FORMATS if format.layout[0]]
    return next((f for f in own if any(any((root / place).glob(f.layout[0])) for place in PLACES)), None)


def how_to_import(format: Format) -> str:
    """What a user is to do with rows that are not MOTChallenge's."""
    if format.converted:
        return f"`python -m motrlab import --format {format.name.lower()}` converts them"
    return "not converted: save them as MOTChallenge rows, frame,id,left,top,width,height,flag,class,visibility"


def _chance(format: Format, rows: Rows, folder: Path) -> int:
    """0: cannot be, 1: may be, 2: is."""
    cells = rows.cells()
    words = {column for column, cell in enumerate(cells) if not _is_number(cell)}
    if format.columns not in (0, len(cells)) or (format.roles and not (folder / format.roles).exists()):
        return 0
    if format.words:
        return 2 * (bool(words) and words <= {column % len(cells) for column in format.words if column < len(cells)})
    for column, low, high in format.ranges:
        values = rows.table[:, column]
        if not ((values == np.rint(values)) & (low <= values) & (values <= high)).all():
            return 0
    certain = format.roles or re.match(format.folder, folder.name) or (format.ranges and format.certain(rows.table))
    return 2 if certain else int(format.plain)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_labels(rows: Rows, format: Format, folder: Path) -> Labels:
    """The columns of `rows` as MOTChallenge has them; flags, frames and classes as they are. Raises UserError."""
    names = format.names
    if not len(rows):
        return Labels(np.zeros((0, 9)), rows, dict(enumerate(names)), format.kind >= 0)
    if format.words:
        rows, names = rows.coded(format.kind)
    found = rows.table.shape[1]
    rows.refuse(found != format.columns, f"{found} columns; {format.name} has {format.says}")
    table = np.concatenate([rows.table, np.ones((len(rows), 1))], axis=1)  # column -1: what the rows do not say
    box, kind, seen = table[:, list(format.box)], table[:, format.kind], table[:, format.seen]
    if format.corners:
        box[:, 2:] -= box[:, :2]
    if format.levels:
        seen = np.take(format.levels, seen.astype(np.int64), mode="clip")
    has_class = format.kind >= 0 and not (kind == -1).all()  # -1: not said, here as everywhere in MOTChallenge
    if format.roles:
        roles, names = _roles(folder / format.roles)
        rows.refuse(~np.isin(table[:, 1], list(roles)), f"id {{:.0f}} is not in {format.roles}", table[:, 1])
        kind, has_class = np.array([roles[int(track)] for track in table[:, 1]]), True
    kind, seen = kind if has_class else table[:, -1], np.where(seen == -1, 1, seen)
    table = np.column_stack([table[:, :2], box, table[:, format.flag], kind, seen])
    if format.regions in names:
        keep = kind != names.index(format.regions)
        table, rows = table[keep], rows.select(keep)
    return Labels(table, rows, dict(enumerate(names)), has_class)


def _roles(file: Path) -> tuple[dict[int, int], tuple[str, ...]]:
    """Class number of each track, and the names of the classes, of lines as `trackletID_7= player team left;10`."""
    found = {re.fullmatch(r"trackletid_(\d+)", key): value for key, value in read_ini(file).items()}
    roles = {int(key[1]): value.split(";")[0].split(" team")[0].strip() for key, value in found.items() if key}
    names = tuple(sorted(set(roles.values())))
    return {track: names.index(role) for track, role in roles.items()}, names
