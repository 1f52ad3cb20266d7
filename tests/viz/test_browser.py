"""The explorers in a real JupyterLab in headless Chromium: shown, a slider moved, something else shown, no error.

pip install -e '.[browser]'        (Chromium is the system's own: nothing is downloaded)
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
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
STARTS_S, CELLS_S, STEP_S = 90, 240, 60


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
def lab(project: Path) -> Iterator[str]:
    """A JupyterLab on that folder; its address."""
    settings = project / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # cells out of sight as well
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    around = {
        **os.environ,
        "MOTRLAB_HOME": str(project),
        "PYTHONPATH": paths,
        "JUPYTER_CONFIG_DIR": str(project / "jc"),
    }
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", f"--notebook-dir={project}"]
    options += [
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--LabApp.user_settings_dir={project / 'settings'}",
    ]
    log = (project / "lab.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=around, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_S
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (project / "lab.log").read_text()
                assert time.monotonic() < deadline, "JupyterLab does not answer"
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture(scope="module")
def page(lab: str, chromium: str, playwright: Any) -> Iterator[Any]:
    """The notebook in the browser, all cells run."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1400})
        page.thrown = []
        page.on("pageerror", lambda error: page.thrown.append(str(error)))
        page.goto(f"{lab}/lab/tree/explorers.ipynb?reset", timeout=1e3 * STARTS_S)
        page.wait_for_function("document.querySelectorAll('.jp-CodeCell').length == 5", timeout=1e3 * STARTS_S)
        idle = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
        page.wait_for_function(idle, timeout=1e3 * STARTS_S)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        shown = "document.querySelectorAll('.jp-CodeCell .jp-OutputArea-output .widget-vbox').length >= 4"
        page.wait_for_function(shown, timeout=1e3 * CELLS_S)
        yield page
        browser.close()


def cell(page: Any, name: str) -> Any:
    return page.locator(".jp-CodeCell").nth(1 + list(CELLS).index(name))


def state(page: Any, name: str) -> str:
    """What a person sees: pictures, tables and words of an explorer; where its sliders stand is left out."""
    seen = "e => [...e.querySelectorAll('img.widget-image')].map(i => i.src).join() + "
    seen += "[...e.querySelectorAll('.widget-html-content')].map(h => h.innerHTML).join()"
    return str(cell(page, name).evaluate(seen))


def complaints(page: Any) -> list[str]:
    """Tracebacks, anything on stderr, widgets that could not be made, errors of the page."""
    kinds = ("vnd.jupyter.error", "vnd.jupyter.stderr")
    places = [f".jp-OutputArea [data-mime-type='application/{kind}']" for kind in kinds]
    texts = [t for place in places for t in page.locator(place).all_inner_texts()]
    broken = page.locator(".jp-OutputArea-output", has_text="Error displaying widget").all_inner_texts()
    return [*texts, *broken, *page.thrown]


def test_all_are_shown(page: Any) -> None:
    assert complaints(page) == []
    for name in ("TrackExplorer", "QuantExplorer", "PerfExplorer"):
        picture = cell(page, name).locator("img.widget-image").first
        picture.wait_for(timeout=1e3 * STEP_S)
        assert picture.evaluate("i => i.naturalWidth") >= 400
    assert cell(page, "TuneExplorer").locator("td").count() == 49


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
