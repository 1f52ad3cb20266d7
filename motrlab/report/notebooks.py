"""A run's executed notebooks as pages beside its report: whole without network, script or fonts.

Live widgets are left out, as nothing drives them here; each has its static form below it in the notebook. Formulas are
drawn by Matplotlib, photographs made small enough for 2 MB a page.
"""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from motrlab.files import write_text
from motrlab.report.frames import shrunk
from motrlab.report.pages import environment
from motrlab.run import Run

FOLDER = "notebooks"
_MAX_BYTES, _LARGE = 1_800_000, 60_000  # of a page; base64 characters of a picture that may become smaller
_LEFT_OUT = ("application/vnd.jupyter.widget-view+json", "application/javascript")
_FORMULA = re.compile(r"(`[^`]*`)|\$\$(.+?)\$\$|\$(?! )([^$\n]+?)(?<! )\$", re.S)
_PROJECT_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)[^)\s]*\)")  # what it names is not beside a report


def render(run: Run, folder: Path, *, only: str = "") -> dict[str, str]:
    """Write a page for each notebook that `python -m motrlab run` has executed; name → path relative to the report.

    `only`: that one alone is written. Empty where there is none.
    """
    files = sorted((run.path / "notebooks").glob("*.ipynb"))
    links = {file.stem: f"{FOLDER}/{file.stem}.html" for file in files}
    for file in files:
        if only in ("", file.stem):
            names = {name: path.removeprefix(f"{FOLDER}/") for name, path in links.items() if name != file.stem}
            write_text(folder / f"{file.stem}.html", notebook_html(file, run.name, names))
    return links


def notebook_html(file: Path, run_name: str, others: Mapping[str, str]) -> str:
    """The notebook as a page that needs nothing else."""
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_formulas(_PROJECT_LINK.sub(r"\1", cell.source))
        cell["outputs"] = [o for o in cell.get("outputs", ()) if not set(_LEFT_OUT) & set(o.get("data", ()))]
    budget = _MAX_BYTES
    for _ in range(4):
        body, _resources = _exporter().from_notebook_node(_with_small_pictures(notebook, budget))
        if len(body.encode()) <= _MAX_BYTES:
            break
        budget //= 2
    links = {"Report": "../index.html", **others}
    page = environment().get_template("notebook.html.j2")
    return page.render(title=file.stem, run=run_name, body=_wide_tables(body), pages=links)


@functools.cache
def _exporter() -> Any:
    """One for all notebooks: it keeps its compiled templates."""
    from nbconvert.exporters import HTMLExporter

    return HTMLExporter(template_name="basic")


def _wide_tables(body: str) -> str:
    """Tables scroll by themselves on a narrow screen."""
    opened = '<div class="wide" role="region" aria-label="Table" tabindex="0"><table'
    return re.sub(r"</table>", "</table></div>", re.sub(r"<table", opened, body))


def _with_small_pictures(notebook: Any, budget: int) -> Any:
    """The notebook with its large pictures as JPEG, if all together are over `budget` characters."""
    large = [
        (output["data"], kind)
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in ("image/png", "image/jpeg")
        if len(output.get("data", {}).get(kind, "")) > _LARGE
    ]
    if sum(len(data[kind]) for data, kind in large) > budget - 300_000:
        share = int((budget - 300_000) * 0.75 / len(large))
        for data, kind in large:
            pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data[kind]), np.uint8), cv2.IMREAD_COLOR)
            small = base64.b64encode(shrunk(np.asarray(pixels, np.uint8), share)).decode()
            if len(small) < len(data[kind]):
                del data[kind]
                data["image/jpeg"] = small
    return notebook


def with_formulas(text: str) -> str:
    """Markdown with its `$…$` and `$$…$$` as pictures; code, and what Matplotlib cannot draw, stays as it is."""

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code:
            return code
        tex = " ".join((block or inline).split())
        try:
            data = base64.b64encode(_formula_svg(tex)).decode()
        except ValueError:
            return f"`{tex}`"
        kind = "formula block" if block else "formula"
        return f'<img class="{kind}" alt="{escape(tex)}" src="data:image/svg+xml;base64,{data}">'

    return _FORMULA.sub(drawn, text)


def _formula_svg(tex: str) -> bytes:
    """Raises ValueError where Matplotlib does not know a command."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "motrlab", "mathtext.fontset": "cm"}), io.BytesIO() as stream:
        figure = Figure(figsize=(0.01, 0.01))
        figure.text(0, 0, f"${tex}$", fontsize=13)
        options: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.02, "transparent": True}
        figure.savefig(stream, format="svg", metadata={"Date": None}, **options)
        return stream.getvalue()
