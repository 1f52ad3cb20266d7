"""What a vendor's toolchain needs of an artefact, as a folder: one file for each toolchain, and their table."""

from __future__ import annotations

from collections.abc import Callable

from motrlab.deploy.handover import aimet, horizon, portable, qnn
from motrlab.deploy.handover.package import Package
from motrlab.deploy.target import Target
from motrlab.errors import UserError

TOOLCHAINS: dict[str, Callable[[Package], None]] = {
    "aimet": aimet.write,
    "horizon": horizon.write,
    "qnn": qnn.write,
    "onnx": portable.write,
}
# By the first word of a target's toolchain; for all others `onnx`, for any tool that reads it.
_OF_TOOL = {"hb_compile": "horizon", "onnxruntime-qnn": "qnn"}


def toolchain_of(target: Target) -> str:
    """The entry of `TOOLCHAINS` that compiles for a chip. Raises UserError for a host."""
    if target.kind == "host":
        raise UserError(f"{target.name} is a host: `python -m motrlab compile --target {target.name}` makes its files")
    return _OF_TOOL.get(target.toolchain.partition(" ")[0], "onnx")


def writer_of(toolchain: str) -> Callable[[Package], None]:
    """Raises UserError for one that is not in the table."""
    if toolchain not in TOOLCHAINS:
        raise UserError(f"unknown toolchain {toolchain!r}; use one of {', '.join(TOOLCHAINS)}")
    return TOOLCHAINS[toolchain]
