"""Text files with a row for each box: lines into numbers, and the line in whatever is said about them; ini files."""

from __future__ import annotations

import configparser
import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError

LARGEST = 2.0**53  # beyond it whole numbers are no longer exact


def why_unreadable(path: object, error: OSError) -> str:
    """What keeps a file or folder from being read: `missing`, a link that leads nowhere, or what the system says."""
    for part in (path, *path.parents) if isinstance(path, Path) else ():
        if _leads_nowhere(part):
            return f"{part} is " * (part != path) + f"a link to {part.readlink()}, which is not there"
    return "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def is_promised(path: Path) -> bool:
    """Whether it is there, or would be if a link on the way led somewhere: then whoever reads it says so."""
    return os.path.lexists(path) or any(map(_leads_nowhere, path.parents))


@contextlib.contextmanager
def reading(file: object, advice: str = "copy it again") -> Iterator[None]:
    """An OSError in the block becomes a UserError with `advice`, a ValueError on what is in the file one, too."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: {why_unreadable(file, error)}; {advice}") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}; copy it again") from error


def read_text(path: Path) -> str:
    """A text file as UTF-8, with or without a byte-order mark. Raises UserError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {why_unreadable(path, error)}") from error


def read_ini(path: Path) -> dict[str, str]:
    """Section `Sequence` of an ini file, by key in lower case; comments and quotes are left out. Raises UserError."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise UserError(f"{path}: not an ini file ({str(error).splitlines()[0]})") from error
    section = next((parser[name] for name in parser.sections() if name.strip().lower() == "sequence"), None)
    if section is None:
        raise UserError(f"{path}: no section [Sequence]")
    return {key: value.strip().strip("\"'") for key, value in section.items()}


def is_number(value: object) -> bool:
    """An int or a float, exact as a whole number; JSON as Python reads it may hold NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def counts(values: Iterable[Any]) -> str:
    """`0 (12×), 3 (1×)`: what there is, the most frequent first."""
    return ", ".join(f"{value} ({count}×)" for value, count in Counter(values).most_common())


@dataclass(frozen=True)
class Rows:
    """The lines of a file that are not blank, and their numbers from 1; `path` is for messages.

    `separator` is a comma, a semicolon or None for white space, whichever the first line has.
    """

    path: Path | str
    lines: list[str]
    numbers: Sequence[int]
    separator: str | None

    @staticmethod
    def of(text: str, path: Path | str) -> Rows:
        """Split a file's text. Separators behind the last column are left out."""
        lines = [line.rstrip(" \t,;") for line in text.splitlines()]
        first = next(filter(None, lines), "")
        rows = Rows(path, lines, range(1, len(lines) + 1), next((sign for sign in ";," if sign in first), None))
        return rows if all(lines) else rows.select(np.array([line != "" for line in lines]))

    def __len__(self) -> int:
        return len(self.lines)

    def cells(self, row: int = 0) -> list[str]:
        """The text of every column of a row."""
        return [cell.strip() for cell in self.lines[row].split(self.separator)]

    def select(self, keep: NDArray[np.bool_]) -> Rows:
        """The rows of a mask, bool [n]."""
        kept = [(line, number) for line, number, wanted in zip(self.lines, self.numbers, keep, strict=True) if wanted]
        return replace(self, lines=[line for line, _ in kept], numbers=[number for _, number in kept])

    def coded(self, column: int) -> tuple[Rows, tuple[str, ...]]:
        """With numbers for the words of a column, and the words that they count through."""
        split = [self.cells(row) for row in range(len(self))]
        words = tuple(sorted({cells[column] for cells in split if len(cells) > column}))
        for cells in split:
            cells[column : column + 1] = [str(words.index(word)) for word in cells[column : column + 1]]
        return replace(self, lines=["\t".join(cells) for cells in split], separator="\t"), words

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """All columns, `float64 [n, columns]`; every row must have as many. Raises UserError as `first`."""
        return self.first(None)

    def first(self, count: int | None) -> NDArray[np.float64]:
        """The first columns, `float64 [n, count]`, of which the first two are frame and id.

        Raises UserError naming the line: too few columns, a cell that is not a finite number within ±2⁵³, a frame or id
        that is not whole.
        """
        if not self.lines:
            return np.zeros((0, count or 0))
        wanted = None if count is None else range(count)
        try:
            table = np.loadtxt(self.lines, delimiter=self.separator, comments=None, ndmin=2, usecols=wanted)
        except (ValueError, IndexError):  # slower, but it knows the line
            table = np.array([self._parse(row, count) for row in range(len(self))])
        self.refuse(~np.isfinite(table).all(axis=1), "NaN or infinity; every column must be a finite number")
        huge = (np.abs(table) > LARGEST).any(axis=1)
        self.refuse(huge, f"a number beyond {LARGEST:g}; frames, ids and pixels expected")
        broken = (table[:, :2] != np.rint(table[:, :2])).any(axis=1)
        self.refuse(broken, "frame and id must be whole numbers, not {:g} and {:g}", *table[:, :2].T)
        return table

    def _parse(self, row: int, count: int | None) -> list[float]:
        cells, columns = self.cells(row), len(self.cells())
        try:
            if len(cells) == columns if count is None else len(cells) >= count:
                return [float(cell) for cell in cells[:count]]
            fault = f"{len(cells)} columns, " + (f"{columns} expected" if count is None else f"at least {count} needed")
        except ValueError as error:
            fault = f"{error}; every column must be a number"
        raise UserError(f"{self.path}:{self.numbers[row]}: {fault}")

    def refuse(self, bad: NDArray[np.bool_] | np.bool_ | bool, what: str, *values: NDArray[Any]) -> None:
        """Raises UserError with the line of the first row that is `bad`, bool [n] or of all rows.

        `what` is wrong with it, a format string for the row's element of each of `values`.
        """
        mask = np.broadcast_to(bad, len(self))
        if mask.any():
            row = int(mask.argmax())
            raise UserError(f"{self.path}:{self.numbers[row]}: {what.format(*(column[row] for column in values))}")

    def refuse_repeats(self, frame: NDArray[np.float64], track: NDArray[np.float64]) -> None:
        """Raises UserError with the line of an id that stands in its frame for the second time."""
        order = np.lexsort((track, frame))
        same = (np.diff(frame[order]) == 0) & (np.diff(track[order]) == 0)
        again, earlier = np.zeros(len(self), bool), np.zeros(len(self), np.int64)  # that line, of any number
        again[order[1:][same]], earlier[order[1:][same]] = True, np.array(self.numbers, np.int64)[order[:-1][same]]
        self.refuse(again, "id {:.0f} twice in frame {:.0f} (first in line {})", track, frame, earlier)
