"""What a browser does with the report: it asks the network for nothing, and tables sort and filter."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from motrlab.report.html import PAGES, render_report
from motrlab.run import Run

# What Chromium asks of its maker, whatever page it shows.
BROWSERS_OWN = (
    b"update.googleapis.com", b"accounts.google.com", b"clients2.google.com", b"android.clients.google.com",
    b"optimizationguide-pa.googleapis.com", b"content-autofill.googleapis.com", b"www.google.com",
)  # fmt: skip
pytestmark = pytest.mark.browser
SORTED = """<pre id="found"></pre><script>
const table = document.querySelector("#by-sequence ~ .wide table");
const input = document.querySelector("#by-sequence ~ .filter input");
const shown = column => [...table.querySelectorAll("tbody tr")].filter(row => !row.hidden)
  .map(row => row.cells[column].textContent);
table.querySelectorAll("thead button")[2].click();
const down = shown(2);
table.querySelectorAll("thead button")[2].click();
const up = shown(2);
input.value = "night fixed";
input.dispatchEvent(new Event("input"));
const left = shown(0).map((name, i) => `${name} ${shown(1)[i]}`);
document.getElementById("found").textContent = JSON.stringify({down, up, left});
</script>"""


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and the first bytes of whoever connects to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1.0)
                    heard.append(connection.recv(4000))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            ended.set()
            thread.join()


def dump(chromium: str, page: Path, folder: Path, port: int) -> str:
    """The page after its script has run, in a browser for which every host is our port."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
        f"--host-resolver-rules=MAP * 127.0.0.1:{port}", f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    done = subprocess.run([chromium, *flags, page.as_uri()], check=True, capture_output=True, text=True, timeout=180)
    return done.stdout


@pytest.fixture(scope="module")
def report(filled: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with a notebook."""
    full_run = Run(tmp_path_factory.mktemp("browser") / "runs" / filled.name, filled.config)
    shutil.copytree(filled.path, full_run.path)
    (full_run.path / "notebooks").mkdir()
    text = "A picture ![from elsewhere](http://pictures.example.org/a.png) and $x^2$."
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), full_run.path / "notebooks" / "01_data_prep.ipynb")
    return render_report(full_run).parent


def test_listener_hears_a_page_that_asks(chromium: str, tmp_path: Path) -> None:
    """What the next test would see if a page asked for something."""
    (tmp_path / "page.html").write_text('<img src="http://pictures.example.org/a.png">')
    with listener() as (port, heard):
        dump(chromium, tmp_path / "page.html", tmp_path, port)
    assert any(b"pictures.example.org" in request for request in heard)


def test_no_page_asks_the_network_for_anything(report: Path, chromium: str, tmp_path: Path) -> None:
    pages = [*(page.file for page in PAGES), "notebooks/01_data_prep.html"]
    with listener() as (port, heard):
        for page in pages:
            assert "</html>" in dump(chromium, report / page, tmp_path, port)
            assert not any(host in (report / page).read_bytes() for host in BROWSERS_OWN)  # or we would not notice
    asked = [request for request in heard if request]  # the browser also ends with a connection open, and nothing said
    assert [request for request in asked if not any(host in request for host in BROWSERS_OWN)] == []


def test_tables_sort_and_filter(report: Path, chromium: str, tmp_path: Path) -> None:
    html = re.sub(r"<meta http-equiv[^>]*>", "", (report / "accuracy.html").read_text())
    (tmp_path / "page.html").write_text(html.replace("</body>", SORTED + "</body>"))
    dumped = dump(chromium, tmp_path / "page.html", tmp_path, 9)
    found = re.findall(r'<pre id="found">(.*?)</pre>', dumped, re.S)[0]
    down, up, left = (re.findall(r'"([^"]*)"', part) for part in re.findall(r"\[(.*?)\]", found))
    values = [float(text.split("−")[0].split("+")[0]) for text in down]
    assert len(values) == 10  # two sequences, four stages and the baseline
    assert values == sorted(values, reverse=True)
    assert [float(text.split("−")[0].split("+")[0]) for text in up] == sorted(values)
    assert left == ["street-02.night Fixed-point"]
