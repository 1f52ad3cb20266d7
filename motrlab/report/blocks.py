"""What a page is made of: sections of paragraphs, lists, tables and pictures."""

from __future__ import annotations

import base64
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from motrlab.data.summary import aligned
from motrlab.report.values import Record, last, plain, signed
from motrlab.run import Run

T = TypeVar("T")
MANY_ROWS = 8  # a table from here on is sorted and filtered


@dataclass(frozen=True)
class Cell:
    """The content of a table's cell; `delta` is a signed distance shown beside it."""

    text: str
    delta: str = ""
    tone: str = ""  # better | worse | even: of the delta


@dataclass(frozen=True)
class Row:
    label: str
    cells: Sequence[Cell]
    note: str = ""  # small print after the label
    emphasis: bool = False
    printed: bool = True  # on paper, too


@dataclass(frozen=True)
class Table:
    """`groups` are headed blocks of rows; an empty heading has no line of its own."""

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]
    corner: str = ""  # above the labels
    title: str = ""  # above the table
    note: str = ""  # small print between both
    num_texts: int = 0  # of the columns, the first so many hold words

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.groups for row in rows]

    @property
    def sortable(self) -> bool:
        """By a click on a heading, and filtered by text, where the page has its script: a table of many rows."""
        return len(self.rows) >= MANY_ROWS

    @property
    def delta_columns(self) -> set[int]:
        """Columns in which a cell has a delta: all cells keep room for one there, so that values line up."""
        return {i for row in self.rows for i, cell in enumerate(row.cells) if cell.delta}


@dataclass(frozen=True)
class Picture:
    """`data` holds a PNG or JPEG file; `caption` says in a sentence what is to be seen."""

    data: bytes
    alt: str
    caption: str
    kind: str = "chart"  # or frames

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        kind = "png" if self.data.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Listing:
    """Short texts, one below the other; `terms` come before them, a `note` before all."""

    items: Sequence[str]
    title: str = ""
    terms: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """`svg` is the picture's markup, with its own alternative text."""

    svg: str
    caption: str
    title: str = ""


def script_json(values: Any) -> str:
    """For a script element: nothing in it can end it."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@dataclass(frozen=True)
class Sliders:
    """Numbers to play with, for the page's script: label, unit and value of each; `data` is what it computes with."""

    names: Sequence[tuple[str, str, str, float]]  # name, label, unit, value
    data: Mapping[str, Any]

    @property
    def json(self) -> str:
        return script_json(self.data)


@dataclass(frozen=True)
class Explorer:
    """Tensors of which the page's script draws the one that is chosen: `report.debugging.thinned` of each."""

    entries: Sequence[Mapping[str, Any]]

    @property
    def json(self) -> str:
        return script_json(self.entries)


@dataclass(frozen=True)
class Part:
    """Blocks about one thing of several, of which a reader may choose one; `name` is above them."""

    name: str
    parts: Sequence[Block | None]


Block = str | Table | Picture | Listing | Drawing | Sliders | Explorer | Part  # a text is a paragraph


@dataclass(frozen=True)
class Section:
    """`missing`: what a full report has here, and this run has not recorded or not kept. `folded`: a line shown
    instead of the blocks until a reader opens it; on paper they are there.
    """

    blocks: Sequence[Block | None] = ()
    missing: Sequence[str] = ()
    folded: str = ""

    @property
    def flat(self) -> list[Block]:
        """All blocks, those within parts too."""
        found: list[Block] = []
        for block in self.blocks:
            inner = block.parts if isinstance(block, Part) else [block]
            found += [b for b in inner if b is not None]
        return found

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.flat if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        return [block for block in self.flat if isinstance(block, Picture)]


@dataclass(frozen=True)
class Source:
    """What a section is made of: a run's records that count, and their assets."""

    run: Run
    numbers_only: bool = False

    @functools.cached_property
    def records(self) -> list[Record]:
        return list(self.run.records())

    def last(self, stage: str, kind: str) -> Record | None:
        return last(self.records, stage, kind)

    def metrics(self, stage: str, kind: str) -> Mapping[str, Any]:
        """Of the last record; empty where there is none."""
        record = self.last(stage, kind)
        return record["metrics"] if record else {}

    def files(self, what: str, *records: Record | None) -> tuple[dict[str, Path], list[str]]:
        """The records' assets by file name, and those that are missing."""
        paths = [self.run.path / name for record in records if record for name in record["assets"]]
        gone = [f"{path.name} of {what} (missing)" for path in paths if not path.is_file()]
        return {path.name: path for path in paths if path.is_file()}, gone


def table(
    things: Iterable[T], columns: Mapping[str, Callable[[T], str | Cell]], label: Callable[[T], str], **fields: Any
) -> Table | None:
    """A row for each thing, by heading what to say of it; None if there are no things. `fields`: of `Table`."""
    said = [(label(thing), [say(thing) for say in columns.values()]) for thing in things]
    rows = [Row(name, [x if isinstance(x, Cell) else Cell(x) for x in cells]) for name, cells in said]
    return Table(list(columns), [("", rows)], **fields) if rows else None


def pivot(values: Mapping[tuple[str, str], Any], text: Callable[[Any], str] = plain, **fields: Any) -> Table | None:
    """Values by (row, column), in the order in which both come; None if there are none. `fields`: of `Table`."""
    cells = {key: text(value) for key, value in values.items()}
    columns = list(dict.fromkeys(column for _, column in values))
    rows = [Row(row, [Cell(cells.get((row, c), "–")) for c in columns]) for row in dict.fromkeys(r for r, _ in values)]
    return Table(columns, [("", rows)], **fields) if rows else None


def delta(value: float, reference: float) -> tuple[str, str]:
    """Signed distance of two fractions in percentage points, and its tone."""
    points = round(100 * (value - reference), 2)
    return (signed(f"{points:+.2f}"), "better" if points > 0 else "worse") if points else ("±0.00", "even")


def table_text(found: Table | None, columns: Sequence[str] = ()) -> str:
    """For notebooks and terminals: columns aligned to the right; a delta is in parentheses after its value.

    `columns`: only these, in this order; all, if none is named. Raises ValueError for one that the table lacks.
    """
    if found is None:
        return "nothing has been measured yet"
    chosen = [list(found.columns).index(name) for name in columns or found.columns]
    cells = [[f"{c.text} ({c.delta})" if c.delta else c.text for c in r.cells] for r in found.rows]
    rows = [[r.label, *(texts[i] for i in chosen)] for r, texts in zip(found.rows, cells, strict=True)]
    head, *lines = aligned([[found.corner, *(found.columns[i] for i in chosen)], *rows], left=1).split("\n")
    told, rest = [head], iter(lines)
    for heading, members in found.groups:
        told += [heading] if heading else []
        told += itertools.islice(rest, len(members))
    return "\n".join(told)
