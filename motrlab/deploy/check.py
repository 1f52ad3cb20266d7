"""What a target makes of every layer: it fits, falls back, is not supported, or nobody says; why, and what to do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motrlab.deploy.layers import Layer, TensorInfo
from motrlab.deploy.source import source_of
from motrlab.deploy.target import ASSUMED, Operator, Target

SCHEMA = 1
FITS, FALLBACK, UNSUPPORTED, UNKNOWN = "fits", "fallback", "unsupported", "unknown"
VERDICTS = (FITS, FALLBACK, UNSUPPORTED, UNKNOWN)
_INTEGERS = {"int8", "uint8", "int16"}


@dataclass(frozen=True)
class Verdict:
    """Of a layer, one of `VERDICTS`. `advice`: what to do, empty where it fits; `file`, `line`: the class of its module
    in our source.
    """

    layer: Layer
    verdict: str
    reason: str
    advice: str = ""
    file: str = ""
    line: int = 0

    def row(self) -> dict[str, Any]:
        """Flat, the contract's columns first."""
        layer = self.layer
        return {
            "graph": layer.graph, "name": layer.name, "module": layer.module, "operator": layer.operator,
            "verdict": self.verdict, "reason": self.reason, "advice": self.advice,
            "file": self.file, "line": self.line,
        }  # fmt: skip


