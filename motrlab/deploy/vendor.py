"""Vendors' tools, each in a process of its own and in a Python of the user's choice."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from motrlab.errors import UserError


@dataclass(frozen=True)
class VendorTool:
    """`package` is imported by `script` (beside this file); `variable` names the environment variable that says which
    Python has it; `how`: how to get it. Without the variable it is motrlab's own Python.
    """

    name: str
    package: str
    script: str
    variable: str
    how: str

    def python(self) -> str:
        """Raises UserError where the package is not there."""
        chosen = os.environ.get(self.variable, "")
        if chosen and not (Path(chosen).is_file() and os.access(chosen, os.X_OK)):
            raise UserError(f"{self.variable}={chosen}: no such program; name the Python that has {self.package}")
        test = [chosen, "-c", f"import {self.package}"]
        found = subprocess.run(test, capture_output=True).returncode == 0 if chosen else find_spec(self.package)
        if not found:
            where = chosen or sys.executable
            raise UserError(f"{self.name} is not installed: {where} has no package {self.package}; {self.how}")
        return chosen or sys.executable

    def command(self, *arguments: str) -> list[str]:
        return [self.python(), str(Path(__file__).with_name(self.script)), *arguments]

    def run(self, *arguments: str) -> str:
        """What it prints. Raises UserError with its last line where it fails."""
        found = subprocess.run(self.command(*arguments), capture_output=True, text=True, errors="replace")
        if found.returncode:
            raise self.failed(found.returncode, found.stderr, found.stdout)
        return found.stdout

    def failed(self, status: int, *printed: str) -> UserError:
        """For a tool that ended with `status`: the last line of the first text that has one."""
        last = last_line(printed)
        return UserError(f"{self.name} failed (status {status}): {last}")


def last_line(printed: Sequence[str]) -> str:
    """Of the first text that has a line that is not empty."""
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in printed]
    return next((text[-1] for text in lines if text), "it printed nothing")
