"""The quantisation scheme as data: which operators compute in int8, and where their ranges come from.

The last rule that fits an operator decides. Activations are symmetric int8 per tensor over the full range
[-128, 127] (ONNX QuantizeLinear knows no other), weights symmetric int8 per output channel over [-127, 127].
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motrlab.errors import UserError

ACTIVATION_RANGE = (-128, 127)
WEIGHT_RANGE = (-127, 127)
OBSERVERS = ("min_max", "moving_average", "mse")
OPERATORS = ("conv", "linear", "matmul")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for the operators that `graph`, `operator` and `path` describe (shell patterns).

    `path` is the module path inside the graph, such as `decoder.0.self_attention.query`.
    """

    graph: str = "*"  # base | qim
    operator: str = "*"  # conv | linear | matmul
    path: str = "*"
    precision: str = "int8"  # int8 | float
    observer: str = "moving_average"  # of activations: min_max | moving_average | mse
    input_scale: float | None = None  # fixed scale of the input; None: observed
    softmax_scale: float | None = 1 / 127  # fixed scale of an input that is a softmax; None: observed
    quantise_output: bool = True  # False: int8 inputs and weights, float result

    def __post_init__(self) -> None:
        if self.precision not in ("int8", "float"):
            raise UserError(f"quantisation rule: precision must be int8 or float, not {self.precision!r}")
        if self.observer not in OBSERVERS:
            raise UserError(f"quantisation rule: observer must be one of {', '.join(OBSERVERS)}, not {self.observer!r}")
        if self.operator != "*" and self.operator not in OPERATORS:
            raise UserError(f"quantisation rule: operator must be one of {', '.join(OPERATORS)}, not {self.operator!r}")

    def fits(self, graph: str, operator: str, path: str) -> bool:
        return all(
            fnmatch.fnmatchcase(value, pattern)
            for value, pattern in ((graph, self.graph), (operator, self.operator), (path, self.path))
        )


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Rules in order; the last one that fits an operator decides, and an operator that none fits stays float."""

    rules: tuple[Rule, ...]

    def find(self, graph: str, operator: str, path: str) -> Rule | None:
        """The rule that decides for this operator."""
        fitting = [rule for rule in self.rules if rule.fits(graph, operator, path)]
        return fitting[-1] if fitting else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Scheme:
        """The inverse of `to_dict`. Raises UserError on an unknown field."""
        try:
            return Scheme(rules=tuple(Rule(**rule) for rule in values["rules"]))
        except (TypeError, KeyError) as error:
            raise UserError(f"quantisation scheme: {error}; written by another version of motrlab?") from error


def default_scheme(observer: str = "moving_average") -> Scheme:
    """Every convolution and matrix product in int8.

    Float stay what carries precision and no multiply-accumulates to speak of: residual sums, LayerNorm, softmax with
    its mask, the sampling grid and boxes. The products that feed them (`TokenLinear`: classes, boxes, offsets,
    attention weights; and the attention's q·k) take int8 and give float.
    """
    return Scheme(
        rules=(
            Rule(operator="conv", observer=observer),
            Rule(operator="linear", observer=observer, quantise_output=False),
            Rule(operator="matmul", observer=observer, quantise_output=False),
            Rule(graph="base", operator="conv", path="backbone.stem.*", observer=observer, input_scale=1 / 128),
            # Sines and cosines reach from -1 to 1.
            Rule(graph="base", operator="conv", path="position.0", observer=observer, input_scale=1 / 127),
        )
    )
