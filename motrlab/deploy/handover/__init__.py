"""What a vendor's toolchain needs of an artefact, as a folder: one file for each toolchain, and their table."""

from __future__ import annotations

from collections.abc import Callable

from motrlab.deploy.handover import aimet, horizon, portable, qnn
from motrlab.deploy.handover.package import Package
from motrlab.errors import UserError

TOOLCHAINS: dict[str, Callable[[Package], None]] = {
    "aimet": aimet.write,
    "horizon": horizon.write,
    "qnn": qnn.write,
    "onnx": portable.write,
}
# `onnx`: any tool that reads it. J5's hb_mapper wants opsets that lack our operators.
_OF_TARGET = {
    **dict.fromkeys(horizon.MARCH, "horizon"),
    "qnn-htp": "qnn",
    **dict.fromkeys(("horizon-j5", "ethos-u65", "ethos-u85", "rk3588"), "onnx"),
}


def toolchain_of(target: str) -> str:
    """The toolchain that compiles for a target; `onnx` for a user's own. Raises UserError for one that nobody knows."""
    if target.endswith(".json"):
        return "onnx"
    if target not in _OF_TARGET:
        raise UserError(f"no hand-over for target {target!r}; use one of {', '.join(_OF_TARGET)}, or --toolchain")
    return _OF_TARGET[target]


def writer_of(toolchain: str) -> Callable[[Package], None]:
    """Raises UserError for one that is not in the table."""
    if toolchain not in TOOLCHAINS:
        raise UserError(f"unknown toolchain {toolchain!r}; use one of {', '.join(TOOLCHAINS)}")
    return TOOLCHAINS[toolchain]
