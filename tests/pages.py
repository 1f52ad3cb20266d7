"""What people read: pages and the notebooks' markdown, with the code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)


def _read(file: Path) -> str:
    if file.suffix != ".ipynb":
        return file.read_text(encoding="utf-8")
    return "\n\n".join(c.source for c in nbformat.read(file, as_version=4).cells if c.cell_type == "markdown")


FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("0*.ipynb")])
TEXTS = {str(file.relative_to(ROOT)): _read(file) for file in FILES}  # path under the root → its text


def without_blocks(text: str) -> str:
    return _FENCED.sub("", text)


def fenced_lines(text: str) -> Iterator[str]:
    """Lines of code blocks without their comments; what ends in a backslash goes on."""
    for block in _FENCED.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s+)#.*$", "", line).strip():
                yield command


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(text))
