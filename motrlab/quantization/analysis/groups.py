"""Groups of tensors that belong together, and the model with some of them quantised and all others in float.

A group is a part of the network: a backbone stage, the self-attentions of a decoder layer, the class heads. Off, its
tensors stay in float, as a rule with precision `float` would leave them; integer operations put what they read on its
grid either way. Boxes, references and constants are on theirs whenever the model is not in mode `float`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from motrlab.config.scheme import PRODUCTS, Rule
from motrlab.quantization.analysis.taps import recorded
from motrlab.quantization.declare import example_inputs
from motrlab.quantization.equalisation import product
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key
from motrlab.tracking.step import Graphs

INPUTS = "inputs"
_BY_OPERATOR = {"input": INPUTS, "norm": "norms"}
_PREFIX = re.compile(r"backbone\.stages\.[^.]+|(backbone|encoder)\.[^.]+|decoder\.[^.]+\.[^.]+|[^.]+")
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
    found = _PREFIX.match(path)
    return found[0] if found else path


Group = dict[Key, str]  # graph and name of each tensor → its operator, in graph order


def groups_of(quantised: QuantizedMotr) -> dict[str, Group]:
    """All groups by name, in graph order, base graph first; together they hold every quantised tensor exactly once."""
    groups: dict[str, Group] = {}
    for spec in quantised.specs.values():
        if spec.quantised:
            groups.setdefault(group_of(spec.graph, spec.operator, spec.name), {})[spec.key] = spec.operator
    return groups


def float_rules(groups: Mapping[str, Group]) -> tuple[Rule, ...]:
    """Rules that leave groups in float, one group after the other."""
    found: dict[Rule, None] = {}
    for name, tensors in groups.items():
        for (graph, path), operator in tensors.items():
            prefix = _prefix(path)
            where, inside = graph, prefix if path == prefix else f"{prefix}.*"
            if operator in _BY_OPERATOR:
                where = inside = "*"
            rule = Rule(name=f"{name} in float", graph=where, operator=operator, path=inside, precision="float")
            found[rule] = None
    return tuple(found)


@contextmanager
def switched_on(quantised: QuantizedMotr, names: Collection[str]) -> Iterator[Graphs]:
    """The calibrated graphs in mode `evaluate` with the groups `names` on and all others off; afterwards all are on."""
    groups = groups_of(quantised)
    quantised.mode("evaluate")
    with quantised.net.hooked(active=frozenset(key for name in names for key in groups[name])):
        yield quantised.graphs


@torch.no_grad()
def group_macs(quantised: QuantizedMotr) -> dict[str, int]:
    """Multiply-accumulates of one frame by group, 0 for groups without products; "" for what is float anyway.

    Of an attention its two matrix products are counted with what it mixes. Ends in mode `evaluate`.
    """
    names = {key: name for name, group in groups_of(quantised).items() for key in group}
    macs = dict.fromkeys((*names.values(), ""), 0)

    def count(key: Key, times: int, axis: int) -> None:
        macs[names.get(key, "")] += times * product(quantised.model, key).weight.shape[axis:].numel()

    for graph, inputs in example_inputs(quantised.config).items():
        for tensor, x in recorded(quantised, graph, inputs, "float").items():
            spec = quantised.specs[graph, tensor.partition("@")[0]]
            tokens = x.shape[1] * x.shape[2]
            for key in set(spec.readers):
                if quantised.specs[key].operator == "head":  # it is not recorded, its input is
                    count(key, tokens, 0)
            if spec.operator in PRODUCTS:
                count(spec.key, x.size, 1)
            elif spec.operator == "attention":
                macs[names.get(spec.key, "")] += 2 * x.size * tokens
    quantised.mode("evaluate")
    return macs


def group_costs(quantised: QuantizedMotr) -> dict[str, float]:
    """Shares of `group_macs` (0 to 1); under "" that of what no rule quantises."""
    macs = group_macs(quantised)
    total = max(1, sum(macs.values()))
    return {name: number / total for name, number in macs.items()}
