"""A real JupyterLab on a project folder, driven in the system's Chromium (`pip install -e '.[browser]'`)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTS_S = 300  # a loaded machine included
_RED = ".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']"  # JupyterLab draws tracebacks as such, too
_TRACEBACK = "Traceback (most recent call last)"
_BROKEN = re.compile("Error displaying widget|Failed to load model|Loading widget")
_WARNING = re.compile(r"\w*Warning:|\[W[ \d]")
_ALL_RUN = f"""() => {{
  const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
  const red = [...document.querySelectorAll("{_RED}")].map(output => output.textContent);
  return prompts.every(text => /\\d/.test(text)) || red.some(text => text.includes('{_TRACEBACK}'));
}}"""


@contextmanager
def jupyterlab(home: Path) -> Iterator[str]:
    """A JupyterLab on `home`, which is its MOTRLAB_HOME as well; its address. All cells are drawn, in sight or not."""
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    around = {"MOTRLAB_HOME": str(home), "PYTHONPATH": os.pathsep.join(paths), "JUPYTER_CONFIG_DIR": str(home / "jc")}
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", f"--notebook-dir={home}"]
    options += ["--IdentityProvider.token=", "--ServerApp.password=", f"--LabApp.user_settings_dir={home / 'settings'}"]
    log = (home / "lab.log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, env={**os.environ, **around}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_S
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (home / "lab.log").read_text()
                assert time.monotonic() < deadline, "JupyterLab does not answer"
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@contextmanager
def notebook_page(driver: Any, chromium: str, address: str, notebook: str, num_cells: int) -> Iterator[Any]:
    """The page of a notebook with so many code cells, its kernel ready. `thrown`: errors of the page itself."""
    browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    try:
        page = browser.new_page(viewport={"width": 1600, "height": 1400})
        page.thrown = []
        page.on("pageerror", lambda error: page.thrown.append(str(error)))
        page.goto(f"{address}/lab/tree/{notebook}?reset", timeout=1e3 * STARTS_S)
        cells = f"document.querySelectorAll('.jp-CodeCell').length == {num_cells}"
        page.wait_for_function(cells, timeout=1e3 * STARTS_S)
        idle = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
        page.wait_for_function(idle, timeout=1e3 * STARTS_S)
        yield page
        page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
    finally:
        browser.close()


def start_all(page: Any) -> None:
    """What the menu's "Run All Cells" does."""
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")


def wait_for_all(page: Any, timeout_s: float, widgets_s: float = 30) -> None:
    """Until every cell has run or one has failed, and widgets have had their time to appear."""
    page.wait_for_function(_ALL_RUN, timeout=1e3 * timeout_s)
    deadline = time.monotonic() + widgets_s
    while broken_widgets(page) and time.monotonic() < deadline:
        page.wait_for_timeout(200)


def errors(page: Any) -> list[str]:
    """Tracebacks, and errors of the page itself."""
    return [text for text in page.locator(_RED).all_inner_texts() if _TRACEBACK in text] + page.thrown


def broken_widgets(page: Any) -> list[str]:
    """Widgets that are not there, or not yet."""
    return [text for text in page.locator(".jp-OutputArea-output").all_inner_texts() if _BROKEN.search(text)]


def warnings(page: Any) -> list[str]:
    """Anything on stderr that is no traceback, and warnings in any other output."""
    red = [text for text in page.locator(_RED).all_inner_texts() if _TRACEBACK not in text]
    return red + [t for t in page.locator(".jp-OutputArea-output").all_inner_texts() if _WARNING.search(t)]


def complaints(page: Any) -> list[str]:
    """All of these."""
    return [*errors(page), *broken_widgets(page), *warnings(page)]
