"""The explorers in a real JupyterLab in headless Chromium: shown, a slider moved, something else shown, no error.

pip install -e '.[browser]'        (Chromium is the system's own: nothing is downloaded)
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from motrlab.config import smoke
from motrlab.data.store import FrameStore
from motrlab.model.motr import build_motr, folded_copy
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.shipped import shipped_artifact
from motrlab.stages.accuracy import network_inputs, open_engine, track_part
from motrlab.stages.data import prepare_data, write_track_files
from tests.lab import complaints, jupyterlab, notebook_page, start_all, wait_for_all
from tests.viz.test_explore_perf import MEASURED, PREDICTED

pytestmark = pytest.mark.browser
HEAD = "from motrlab.run import Run\nrun = Run.open('demo')"
CELLS = {  # explorer → its cell, and which of its sliders is moved
    "TrackExplorer": ("from motrlab.viz.explore import TrackExplorer\nTrackExplorer(run).widget()", 0),
    "QuantExplorer": (
        "from motrlab.viz.explore_quant import QuantExplorer\nQuantExplorer.of_run(run, num_frames=1).widget()",
        0,
    ),
    "PerfExplorer": (
        "import json\nfrom motrlab.viz.explore_perf import PerfExplorer\n"
        "PerfExplorer(json.loads((run.path / 'perf.json').read_text())).widget()",
        0,
    ),
    "TuneExplorer": ("from motrlab.stages.recording import tune_explorer\ntune_explorer(run).widget()", 0),
}
CELLS_S, STEP_S = 240, 60


@pytest.fixture(scope="module")
def playwright(chromium: str) -> Any:
    """Asked for first: nothing is made where the tests skip."""
    return pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[browser]'")


@pytest.fixture(scope="module")
def project(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a run that has all that the explorers look at, and a notebook that shows them."""
    home = tmp_path_factory.mktemp("lab")
    path = home / "runs" / "demo"
    path.mkdir(parents=True)
    base = smoke()
    config = replace(base, street=replace(base.street, num_videos=2, num_unseen=0, num_frames=24), num_workers=0)
    run = Run(path, config)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    prepare_data(run, num_workers=1)
    shutil.copytree(shipped_artifact(), run.artifact)
    write_track_files(run.tracks("fixed_point"), track_part(run, open_engine(run, "fixed_point"), "test"))
    quantised = QuantizedMotr(folded_copy(build_motr(config.model)))
    store = FrameStore(run.data / "test_lmdb")
    plain = replace(config, calibration=replace(config.calibration, num_frames=2, adaptive_rounding=False))
    with torch.no_grad():
        calibrate(quantised, [network_inputs(run, store, store.sequences[0].name, last=2)], plain)
    quantised.save(run.model_file("calibration"), config)
    # Two rows more than the slider of rows shows at its least.
    more = [{**MEASURED["layers"][1], "module": f"norm{i}"} for i in range(30)]
    results = {"host, measured": {**MEASURED, "layers": MEASURED["layers"] + more}, "chip, predicted": PREDICTED}
    (path / "perf.json").write_text(json.dumps(results))
    cells = [nbformat.v4.new_code_cell(source) for source in (HEAD, *(code for code, _ in CELLS.values()))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), home / "explorers.ipynb")
    return home


@pytest.fixture(scope="module")
def page(project: Path, chromium: str, playwright: Any) -> Iterator[Any]:
    """The notebook in the browser, all cells run."""
    with (
        jupyterlab(project) as address,
        playwright.sync_playwright() as driver,
        notebook_page(driver, chromium, address, "explorers.ipynb", 5) as page,
    ):
        start_all(page)
        shown = "document.querySelectorAll('.jp-CodeCell .jp-OutputArea-output .widget-vbox').length >= 4"
        page.wait_for_function(shown, timeout=1e3 * CELLS_S)
        wait_for_all(page, CELLS_S)
        yield page


def cell(page: Any, name: str) -> Any:
    return page.locator(".jp-CodeCell").nth(1 + list(CELLS).index(name))


def state(page: Any, name: str) -> str:
    """What a person sees: pictures, tables and words of an explorer; where its sliders stand is left out."""
    seen = "e => [...e.querySelectorAll('img.widget-image')].map(i => i.src).join() + "
    seen += "[...e.querySelectorAll('.widget-html-content')].map(h => h.innerHTML).join()"
    return str(cell(page, name).evaluate(seen))


def test_all_are_shown(page: Any) -> None:
    assert complaints(page) == []
    for name in ("TrackExplorer", "QuantExplorer"):
        picture = cell(page, name).locator("img.widget-image").first
        picture.wait_for(timeout=1e3 * STEP_S)
        assert picture.evaluate("i => i.naturalWidth") >= 400
    assert "base stem" in cell(page, "PerfExplorer").locator("svg circle title").first.text_content()
    assert cell(page, "TuneExplorer").locator("td").count() == 3 * 49  # MOTA, IDF1 and switches


@pytest.mark.parametrize("name", list(CELLS))
def test_a_slider_changes_what_is_shown(page: Any, name: str) -> None:
    before = state(page, name)
    handle = cell(page, name).locator(".noUi-handle").nth(CELLS[name][1])
    handle.focus()
    handle.press("ArrowRight")
    deadline = time.monotonic() + STEP_S
    while state(page, name) == before and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert state(page, name) != before
    assert complaints(page) == []


def test_next_error_moves_on(page: Any) -> None:
    before = state(page, "TrackExplorer")
    cell(page, "TrackExplorer").locator("button", has_text="next error").click()
    page.wait_for_timeout(1000)
    deadline = time.monotonic() + STEP_S
    while state(page, "TrackExplorer") == before and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert state(page, "TrackExplorer") != before
    assert complaints(page) == []


def test_a_traceback_would_be_seen(page: Any) -> None:
    """The last test: it leaves an error in the notebook."""
    page.evaluate("window.jupyterapp.commands.execute('notebook:insert-cell-below')")
    write = "window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.setSource('1 / 0')"
    page.evaluate(write)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    page.get_by_text("ZeroDivisionError").first.wait_for(timeout=1e3 * STEP_S)
    assert any("ZeroDivisionError" in text for text in complaints(page))
