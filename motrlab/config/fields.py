"""Fields of a config by dotted names and texts: `--set train.lr=1e-3`, and several values for one."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import json
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from motrlab.config.whole import Config
from motrlab.errors import UserError

WORDS = {"true": True, "false": False, "null": None}  # as YAML and JSON spell them


def parse_value(text: str, kind: str = "") -> Any:
    """A value as papermill's `-p` reads it, lists and YAML's words included; `kind` "str" keeps text as it is."""
    if kind == "str":
        return text
    for read in (WORDS.__getitem__, int, float, ast.literal_eval, json.loads):
        with suppress(KeyError, ValueError, SyntaxError):
            return read(text)
    return text


def names_of(text: str) -> tuple[str, ...]:
    """`A,B` as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def variants(assignments: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the values of `FIELD=VALUE[,VALUE…]`; commas in brackets do not part values.

    Raises UserError for an assignment of another form.
    """
    choices = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name.strip() and equals):
            raise UserError(f"--set {assignment}: write --set FIELD=VALUE, such as --set train.lr=1e-3")
        choices.append([f"{name.strip()}={value.strip()}" for value in _values(text)])
    return list(itertools.product(*choices))


def _values(text: str) -> list[str]:
    """Parts of a text at the commas outside of all brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def with_fields(config: Config, assignments: Sequence[str]) -> Config:
    """The config with each `FIELD=VALUE`, one value each. Raises UserError: no such field, a value of another type."""
    values = config.to_dict()
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        *parents, last = name.split(".")
        kind: Any = Config
        inner: Any = values
        for parent in parents:
            kind = typing.get_type_hints(kind).get(parent) if dataclasses.is_dataclass(kind) else None
            inner = inner.get(parent) if isinstance(inner, dict) else None
        known = typing.get_type_hints(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else {}
        if last not in known or last == "preset" or dataclasses.is_dataclass(known[last]):
            raise UserError(f"--set {assignment}: no such field; {_hint(name)}")
        inner[last] = _typed(assignment, parse_value(text, "str" if known[last] is str else ""), known[last])
    return Config.from_dict(values)


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, _names(Config, ""), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "a field is SECTION.NAME, such as train.lr"


def _names(kind: Any, prefix: str) -> list[str]:
    """Dotted names of all fields."""
    found = []
    for name, inner in typing.get_type_hints(kind).items():
        found += _names(inner, f"{prefix}{name}.") if dataclasses.is_dataclass(inner) else [prefix + name]
    return found


def _typed(assignment: str, value: Any, kind: Any) -> Any:
    """A value as JSON has it for a field of that type."""
    allowed = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    plain = [list if typing.get_origin(k) is tuple else k for k in allowed]
    if isinstance(value, tuple):
        value = list(value)
    if float in plain and type(value) is int:
        value = float(value)
    if type(value) not in plain:
        wanted = " or ".join("nothing (null)" if k is types.NoneType else k.__name__ for k in plain)
        raise UserError(f"--set {assignment}: must be {wanted}, not {value!r}")
    return value