@dataclass(frozen=True)
class Check:
    """All layers of what is checked (`told`: what that is) against a target."""

    target: Target
    told: str
    verdicts: Sequence[Verdict]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict → layers."""
        found = Counter(v.verdict for v in self.verdicts)
        return {name: found[name] for name in VERDICTS}

    def json(self) -> dict[str, Any]:
        """The contract of `check --json`. `fits`: every layer does; what is unknown does not count as fitting."""
        counts = self.counts
        return {
            "schema": SCHEMA,
            "target": self.target.name,
            "checked": self.told,
            "fits": counts[FITS] == len(self.verdicts),
            "counts": counts,
            "layers": [verdict.row() for verdict in self.verdicts],
        }


def check_layers(layers: Mapping[str, Sequence[Layer]], target: Target, told: str = "") -> Check:
    """Of graph → layers, in their order."""
    found = []
    for graph in layers.values():
        quantised = any(t.dtype in _INTEGERS for layer in graph for t in layer.inputs)
        for layer in graph:
            file, line = source_of(layer.graph, layer.module)
            found.append(Verdict(layer, *_judge(layer, target, quantised), file, line))
    return Check(target, told, found)


def _judge(layer: Layer, target: Target, quantised: bool) -> tuple[str, str, str]:
    """Verdict, reason, advice."""
    known = target.operators.get(layer.operator)
    if known is None or known.source == ASSUMED:
        reason = "no public source says whether it runs this operator" + _note(known)
        return UNKNOWN, reason, f"compile it ({target.toolchain}) and see; `debug --layer {layer.name}` cuts it out"
    problem = _over_limits(layer, known) or _wrong_type(layer, known, quantised)
    if problem is None:
        return FITS, f"{target.sources[known.source].title}{_note(known)}", ""
    verdict, reason, advice = problem
    if verdict == UNSUPPORTED and known.fallback:
        return FALLBACK, f"{reason}: falls back to the target's own {known.fallback.upper()}{_note(known)}", advice
    return verdict, reason + _note(known), advice


def _note(known: Operator | None) -> str:
    return f" ({known.note})" if known is not None and known.note else ""


def _sizes(tensors: Iterable[TensorInfo], axis: int) -> list[int]:
    return [t.shape[axis] for t in tensors if len(t.shape) >= 4]


def _reduced(layer: Layer) -> int:
    """Elements that go into one of the output."""
    if layer.operator == "Conv":
        return math.prod(layer.weights[0].shape[1:])
    return layer.inputs[0].numel // max(1, layer.outputs[0].numel)


# What `Target.operators[...].limits` limit.
_MEASURES: dict[str, Callable[[Layer], int]] = {
    "kernel": lambda x: max(x.attributes.get("kernel_shape", [0])),
    "stride": lambda x: max(x.attributes.get("strides", [1])),
    "dilation": lambda x: max(x.attributes.get("dilations", [1])),
    "channels": lambda x: max(t.shape[1] for t in (*x.inputs, *x.outputs) if len(t.shape) > 1),
    "reduced": _reduced,
    "height": lambda x: max(_sizes(x.inputs[:1], -2), default=0),
    "width": lambda x: max(_sizes(x.inputs[:1], -1), default=0),
    "pixels": lambda x: max((t.shape[-2] * t.shape[-1] for t in x.inputs[:1] if len(t.shape) >= 4), default=0),
    "dim": lambda x: max((size for t in (*x.inputs, *x.outputs) for size in t.shape), default=0),
    "constants": lambda x: len(x.weights),
}
_IN_WORDS = {
    "reduced": "values that make one", "dim": "elements along an axis", "constants": "constant operands",
    "pixels": "pixels of the map",
}  # fmt: skip


def _over_limits(layer: Layer, known: Operator) -> tuple[str, str, str] | None:
    rank = max(len(t.shape) for t in (*layer.inputs, *layer.outputs))
    if known.max_rank and rank > known.max_rank:
        return UNSUPPORTED, f"rank {rank}, at most {known.max_rank}", "reshape it to fewer axes in our source"
    for name, most in known.limits.items():
        found = _MEASURES[name](layer)
        if found > most:
            advice = "change the model's config, or the module in our source"
            return UNSUPPORTED, f"{_IN_WORDS.get(name, name)}: {found}, at most {most}", advice
    return None


def _wrong_type(layer: Layer, known: Operator, quantised: bool) -> tuple[str, str, str] | None:
    """The first input whose type the operator does not take. Without a grid of its own (in a graph that has grids) a
    tensor gets one from the toolchain.
    """
    integers = _INTEGERS.intersection(known.types)
    if not known.types:
        advice = "nothing that a rule changes; keep such layers few: they split the graph"
        return UNSUPPORTED, "none of its units runs this operator", advice
    unsigned = None
    for tensor in layer.inputs:
        given = tensor.dtype
        if given in known.types or (integers and quantised and (tensor.inner or given == "float32")):
            continue
        if given == "uint8" and "int8" in known.types:
            reason = "an input's grid goes from 0 to 255, and no public source says whether it takes that"
            unsigned = UNKNOWN, reason, "Scheme(signed_only=True) has grids up to 127 instead"
        else:
            reason = f"an input is {given}, it takes {', '.join(known.types)}"
            return UNSUPPORTED, reason, _type_advice(tensor, layer, known)
    return unsigned


def _type_advice(tensor: TensorInfo, layer: Layer, known: Operator) -> str:
    if "float32" in known.types and tensor.dtype in _INTEGERS:
        return "check the float graph instead: `--run NAME --stage float`, or `--preset P --stage float`"
    if tensor.dtype == "float32":
        return "quantise: `python -m motrlab run --run NAME --to 05_conversion`, then check the run"
    if not tensor.path:
        return "the grid is a function's own (logits, positions, boxes): no rule changes it"
    return f'paste into the scheme: Rule(graph="{layer.graph}", path="{tensor.path}", precision="int8")'


def format_check(check: Check) -> str:
    """A plain table: modules with their counts, then what does not fit, with reason, place and advice."""
    target, counts = check.target, check.counts
    told = ", ".join(f"{counts[name]} {name}" for name in VERDICTS)
    lines = [f"{check.told} on {target.name} ({target.title})", f"{len(check.verdicts)} layers: {told}", ""]
    rows: dict[tuple[str, str], Counter[str]] = {}
    for verdict in check.verdicts:
        rows.setdefault((verdict.layer.graph, verdict.layer.module), Counter())[verdict.verdict] += 1
    width = max(len(f"{graph}/{module}") for graph, module in rows)
    lines.append(f"{'module':{width}}" + "".join(f"{name:>13}" for name in VERDICTS))
    for (graph, module), found in rows.items():
        cells = "".join(f"{found[name] or '-':>13}" for name in VERDICTS)
        lines.append(f"{graph + '/' + module:{width}}{cells}")
    return "\n".join([*lines, *_rest(check)])


def _rest(check: Check) -> list[str]:
    """Layers that do not fit, by what is said of them, the gravest first."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    order = (UNSUPPORTED, FALLBACK, UNKNOWN)
    for verdict in sorted((v for v in check.verdicts if v.verdict != FITS), key=lambda v: order.index(v.verdict)):
        said = (verdict.verdict, verdict.reason, verdict.advice.replace(verdict.layer.name, "NAME"))
        groups.setdefault(said, []).append(verdict)
    lines = []
    for (name, reason, advice), found in groups.items():
        operators = Counter(v.layer.operator for v in found)
        first = found[0]
        place = f" ({first.file}:{first.line})" if first.file else ""
        lines += ["", f"{name}: {', '.join(f'{key} ×{number}' for key, number in operators.items())}: {reason}"]
        lines += [f"    first {first.layer.graph} {first.layer.name}{place}", f"    {advice}"]
    return lines
