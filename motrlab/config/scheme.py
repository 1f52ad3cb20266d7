"""The quantisation scheme as data: which tensors are int8, int16 or float, and where their ranges come from.

The last rule that fits an operator decides. Activations are symmetric per tensor over the full range of their integers
(ONNX QuantizeLinear knows no other), weights symmetric int8 over [-127, 127], per output channel or per tensor.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from motrlab.errors import UserError

ACTIVATION_RANGE = {"int8": (-128, 127), "int16": (-32768, 32767)}
WEIGHT_RANGE = (-127, 127)
OBSERVERS = ("min_max", "moving_average", "percentile", "mse", "kl")  # see `quantization/observers.py`
PRODUCTS = ("conv", "linear", "matmul")  # their inputs, weights and outputs are quantised
TENSORS = ("input", "sampling", "norm")  # a graph's input, a sampling grid, a LayerNorm's result: one tensor each
OPERATORS = (*PRODUCTS, *TENSORS)
PRECISIONS = ("int8", "int16", "float")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds for the operators that `graph`, `operator` and `path` describe (shell patterns).

    `path` is the module path inside the graph, such as `decoder.0.self_attention.query`; of an `input` its name
    (`image`, `track_mask`). int16 is for the operators of `TENSORS` only, and there for what no quantised product
    reads: no runtime here has int16 products.
    """

    name: str = ""  # in listings; empty: what it fits
    graph: str = "*"  # base | qim
    operator: str = "*"  # conv | linear | matmul | input | sampling | norm; "*" is every product
    path: str = "*"
    precision: str = "int8"  # int8 | int16 | float
    observer: str = "moving_average"  # of activations: min_max | moving_average | percentile | mse | kl
    percentile: float = 99.99  # of the magnitudes, for that observer
    per_channel: bool = True  # scales of weights; False: one per tensor
    input_scale: float | None = None  # fixed scale of the input, of a product or of the graph; None: observed
    softmax_scale: float | None = 1 / 127  # fixed scale of an input that is a softmax; None: observed
    quantise_output: bool = True  # of a product; False: integer inputs and weights, float result

    def __post_init__(self) -> None:
        for field, allowed in (("precision", PRECISIONS), ("observer", OBSERVERS), ("operator", ("*", *OPERATORS))):
            value = getattr(self, field)
            if value not in allowed:
                raise UserError(f"quantisation rule: {field} must be one of {', '.join(allowed)}, not {value!r}")
        if self.precision == "int16" and self.operator not in TENSORS:
            raise UserError(
                f"quantisation rule {self.label!r}: int16 {self.operator} cannot be exported, no runtime has integer "
                f"kernels for it; int16 is for {', '.join(TENSORS)}, elsewhere use int8 or float"
            )
        for field in ("input_scale", "softmax_scale"):
            scale = getattr(self, field)
            if scale is not None and not 0 < scale < math.inf:
                raise UserError(f"quantisation rule {self.label!r}: {field} must be a positive number, not {scale}")
        if not 0 < self.percentile <= 100:
            raise UserError(f"quantisation rule: percentile must be above 0 and at most 100, not {self.percentile}")

    @property
    def label(self) -> str:
        """The name, or else what the rule fits."""
        return self.name or f"{self.graph}/{self.operator}/{self.path}"

    def fits(self, graph: str, operator: str, path: str) -> bool:
        products_only = self.operator == "*" and operator not in PRODUCTS
        pairs = ((graph, self.graph), (operator, self.operator), (path, self.path))
        return not products_only and all(fnmatch.fnmatchcase(value, pattern) for value, pattern in pairs)


def default_rules(observer: str = "moving_average") -> tuple[Rule, ...]:
    """Every convolution and matrix product in int8, the sampling grid in int16, image and masks at fixed scales.

    Float stay what carries precision and no multiply-accumulates to speak of: residual sums, LayerNorm, softmax with
    its mask, and boxes. The products that feed them (`TokenLinear`: classes, boxes, offsets, attention weights; and the
    attention's q·k) take int8 and give float.
    """
    return (
        Rule(name="convolutions", operator="conv", observer=observer),
        Rule(name="high precision", operator="linear", observer=observer, quantise_output=False),
        Rule(name="attention", operator="matmul", observer=observer, quantise_output=False),
        Rule(name="image", graph="base", operator="input", path="image", input_scale=1 / 128),
        Rule(name="masks", operator="input", path="*mask", input_scale=1.0),
        # Sines and cosines reach from -1 to 1.
        Rule(name="sine code", operator="conv", path="position.0", observer=observer, input_scale=1 / 127),
        Rule(name="sampling grid", operator="sampling", precision="int16", observer="min_max"),
    )


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Rules in order; the last one that fits an operator decides, and an operator that none fits stays float."""

    rules: tuple[Rule, ...] = dataclasses.field(default_factory=default_rules)

    def find(self, graph: str, operator: str, path: str) -> Rule | None:
        """The rule that decides for this operator."""
        fitting = [rule for rule in self.rules if rule.fits(graph, operator, path)]
        return fitting[-1] if fitting else None

    def with_rules(self, *rules: Rule) -> Scheme:
        """This scheme with more rules, which decide before the ones there are."""
        return Scheme(rules=(*self.rules, *rules))

    def with_observer(self, observer: str) -> Scheme:
        """This scheme with one observer for every range that is observed in int8."""
        rules = (dataclasses.replace(r, observer=observer) if r.precision == "int8" else r for r in self.rules)
        return Scheme(rules=tuple(rules))

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
