"""Facts of this machine: processor, packages, checkout."""

import contextlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
_REPORTED_PACKAGES = ("motrlab", "torch", "onnx", "onnxruntime", "openvino", "numpy", "motmetrics")
_VNNI = {"avx512_vnni", "avx_vnni"}
_ARM = {"aarch64", "arm64"}


def num_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_line(start: str) -> str:
    """What Linux says of the first processor in the line that starts so; "" where it does not."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith(start):
                return line.partition(":")[2].strip()
    return ""


def cpu_flags() -> frozenset[str]:
    """What Linux calls the features of an x86 processor; empty where it does not tell."""
    return frozenset(_cpu_line("flags").split())


def may_saturate() -> bool:
    """Whether 8-bit products with signed weights may saturate here. A processor that does not tell counts as one."""
    return platform.machine().lower() not in _ARM and not _VNNI & cpu_flags()


def hardware() -> dict[str, Any]:
    """Processor name and the number of processors this process may use."""
    model = _cpu_line("model name") or platform.processor() or platform.machine()
    return {"cpu": model, "num_cpus": num_cpus(), "platform": platform.platform()}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    from importlib import metadata  # takes as long as half of what the runtime imports

    versions = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def git_state() -> dict[str, Any]:
    """`git_commit` ("" outside git) and `git_dirty` of the checkout this package lies in."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):  # not installed, or no checkout
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return None

    status = git("status", "--porcelain")
    return {"git_commit": git("rev-parse", "HEAD") or "", "git_dirty": None if status is None else bool(status)}
