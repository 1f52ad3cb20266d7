"""The quantisation scheme as data: the grid of every tensor, and where its range comes from.

The last rule that fits a tensor decides. Grids are symmetric, one scale a tensor; behind a ReLU they are unsigned.
Weights are symmetric int8 (or 7 bits), one scale per output channel or per tensor. Grids that a function is defined on
(attention logits, sampling positions, boxes: `quantization/functions.py`) are no matter of rules.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from motrlab.config.checks import build, check, check_words
from motrlab.errors import UserError

OBSERVERS = ("min_max", "moving_average", "percentile", "mse", "kl")  # see `quantization/observers.py`
# conv: of the backbone; linear: a projection; head: a product that leaves as its accumulator (classes, boxes, offsets);
# attention, sampling: what they mix; sum: of two tensors; norm: LayerNorm; input: of a graph, or a learned query.
OPERATORS = ("conv", "linear", "head", "attention", "sampling", "sum", "norm", "input")
PRODUCTS = ("conv", "linear", "head")
PRECISIONS = ("int8", "int16", "float")
MIN_SCALE, MAX_SCALE = 1e-6, 1e6  # no finer grid is made by itself; what is far coarser leaves float32
_KINDS: dict[Any, Any] = {  # annotation → what a value must be
    "str": str, "bool": bool, "int": int, "float": int | float, "float | None": int | float | None,
}  # fmt: skip


def _check_kinds(item: Any, where: str) -> None:
    """The plain fields hold what their annotations say; True and False are no numbers."""
    for field in dataclasses.fields(item):
        if field.type in _KINDS:
            kind, value = _KINDS[field.type], getattr(item, field.name)
            holds = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            check(holds, f"{where}: {field.name} must be {field.type}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for the tensors that `graph`, `operator` and `path` describe (shell patterns).

    `path` is the module that makes the tensor, such as `decoder.0.self_attention.query`; `.mixed` behind an attention's
    is what it mixes, its own is the sum that it reads. Of an `input` it is the name (`image`, `track_query`). Where
    detect and track slots have grids of their own, a path that ends in `/detect` or `/track` is one of them, without
    it is both.
    """

    name: str = ""  # in listings; empty: what it fits
    graph: str = "*"  # base | qim
    operator: str = "*"  # one of OPERATORS
    path: str = "*"
    precision: str = "int8"  # int8; int16 and float are for analysis only: no kernels, and int16 is not exact
    observer: str = "moving_average"  # min_max | moving_average | percentile | mse | kl
    percentile: float = 99.99  # of the magnitudes, for that observer
    per_channel: bool = True  # scales of weights; False: one per tensor
    scale: float | None = None  # fixed; None: observed

    def __post_init__(self) -> None:
        where = f"quantisation rule {self.label!r}"
        _check_kinds(self, where)
        check_words(self, where, precision=PRECISIONS, observer=OBSERVERS, operator=("*", *OPERATORS))
        fixed = self.scale is None or MIN_SCALE <= self.scale <= MAX_SCALE
        check(fixed, f"{where}: scale must be from {MIN_SCALE:g} to {MAX_SCALE:g}, not {self.scale}")
        within = 0 < self.percentile <= 100
        check(within, f"{where}: percentile must be above 0 and at most 100, not {self.percentile}")

    @property
    def label(self) -> str:
        """The name, or else what the rule fits."""
        return self.name or f"{self.graph}/{self.operator}/{self.path}"

    @property
    def code(self) -> str:
        """As it is written in a scheme, without what is default."""
        given = ((f.name, f.default, getattr(self, f.name)) for f in dataclasses.fields(self))
        return f"Rule({', '.join(f'{name}={value!r}' for name, default, value in given if value != default)})"

    def fits(self, graph: str, operator: str, path: str) -> bool:
        """Whether it describes this tensor; of a part (`PATH/track`) either path will do."""
        either = any(fnmatch.fnmatchcase(p, self.path) for p in (path, path.partition("/")[0]))
        return either and all(fnmatch.fnmatchcase(*pair) for pair in ((graph, self.graph), (operator, self.operator)))


def default_rules(observer: str = "moving_average") -> tuple[Rule, ...]:
    """Every tensor in int8. (The image has the scale of its bytes, 1/128, whatever a rule observes.)"""
    return (Rule(name="all", observer=observer),)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Rules in order, and what holds for all: `signed_only`, `weight_bits`."""

    rules: tuple[Rule, ...] = dataclasses.field(default_factory=default_rules)
    signed_only: bool = False  # for chips that know symmetric int8 only: behind a ReLU 0 to 127, one bit less
    weight_bits: int = 8  # 8, or 7: x86 without VNNI then has exact kernels that are fast

    def __post_init__(self) -> None:
        rules, bits = self.rules, self.weight_bits
        known = isinstance(rules, tuple | list) and all(isinstance(rule, Rule) for rule in rules)
        check(known, f"quantisation scheme: rules must be a tuple of Rule, not {rules!r}")
        _check_kinds(self, "quantisation scheme")
        check(bits in (7, 8), f"quantisation scheme: weight_bits must be 7 or 8, not {bits}")

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of a weight."""
        return 2 ** (self.weight_bits - 1) - 1

    @property
    def levels(self) -> int:
        """Largest integer of an 8-bit value that is never negative."""
        return 127 if self.signed_only else 255

    def find(self, graph: str, operator: str, path: str) -> Rule:
        """The rule that decides for this tensor; one that none fits stays float."""
        fitting = (rule for rule in reversed(self.rules) if rule.fits(graph, operator, path))
        return next(fitting, Rule(name="no rule", precision="float"))

    def with_rules(self, *rules: Rule) -> Scheme:
        """This scheme with more rules, which decide before the ones there are."""
        return dataclasses.replace(self, rules=(*self.rules, *rules))

    def with_observer(self, observer: str) -> Scheme:
        """This scheme with one observer for every range that is observed."""
        return dataclasses.replace(self, rules=tuple(dataclasses.replace(r, observer=observer) for r in self.rules))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Scheme:
        """The inverse of `to_dict`. Raises UserError on an unknown field and on a value of another kind."""
        try:
            check("rules" in values, "quantisation scheme: no rules; written by another version of motrlab?")
            return cast(Scheme, build(Scheme, values, "quantisation scheme"))
        except UserError as error:
            raise UserError(f"{error} (make the run again with this version)") from error
