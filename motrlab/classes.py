"""Which classes are tracked. Data says it: `seqinfo.ini` of every sequence; without a word, people alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motrlab.errors import UserError

if TYPE_CHECKING:  # commands that need no arrays do not wait for NumPy
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Classes:
    """Tracked classes in the order of the network's outputs: their numbers in MOTChallenge files, and their names."""

    numbers: tuple[int, ...] = (1,)
    names: tuple[str, ...] = ("pedestrian",)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(zip(self.numbers, self.names, strict=True))

    @staticmethod
    def parse(text: str, where: str) -> Classes:
        """`1 pedestrian, 8 statue`, as `text` writes it; "" is `PEOPLE`. Raises UserError naming `where`."""
        return _parse(text, where) if text else PEOPLE

    @property
    def text(self) -> str:
        """As in `seqinfo.ini`; "" for `PEOPLE`."""
        return "" if self == PEOPLE else ", ".join(f"{number} {name}" for number, name in self)

    def kinds(self, class_id: NDArray[Any]) -> NDArray[Any]:
        """Class numbers of a file, whole numbers, as positions in this list; -1 for other classes."""
        import numpy as np

        found = np.full(class_id.shape, -1, np.int64)
        for kind, number in enumerate(self.numbers):
            found[class_id == number] = kind
        return found

    def in_file(self, kinds: NDArray[Any]) -> NDArray[Any]:
        """The other way round: what the eighth column of a result file says, with one class -1 as ever."""
        import numpy as np

        return np.array(self.numbers, np.int64)[kinds] if len(self) > 1 else np.full(len(kinds), -1, np.int64)

    def check(self, num_classes: int, where: str) -> None:
        """Raises UserError unless a network of so many classes is for these."""
        if num_classes != len(self):
            told = ", ".join(self.names)
            raise UserError(
                f"model.num_classes is {num_classes}, but {where} has {len(self)} ({told}); --set"
                f" model.num_classes={len(self)}, or other data"
            )


@functools.cache
def _parse(text: str, where: str) -> Classes:
    pairs = [part.strip().partition(" ") for part in text.split(",")]
    numbers, names = tuple(number for number, _, _ in pairs), tuple(name.strip() for _, _, name in pairs)
    whole = all(number.isdecimal() and int(number) for number in numbers)
    if not (whole and all(names) and len(set(numbers)) == len(set(names)) == len(pairs)):
        raise UserError(f"{where}: classes {text!r}; write each once, as in `1 pedestrian, 8 statue`")
    return Classes(tuple(map(int, numbers)), names)


PEOPLE = Classes()
