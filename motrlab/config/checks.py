"""What every config checks itself with, and how it is built from JSON. All raise UserError."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from motrlab.errors import UserError

_LATER = "later"


def later(default: Any) -> Any:
    """A field that came after things had been hashed: at its default it does not count, so their hashes stay."""
    return dataclasses.field(default=default, metadata={_LATER: True})


def counted_fields(item: Any) -> dict[str, Any]:
    """A dataclass as `dataclasses.asdict` has it, without the fields that are `later` and at their default."""
    found: dict[str, Any] = dataclasses.asdict(item)
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.metadata.get(_LATER) and value == field.default:
            del found[field.name]
        elif dataclasses.is_dataclass(value):
            found[field.name] = counted_fields(value)
    return found


def check(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def check_at_least(config: object, where: str, least: float, *names: str) -> None:
    """No field of these names is below `least`."""
    for name in names:
        value = getattr(config, name)
        check(value >= least, f"{where}: {name} must be at least {least}, not {value}")


def check_fractions(config: object, where: str, *names: str) -> None:
    """The fields of these names lie from 0 to 1."""
    for name in names:
        check(0 <= getattr(config, name) <= 1, f"{where}: {name} must be a fraction from 0 to 1")


def check_words(config: object, where: str, **allowed: tuple[str, ...]) -> None:
    """Each field is one of the words allowed for it."""
    for name, words in allowed.items():
        value = getattr(config, name)
        check(value in words, f"{where}: {name} must be one of {', '.join(words)}, not {value!r}")


def build(kind: Any, value: Any, where: str) -> Any:
    """Nested dataclasses and tuples from JSON types, following the annotations."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        check(isinstance(value, Mapping), f"{where}: an object with fields expected, not {value!r}")
        for name in sorted(set(value) - set(hints)):
            raise UserError(f"{where}: unknown field {name!r}; written by another version of motrlab?")
        try:
            return kind(**{name: build(hints[name], v, f"{where}.{name}") for name, v in value.items()})  # type: ignore[operator]
        except TypeError as error:
            raise UserError(f"{where}: {error}") from error
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if value is None:
        return None
    if origin is tuple:
        check(isinstance(value, list | tuple), f"{where}: a list expected, not {value!r}")
        inner = arguments if arguments[-1] is not Ellipsis else (arguments[0],) * len(value)
        return tuple(build(k, v, where) for k, v in zip(inner, value, strict=True))
    if type(None) in arguments:  # Optional
        return build(next(a for a in arguments if a is not type(None)), value, where)
    return value
