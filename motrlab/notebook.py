"""The second cell of every notebook: parameters checked, run opened.

A notebook's parameters cell holds annotated literals, `name: type = value`. Jupyter leaves the annotations in
`__annotations__` of the namespace; papermill puts the values it was given into a cell of its own, which starts with
`# Parameters`. So a name in the second kind of cell that the first kind does not declare is a typing mistake.
"""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from motrlab.config.fields import WORDS, names_of, variants
from motrlab.data.motchallenge import find_sequences
from motrlab.errors import UserError
from motrlab.run import Run

_INJECTED = "# Parameters"  # papermill's first line in the cell it injects


def begin(namespace: MutableMapping[str, Any]) -> Run:
    """Check the parameters in a notebook's `globals()` and open the run they name.

    The parameters `data_root` and `sequences` (names with commas between), where a notebook has them, choose the data
    of a new run; `set` gives fields of the config other values, `FIELD=VALUE` with blanks between.

    An int given for a float parameter becomes one in `namespace`. Raises UserError on an unknown parameter, a value
    of another type, or a run that does not fit `preset`.
    """
    declared = dict(namespace.get("__annotations__", {}))
    if "run" not in declared or "preset" not in declared:
        raise UserError("the parameters cell must declare `run: str` and `preset: str` before this cell is run")
    check_parameters(declared, _injected_names(namespace.get("In", ())))
    for name, annotation in declared.items():
        if name in namespace:
            namespace[name] = _checked(name, namespace[name], annotation)
    run = namespace["run"]
    names = names_of(namespace.get("sequences", ""))
    source = checked_source(namespace.get("data_root") or None, names)
    fields = variants(namespace.get("set", "").split())
    if len(fields) > 1:
        raise UserError("set: several values need a run for each: python -m motrlab run --set FIELD=A,B")
    return Run.open(run.name if isinstance(run, Run) else run, namespace["preset"], fields=fields[0], **source)


def checked_source(data_root: str | None, sequences: Sequence[str]) -> dict[str, Any]:
    """The overrides of `Run.open` that choose a run's data; `data_root` made absolute, as notebooks work elsewhere.

    Raises UserError if the sequences are not there: before the run is made, or it would be bound to the mistake.
    """
    root = Path(data_root).expanduser().resolve() if data_root else None
    if root:
        find_sequences(root, sequences)
    return {"data_root": root and str(root), "sequences": tuple(sequences)}


def check_parameters(known: Iterable[str], given: Iterable[str]) -> None:
    """Raise UserError naming the known parameters if `given` has another one."""
    known = list(known)
    for name in (name for name in given if name not in known):
        raise UserError(f"unknown parameter {name!r}: this notebook has {', '.join(known)}")


def _injected_names(cells: Sequence[str]) -> list[str]:
    """Names assigned in the cells that papermill injected."""
    lines = [node for source in cells if source.startswith(_INJECTED) for node in ast.parse(source).body]
    targets = [target for node in lines if isinstance(node, ast.Assign) for target in node.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _checked(name: str, value: Any, annotation: Any) -> Any:
    """The value, as its annotation asks for it."""
    if isinstance(value, Run) and name == "run":  # `run = begin(globals())` executed a second time
        return value
    allowed = _plain_types(annotation)
    if isinstance(value, str) and value in WORDS and str not in allowed:
        value = WORDS[value]
    if float in allowed and isinstance(value, int) and not isinstance(value, bool) and int not in allowed:
        return float(value)
    if not allowed or type(value) in allowed:
        return value
    wanted = " or ".join(t.__name__ for t in allowed)
    hint = f"; with papermill, `-r {name} {value}` passes it as text" if allowed == (str,) else ""
    raise UserError(f"parameter {name!r} must be {wanted}, not {value!r} ({type(value).__name__}){hint}")


def _plain_types(annotation: Any) -> tuple[type, ...]:
    """`int`, `str | None`, `list[int]` as types to compare with; empty where the annotation says nothing."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return tuple(t for part in typing.get_args(annotation) for t in _plain_types(part))
    found = origin or annotation
    return (found,) if isinstance(found, type) else ()
