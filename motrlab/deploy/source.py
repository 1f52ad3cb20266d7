"""Where in our source a layer comes from: the class of its module, or the operation that has no module."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_SHAPES = ("mot17", "street")  # between them they have every kind of module


@cache
def source_of(graph: str, module: str) -> tuple[str, int]:
    """File, relative to the checkout, and line of `module` of `base` or `qim`; empty and 0 where nothing has that name.

    Which class a path leads to does not depend on the numbers in it, so no config is needed.
    """
    from motrlab.model.operations import Operations

    found = _classes().get((graph, _unnumbered(module)))
    name = module.partition(".")[0]
    if found is None and callable(getattr(Operations, name, None)):
        found = getattr(Operations, name)
    if found is None:
        return "", 0
    return Path(inspect.getfile(found)).relative_to(_ROOT).as_posix(), inspect.getsourcelines(found)[1]


def _unnumbered(path: str) -> str:
    return re.sub(r"\d+", "#", path)


@cache
def _classes() -> dict[tuple[str, str], Any]:
    from motrlab.config.presets import load_preset
    from motrlab.model.motr import Motr

    found: dict[tuple[str, str], Any] = {}
    for preset in _SHAPES:
        model = Motr(load_preset(preset).model)
        for graph in ("base", "qim"):
            for path, module in model.get_submodule(graph).named_modules():
                own = type(module).__module__.startswith("motrlab.")
                parent = model.get_submodule(f"{graph}.{path}".rpartition(".")[0])
                found.setdefault((graph, _unnumbered(path)), type(module) if own else type(parent))
    return {key: kind for key, kind in found.items() if kind.__module__.startswith("motrlab.")}
