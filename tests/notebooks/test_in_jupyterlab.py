"""Every notebook in a real JupyterLab in headless Chromium, Run All: no error, no broken widget, no warning.

Minutes in all: in order, in one project folder, as a person would. Any of them alone builds what it needs before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from motrlab.pipeline import NOTEBOOKS
from tests.lab import broken_widgets, errors, jupyterlab, notebook_page, start_all, wait_for_all, warnings

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FOLDER = Path(__file__).parents[2] / "notebooks"
RUNS_S = 1800  # the longest takes a minute on a quiet core


@pytest.fixture(scope="module")
def playwright(chromium: str) -> Any:
    """Asked for first: nothing is made where the tests skip."""
    return pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[browser]'")


@pytest.fixture(scope="module")
def lab(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The notebooks without their stored outputs, so that what is seen was made here."""
    home = tmp_path_factory.mktemp("lab")
    (home / "broken.ipynb").write_text(nbformat.writes(broken_notebook()))
    for name in NOTEBOOKS:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, home / f"{name}.ipynb")
    with jupyterlab(home) as address:
        yield address


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def broken_notebook() -> Any:
    """A widget whose model no kernel has, a warning, an error, and a cell that is therefore not run."""
    view = "{'application/vnd.jupyter.widget-view+json': {'version_major': 2, 'version_minor': 0, 'model_id': 'none'}}"
    sources = [
        f"from IPython.display import display\ndisplay({view}, raw=True)",
        "import warnings\nwarnings.warn('careful')",
        "1 / 0",
        "2",
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_what_is_broken_would_be_seen(lab: str, playwright: Any, chromium: str) -> None:
    with (
        playwright.sync_playwright() as driver,
        notebook_page(driver, chromium, lab, "broken.ipynb", 4) as page,
    ):
        start_all(page)
        wait_for_all(page, RUNS_S, widgets_s=5)
        assert any("ZeroDivisionError" in text for text in errors(page))
        assert len(broken_widgets(page)) == 1
        assert any("careful" in text for text in warnings(page))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all(name: str, lab: str, playwright: Any, chromium: str) -> None:
    cells = code_cells(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    began = time.monotonic()
    with (
        playwright.sync_playwright() as driver,
        notebook_page(driver, chromium, lab, f"{name}.ipynb", len(cells)) as page,
    ):
        start_all(page)
        page.locator(".jp-OutputArea-output img").first.wait_for(timeout=1e3 * RUNS_S)
        first_s = time.monotonic() - began
        wait_for_all(page, RUNS_S)
        found = errors(page), broken_widgets(page), warnings(page)
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
        shown = page.locator(".jp-OutputArea-output .jupyter-widgets.widget-vbox").count()
        told = f"{len(cells)} cells, {len(found[0])} errors, {len(found[1])} broken widgets, {len(found[2])} warnings"
        print(f"\n{name}: {told}; first picture after {first_s:.0f} s, all after {time.monotonic() - began:.0f} s")
        assert found == ([], [], [])
        assert [text.strip(" []:") for text in prompts] == [str(i) for i in range(1, len(cells) + 1)]
        assert shown >= sum(".widget()" in cell.source for cell in cells)
