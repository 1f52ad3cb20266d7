"""Targets as data: what a chip or host computes, how fast, from which memory, and who says so.

A target is a JSON file (`targets/NAME.json`, or a user's own). Every figure is an object `{"value": …, "source": …}`;
`source` is a key of the file's `sources` or "assumed". A figure without one is an error, so is a field that nobody
knows. The fields and their units are those of the dataclasses here.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motrlab.errors import UserError

SCHEMA = 1
ASSUMED = "assumed"
FOLDER = Path(__file__).parent / "targets"
# What a target may limit in a layer: sizes of a convolution, numbers of constant operands, of elements along an axis.
LIMITS = ("kernel", "stride", "dilation", "channels", "reduced", "height", "width", "pixels", "dim", "constants")
UNITS = ("matrix", "depthwise", "vector", "table", "move", "host")  # what computes, or moves, a layer
# Of a product's result, and what it sums over (`taps`: places of a kernel).
LANES = ("output_channels", "input_channels", "columns", "rows", "taps")
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "int64", "bool", "float16", "float32")
_MAY_BE_ZERO = ("latency", "layer_overhead", "graph_overhead", "host_work", "kernels", "cold")


@dataclass(frozen=True)
class Figure:
    """A number and who says so: a key of `Target.sources`, or "assumed"."""

    value: float
    source: str


@dataclass(frozen=True)
class Source:
    """Where figures were read: a page or file that everybody can open, and when."""

    title: str
    where: str
    read: str = ""


@dataclass(frozen=True)
class Memory:
    """A level of memory. `size`: bytes; `bandwidth`: bytes per second; `latency`: seconds of the first byte; `burst`:
    bytes that always move together, so that values apart from their neighbours waste the rest; `grain`: the least that
    is asked for at once.
    """

    size: Figure
    bandwidth: Figure
    latency: Figure
    burst: Figure | None = None
    grain: Figure | None = None


@dataclass(frozen=True)
class Operator:
    """What a target does with an ONNX operator.

    Args:
        unit: one of `UNITS`.
        types: what inputs (weights and biases apart) may be, as `int8`, `uint8` (from 0), `int16`, `float32`; a layer
            of other types is not run as it is.
        max_rank: of any input or output; 0: no source gives a limit.
        limits: what of a layer → largest value: a key of `LIMITS`.
        fallback: where a layer goes that does not fit, `cpu` (the target's own) or empty: nowhere.
        source: who says all that; "assumed": nobody does, and the layer is unknown.
        parts: the operators that the toolchain takes it apart into, each a pass over all values (over all products of
            a MatMul, column by column); empty: the target has it as a whole.
        rate: amount per cycle, where it is not its unit's.
        note: one line for the reader.
    """

    unit: str
    types: tuple[str, ...]
    source: str
    max_rank: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)
    fallback: str = ""
    parts: tuple[str, ...] = ()
    rate: Figure | None = None
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A chip or host.

    Args:
        schema, name, title: which file this is.
        kind: `host` (measured here) or `chip` (predicted).
        toolchain: what compiles for it, with its own name of the chip (`hb_compile nash-m`); empty: nothing known.
        clock: hertz.
        cores: how many graphs can run side by side, each on all kinds of units; a frame runs on one of them.
        operations: unit → type → operations per cycle of one core: multiply-accumulates of `matrix` and `depthwise`,
            elements of `vector` and `table`, bytes of `move`. A type that is not listed is not computed by that unit.
        layer_overhead, graph_overhead: seconds that every layer, and every call of a graph, takes beside its work.
        on_chip, off_chip: the memory near the units, and the one that holds what does not fit.
        operators: ONNX operator → what is known; one that is not listed is unknown.
        sources: key → source.
        assumptions: one line each, for the reader: what decides the prediction and is not known.
        lanes: unit → dimension (of `LANES`) → how many of it are computed at once: what does not fill them is lost.
            Empty: no loss is known. `UNIT:NAME` is another way in which the unit can go; a layer takes its best one.
        block: values of a result that are worked on at a time: a layer reads its first block before it computes, and
            writes its last one afterwards; blocks between overlap. Left out: all of a layer overlaps.
        channel_load: seconds of reading the scale and bias of one output channel of a product.
        host_work: seconds of a frame outside both graphs (pre-processing, tracker), where nothing was measured.
        kernels: of a host that was described by micro-benchmarks: kernel → feature → seconds for each unit of it
            (`describe_host.py`); its layers are predicted by these alone.
        cold: of such a host: bytes of memory that other graphs have used since a graph's last call → seconds for each
            of its layers that the call then takes longer, most of it between layers; in between on a straight line.
    """

    schema: int
    name: str
    title: str
    kind: str
    toolchain: str
    clock: Figure
    cores: Figure
    operations: Mapping[str, Mapping[str, Figure]]
    layer_overhead: Figure
    graph_overhead: Figure
    on_chip: Memory
    off_chip: Memory
    operators: Mapping[str, Operator]
    sources: Mapping[str, Source]
    assumptions: tuple[str, ...] = ()
    lanes: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    block: Figure | None = None
    channel_load: Figure | None = None
    host_work: Figure | None = None
    kernels: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    cold: Mapping[str, Figure] = field(default_factory=dict)


def target_names() -> list[str]:
    """The targets that come with motrlab."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_target(name: str) -> Target:
    """A shipped target by name, or a user's `path/to/target.json`. Raises UserError: unknown, or not as it must be."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        what = f"{name}: no such target file" if name.endswith(".json") else f"unknown target {name!r}"
        raise UserError(f"{what}; use one of {', '.join(target_names())} or path/to/target.json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    return parse_target(values, str(path))


def parse_target(values: Any, where: str) -> Target:
    """A target from the values of its file. Raises UserError naming the field."""
    target = _parse(Target, values, where)
    if target.schema != SCHEMA:
        raise UserError(f"{where}: schema {target.schema}, this motrlab reads {SCHEMA}")
    if target.kind not in ("host", "chip"):
        raise UserError(f"{where}: kind: {target.kind!r} is neither host nor chip")
    _check_names(target, where)
    for name, operator in target.operators.items():
        _check_operator(target, operator, f"{where}: operators: {name}")
    for at, figure in _cited(target, ""):
        if figure.source != ASSUMED and figure.source not in target.sources:
            raise UserError(f'{where}: {at}: source {figure.source!r} is not in "sources"; list it, or say "assumed"')
        if isinstance(figure, Figure):
            least = "at least" if any(name in at.split(".") for name in _MAY_BE_ZERO) else "more than"
            if not 0 <= figure.value < math.inf or (least == "more than" and not figure.value):
                raise UserError(f"{where}: {at}: value: must be {least} 0, found {figure.value:g}")
    return target


def _check_names(target: Target, where: str) -> None:
    """Units, types, limits and dimensions are known ones."""
    units = {name.partition(":")[0] for name in target.lanes}
    for name in {*target.operations, *units, *(operator.unit for operator in target.operators.values())}:
        if name not in UNITS:
            raise UserError(f"{where}: unknown unit {name!r}: use one of {', '.join(UNITS)}")
    for name in dict.fromkeys(key for operator in target.operators.values() for key in operator.limits):
        if name not in LIMITS:
            raise UserError(f"{where}: unknown limit {name!r}: use one of {', '.join(LIMITS)}")
    for unit, lanes in target.lanes.items():
        for name in lanes.keys() - set(LANES):
            raise UserError(f"{where}: lanes: {unit}: unknown dimension {name!r}: use one of {', '.join(LANES)}")
    for at, types_there in [
        *((f"operators: {name}", operator.types) for name, operator in target.operators.items()),
        *((f"operations: {unit}", tuple(rates)) for unit, rates in target.operations.items()),
    ]:
        for name in (name for name in types_there if name not in TYPES):
            raise UserError(f"{where}: {at}: unknown type {name!r}: use one of {', '.join(TYPES)}")


def _check_operator(target: Target, operator: Operator, where: str) -> None:
    """What runs it, itself or in parts, computes something; and it falls back to where a target has something."""
    if operator.fallback not in ("", "cpu"):
        raise UserError(f'{where}: fallback: {operator.fallback!r} is neither "cpu" nor empty')
    if operator.types and operator.unit not in target.operations:
        raise UserError(f'{where}: unit {operator.unit!r} is not in "operations"; say there what it does in a cycle')
    for name in operator.parts:
        part = target.operators.get(name)
        if part is None or part.unit not in target.operations:
            raise UserError(f'{where}: part {name!r} is no operator of a unit of "operations"; list it')


def assumed_figures(target: Target) -> tuple[int, int]:
    """How many of a target's figures nobody says, and how many it has."""
    figures = [found.source for _, found in _cited(target, "") if isinstance(found, Figure)]
    return figures.count(ASSUMED), len(figures)


def format_target(target: Target) -> str:
    """What a target is, how much of it is assumed, and where the rest comes from, as plain text."""
    assumed, number = assumed_figures(target)
    unknown = [name for name, operator in target.operators.items() if operator.source == ASSUMED]
    lines = [
        f"{target.name}: {target.title} ({target.kind}; {target.toolchain or 'no toolchain known'})",
        f"  {assumed} of {number} figures are assumed; {len(unknown)} of {len(target.operators)} "
        f"operators unknown{': ' if unknown else ''}{', '.join(unknown)}",
        *(f"  source {key}: {source.title}; {source.where}" for key, source in target.sources.items()),
        *(f"  assumed: {line}" for line in target.assumptions),
    ]
    return "\n".join(lines)


def _cited(value: Any, at: str) -> list[tuple[str, Figure | Operator]]:
    """All places of a target with what names a source there."""
    if isinstance(value, Figure | Operator):
        return [(at, value)]
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        return []
    return [found for key, inner in value.items() for found in _cited(inner, f"{at}.{key}".lstrip("."))]


def _parse(kind: Any, value: Any, at: str) -> Any:
    """`value` of JSON as a `kind`: a dataclass, mapping, tuple or plain type; `at` says where it stands."""
    if isinstance(kind, types.UnionType):  # of a field that may be left out
        kind = typing.get_args(kind)[0]
    origin = typing.get_origin(kind)
    if origin is collections.abc.Mapping:
        inner = typing.get_args(kind)[1]
        _expect(dict, value, at)
        return {key: _parse(inner, item, f"{at}: {key}") for key, item in value.items()}
    if origin is tuple:
        _expect(list, value, at)
        return tuple(_parse(typing.get_args(kind)[0], item, at) for item in value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        _expect(dict, value, at)
        known, hints = {f.name: f for f in dataclasses.fields(kind)}, typing.get_type_hints(kind)
        for key in value.keys() - known.keys():
            raise UserError(f"{at}: unknown field {key!r}; known: {', '.join(known)}")
        needed = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
        for key in needed:
            if key not in value:
                raise UserError(f"{at}: field {key!r} is missing")
        return kind(**{key: _parse(hints[key], item, f"{at}: {key}") for key, item in value.items()})
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _expect(kind, value, at)
    return value


def _expect(kind: type, value: Any, at: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{at}: expected {kind.__name__}, found {value!r:.60}")
