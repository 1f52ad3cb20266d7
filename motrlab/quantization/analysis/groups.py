"""Groups of tensors that belong together, and the model with some of them quantised and all others in float.

A group is a part of the network: a backbone stage, the self-attentions of a decoder layer, the class heads. It is on
when its tensors are on their grids, off when they stay in float, as a rule with precision `float` would leave them; an
integer operation puts what it reads on its grid either way. Boxes, references and constants are on theirs whenever the
model is not in mode `float`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from motrlab.config.scheme import PRODUCTS, Rule
from motrlab.quantization.analysis.taps import recorded
from motrlab.quantization.declare import example_inputs
from motrlab.quantization.equalisation import product
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key

INPUTS = "inputs"
_BY_OPERATOR = {"input": INPUTS, "norm": "norms"}
_DECODER_PARTS = {"cross_attention": "cross-attention", "ffn": "feed-forward"}


def group_of(graph: str, operator: str, path: str) -> str:
    """The group of a tensor, as rules describe it."""
    if operator in _BY_OPERATOR:
        return _BY_OPERATOR[operator]
    prefix = _prefix(path).split(".")
    if graph == "qim":
        return "QIM attention" if prefix[0] == "attention" else "QIM feed-forward"
    if prefix[0] == "decoder":
        return f"decoder {prefix[1]} {_DECODER_PARTS.get(prefix[2], 'self-attention')}"
    if prefix[0] == "backbone":
        kind = prefix[1] if len(prefix) > 1 else ""
        return "backbone " + {"stem": "stem", "stages": f"stage {prefix[-1]}"}.get(kind, "upsampling")
    return {"position": "position code"}.get(prefix[0], " ".join(prefix).replace("_", " "))


def _prefix(path: str) -> str:
    """The part of a module path that a group has in common."""
    parts = path.split(".")
    depth = {"backbone": 3 if parts[1:2] == ["stages"] else 2, "encoder": 2, "decoder": 3}.get(parts[0], 1)
    return ".".join(parts[:depth])


@dataclass(frozen=True)
class Group:
    """`tensors`: graph and name → operator, in graph order; every quantised tensor has one group."""

    name: str
    tensors: dict[Key, str]


def groups_of(quantised: QuantizedMotr) -> dict[str, Group]:
    """All groups by name, in graph order, base graph first; together they hold every quantised tensor exactly once."""
    groups: dict[str, Group] = {}
    for spec in quantised.specs.values():
        if spec.quantised:
            name = group_of(spec.graph, spec.operator, spec.name)
            groups.setdefault(name, Group(name, {})).tensors[spec.key] = spec.operator
    return groups


def float_rules(groups: Iterable[Group]) -> tuple[Rule, ...]:
    """Rules that leave groups in float, one group after the other."""
    found: dict[Rule, None] = {}
    for group in groups:
        for (graph, path), operator in group.tensors.items():
            prefix = _prefix(path)
            inside = "*" if operator in _BY_OPERATOR else prefix if path == prefix else f"{prefix}.*"
            where = "*" if operator in _BY_OPERATOR else graph
            name = f"{group.name} in float"
            found[Rule(name=name, graph=where, operator=operator, path=inside, precision="float")] = None
    return tuple(found)


@contextmanager
def switched_on(quantised: QuantizedMotr, names: Collection[str]) -> Iterator[QuantizedMotr]:
    """The calibrated model in mode `evaluate` with the groups `names` on and all others off; afterwards all are on."""
    groups = groups_of(quantised)
    quantised.mode("evaluate")
    quantised.net.active = frozenset(key for name in names for key in groups[name].tensors)
    try:
        yield quantised
    finally:
        quantised.net.active = None


@torch.no_grad()
def group_macs(quantised: QuantizedMotr) -> dict[str, int]:
    """Multiply-accumulates of one frame by group, 0 for groups without products; "" for what is float anyway.

    Of an attention its two matrix products are counted with what it mixes. Ends in mode `evaluate`.
    """
    names = {key: group.name for group in groups_of(quantised).values() for key in group.tensors}
    macs = dict.fromkeys((*names.values(), ""), 0)
    quantised.mode("float")
    for graph, inputs in example_inputs(quantised.config).items():
        for tensor, x in recorded(quantised, graph, inputs).items():
            spec = quantised.specs[graph, tensor.partition("@")[0]]
            tokens = x.shape[1] * x.shape[2]
            found = {key: tokens * _weight(quantised, key).numel() for key in spec.readers if _leaves(quantised, key)}
            if spec.operator in PRODUCTS:
                found[spec.key] = x.size * _weight(quantised, spec.key)[0].numel()
            elif spec.operator == "attention":
                found[spec.key] = 2 * x.size * tokens
            for key, number in found.items():
                macs[names.get(key, "")] += number
    quantised.mode("evaluate")
    return macs


def _weight(quantised: QuantizedMotr, key: Key) -> Tensor:
    return product(quantised.model, key).weight


def _leaves(quantised: QuantizedMotr, key: Key) -> bool:
    """Whether it is the result of a head: it is not recorded, its input is."""
    return quantised.specs[key].operator == "head"
