"""What is quantised, and how: for notebooks, reports and whoever asks which rule decided a grid."""

from __future__ import annotations

from collections.abc import Sequence

from motrlab.config.scheme import PRODUCTS
from motrlab.data.summary import aligned
from motrlab.quantization import functions
from motrlab.quantization.analysis.layers import QuantisedTensor
from motrlab.quantization.equalisation import product
from motrlab.quantization.quantized import QuantizedMotr

# Grids that functions are defined on, in both graphs where they have the function; 16 bits hold them.
FUNCTIONS = (
    ("attention logits", "attention", 1 / functions.LOGIT),
    ("sampling positions, x", "sampling", float(1 / functions.POSITION[0])),
    ("sampling positions, y", "sampling", float(1 / functions.POSITION[1])),
    ("box deltas and logits", "head", 1 / functions.DELTA),
    ("boxes", "head", 1 / functions.REFERENCE),
)


def quantised_tensors(quantised: QuantizedMotr) -> list[QuantisedTensor]:
    """Every tensor in graph order, base graph first, each product's weights before what it makes; then functions."""
    found, scheme = [], quantised.scheme
    for spec in quantised.specs.values():
        graph, name, operator, rule = *spec.key, spec.operator, spec.rule
        if spec.quantised and operator in PRODUCTS:
            bits, high = scheme.weight_bits, scheme.weight_limit
            scale = float(product(quantised.model, spec.key).weight.detach().abs().max()) / high
            how = "per channel" if rule.per_channel else "per tensor"
            found.append(
                QuantisedTensor(graph, name, "weight", operator, bits, -high, high, scale, how, rule.label, None)
            )
        if spec.quantised and operator != "head":  # leaves as its accumulator
            bits, high, scale = spec.bits, spec.high, float(quantised.ranges.scale[spec.group])
            how = rule.observer if spec.fixed is None else "fixed"
            row = QuantisedTensor(
                graph, name, "activation", operator, bits, spec.low, high, scale, how, rule.label, spec.group
            )
            found.append(row)
    high = 2**15 - 1
    for name, operator, scale in FUNCTIONS:
        found.append(QuantisedTensor("both", name, "function", operator, 16, -high, high, scale, "fixed", "", None))
    return found


def listing_table(tensors: Sequence[QuantisedTensor]) -> str:
    """One line a tensor: graph, tensor, kind, operator, bits, scale, observer, rule, group."""
    rows = [("graph", "tensor", "kind", "operator", "bits", "scale", "observer", "rule", "group")]
    for t in tensors:
        group = "" if t.group is None else str(t.group)
        rows.append((t.graph, t.tensor, t.kind, t.operator, str(t.bits), f"{t.scale:.3g}", t.observer, t.rule, group))
    return aligned(rows, left=len(rows[0]))
