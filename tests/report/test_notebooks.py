"""Executed notebooks as pages: whole without network and script."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from motrlab.report.html import render_report
from motrlab.report.notebooks import notebook_html, render, with_formulas
from motrlab.run import Run
from tests.report.test_html import Page


def picture(width: int) -> str:
    noise = np.random.default_rng(1).integers(0, 255, (width // 2, width, 3), np.uint8)
    return base64.b64encode(cv2.imencode(".png", noise)[1].tobytes()).decode()


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Text with a formula, a table, a picture, a widget, coloured text."""
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "VBox(children=(...))"}
    outputs = [
        new_output("display_data", {"image/png": picture(64)}, metadata={"image/png": {"alt": "noise"}}),
        new_output("display_data", widget),
        new_output("display_data", {"application/javascript": "alert(1)"}),
        new_output("display_data", {"text/html": "<table><tr><td>cell</td></tr></table>"}),
        new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m plain"),
    ]
    cells = [
        new_markdown_cell(
            "# Title\n\nScale $s = \\frac{r}{127}$. See [the code](../motrlab/run.py) and [a paper](https://arxiv.org/abs/1)."
        ),
        new_code_cell("x = 1  # one", outputs=outputs),
    ]
    path = tmp_path / "03_calibration.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_page_is_whole(notebook: Path) -> None:
    html = notebook_html(notebook, "demo", {"04_qat": "04_qat.html"})
    page = Page(html)
    assert (page.stack, page.unclosed) == ([], [])
    assert not page.all("script")
    assert not page.all("link")[1:]
    assert all((image["src"] or "").startswith("data:") and image["alt"] for image in page.all("img"))
    assert {a["href"] for a in page.all("a")} >= {"../index.html", "04_qat.html"}
    for text in ("Title", "x = 1", "cell", "red"):
        assert text in page.text
    assert "https://arxiv.org/abs/1" in {a["href"] for a in page.all("a")}
    assert "See the code and" in page.text  # the project is not beside a report
    for text in ("VBox", "alert(1)", "\x1b", "run.py"):
        assert text not in html
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert notebook_html(notebook, "demo", {"04_qat": "04_qat.html"}) == html


def test_formulas_are_drawn_and_code_is_left() -> None:
    text = with_formulas("`$HOME` costs $5, $x^2$ and $$\\sum_i q_i$$ but not $\\nosuch{x}$")
    assert text.count("data:image/svg+xml;base64,") == 2
    assert 'alt="x^2"' in text
    assert "`$HOME`" in text
    assert "`\\nosuch{x}`" in text


def test_large_pictures_become_smaller(notebook: Path) -> None:
    found = nbformat.read(notebook, as_version=4)
    large = new_output("display_data", {"image/png": picture(1200)})
    found.cells += [new_code_cell("y", outputs=[large]) for _ in range(2)]
    nbformat.write(found, notebook)
    assert notebook.stat().st_size > 4_000_000
    assert len(notebook_html(notebook, "demo", {})) < 2_000_000


def test_report_links_to_them(full_run: Run, notebook: Path) -> None:
    (full_run.path / "notebooks").mkdir()
    notebook.rename(full_run.path / "notebooks" / notebook.name)
    path = render_report(full_run)
    link = "notebooks/03_calibration.html"
    assert link in [a["href"] for a in Page(path.read_text()).all("a")]
    assert (path.parent / link).is_file()


def test_numbers_only_has_no_notebooks(full_run: Run, notebook: Path) -> None:
    (full_run.path / "notebooks").mkdir()
    notebook.rename(full_run.path / "notebooks" / notebook.name)
    path = render_report(full_run, numbers_only=True)
    assert not (path.parent / "notebooks").exists()
    assert "03_calibration" not in path.read_text()


def test_one_alone(full_run: Run, notebook: Path, tmp_path: Path) -> None:
    folder = full_run.path / "notebooks"
    folder.mkdir()
    notebook.rename(folder / notebook.name)
    (folder / "04_qat.ipynb").write_text("{}")  # still being written
    links = render(full_run, tmp_path / "out", only="03_calibration")
    assert list(links) == ["03_calibration", "04_qat"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["03_calibration.html"]
