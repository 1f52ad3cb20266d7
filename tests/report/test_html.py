from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.report.html import PAGES, SECTIONS, headline, render_report, report_html
from motrlab.report.provenance import command
from motrlab.run import Run

STARTED = 1_700_000_000.0
MakeStage = Callable[..., None]
METRICS = {"mota": 0.412, "idf1": 0.4, "hota": 0.2}
OTHERS = [page.file for page in PAGES if page.file != "index.html"]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Text, attributes and nesting of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.unclosed: list[str] = []
        self.text = ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def page(filled: Run) -> Page:
    return Page(report_html(filled))


def test_page_stands_where_the_run_says_and_is_small(full_run: Run, home: Path) -> None:
    path = render_report(full_run)
    assert path == home / "reports" / "demo" / "index.html"
    assert path.stat().st_size < 2_000_000
    assert [(path.parent / name).is_file() for name in OTHERS] == [True] * len(OTHERS)


def test_same_records_same_page(filled: Run) -> None:
    assert report_html(filled) == report_html(filled)


def test_page_is_well_formed(page: Page) -> None:
    assert page.unclosed == []
    assert page.stack == []


def test_page_needs_nothing_from_elsewhere(full_run: Run) -> None:
    html = report_html(full_run)
    page = Page(html)
    assert not page.all("script")
    for attribute in ("src", "href", "srcset", "data", "action"):
        for _, attributes in page.tags:
            value = attributes.get(attribute)
            assert value is None or value.startswith(("data:", "#")) or value in OTHERS, value
    assert "url(" not in html
    assert "@import" not in html
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_pictures_decode_and_have_alt_text(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 8  # accuracy, two overlays, two losses, latency, two of layers
    for picture in pictures:
        assert picture["alt"]
        data = base64.b64decode((picture["src"] or "").partition(",")[2])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[0] > 50
    assert page.text.count("goes from") == 2
    assert len(page.all("figcaption")) == len(pictures)


def test_contents_links_lead_somewhere(page: Page) -> None:
    identities = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [(a["href"] or "").removeprefix("#") for a in page.all("a") if a["href"] not in OTHERS]
    assert len(links) == len(SECTIONS)
    assert set(links) <= identities


@pytest.mark.parametrize(
    "text",
    [
        "The fixed-point tracker on the test halves: MOTA 80.8 (−0.42 against float), IDF1 79.7 (−0.42 against float), "
        "HOTA 61.6 (−0.42 against float), Frame step 8.9 ms (median; 104 frames a second), Base graph 1.95 × (as fast "
        "as fp32), In integers 98.1 % (of the multiply-accumulates of the base graph's products).",
        "Protocol motchallenge",
        "Protocol hat",
        "Test halves, without duplicate suppression",
        "Unseen videos, never trained on",
        "ByteTrack",
        "79.51 −1.72",  # calibration
        "81.23",  # the last float record, not the one before it
        "street-02.night",
        "98.1 %",
        "412 330 112",
        "1 440",
        "nodes that touch float32",
        "34.5 %",
        "python -m motrlab run --preset street --run demo",
        "8.90",
        "base encoder.3.ffn linear min_max",
        "base encoder.3.ffn (linear): saturates.",
    ],
)
def test_page_tells(page: Page, text: str) -> None:
    assert text in page.text


def test_full_run_misses_nothing(filled: Run, page: Page) -> None:
    assert filled.records(stale=True) == []
    assert "Missing" not in page.text
    assert "Not in this run" not in page.text
    assert "too small" not in page.text


def test_empty_run_names_what_is_missing(new_run: Callable[..., Run]) -> None:
    run = new_run("empty", "smoke")
    page = Page(report_html(run))
    assert page.unclosed == []
    assert "No accuracy has been measured in this run yet." in page.text
    for part in (
        "accuracy of float",
        "accuracy of fixed-point",
        "QAT",
        "calops",
        "the integer share",
        "the layer comparison",
        "latency",
    ):
        assert part in page.text
    assert page.text.count("Missing:") == 7  # all but sensitivity and provenance


def test_smoke_says_how_little_it_shows(new_run: Callable[..., Run]) -> None:
    page = Page(report_html(new_run("tiny", "smoke")))
    assert page.text.index("Three short videos.") < page.text.index("Not in this run")


def test_numbers_only_holds_no_picture_of_frames(full_run: Run) -> None:
    page = Page(report_html(full_run, numbers_only=True))
    assert all("Frames with boxes" not in (picture["alt"] or "") for picture in page.all("img"))
    assert len(page.all("img")) == 6
    assert "Pictures are left out" in page.text


def test_lost_assets_are_named(full_run: Run) -> None:
    (full_run.assets / "float_loss.csv").unlink()
    (full_run.assets / "fixed_point_street-01.png").write_bytes(b"no picture")
    page = Page(report_html(full_run))
    assert "float_loss.csv of the losses of Float (gone)" in page.text
    assert "overlay assets/fixed_point_street-01.png (gone or unreadable)" in page.text
    assert len(page.all("img")) == 6


def test_names_are_escaped(made_run: Run) -> None:
    run = made_run
    run.add_record("data", "data", {"<script>alert(1)</script>": 3}, started=STARTED)
    page = Page(report_html(run))
    assert not page.all("script")
    assert "<script>alert(1)</script>" in page.text


def test_headline_before_quantisation(made_run: Run) -> None:
    run = made_run
    metrics = {"motchallenge.mota": -0.052, "motchallenge.idf1": 0.5}
    run.add_record("float", "accuracy", metrics, started=STARTED)
    assert headline(run.records()) == "The float tracker on the test halves: MOTA −5.2 (Float), IDF1 50.0 (Float)."


def test_what_came_from_an_older_float_model_is_left_out_and_named(full_run: Run, make_stage: MakeStage) -> None:
    make_stage(full_run, "float", "trained again")
    full_run.add_record(
        "float", "accuracy", {f"motchallenge.{name}": value for name, value in METRICS.items()}, started=STARTED
    )
    text = Page(report_html(full_run)).text
    assert "The float tracker on the test halves: MOTA 41.2 (Float)" in text
    assert "Fixed-point − QAT" not in text
    assert "Results that no longer count are left out: what they were made from has changed since: " in text
    assert "Fixed-point (integer, accuracy, " in text
    assert "Performance (latency)" in text
    assert "accuracy of fixed-point" in text  # missing, then
    assert "412 330 112" in text  # calops are of the config alone


def test_records_of_an_older_motrlab_are_named_in_one_line(full_run: Run) -> None:
    file = full_run.path / "records.jsonl"
    old = [{k: v for k, v in json.loads(line).items() if k != "made_from"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(record) + "\n" for record in old))
    text = Page(report_html(full_run)).text
    assert "No accuracy has been measured in this run yet." in text
    assert f"({len(old)} records are of an older motrlab)" in text


def test_parameters_of_single_stages_are_listed(full_run: Run) -> None:
    config = replace(full_run.config, qat=replace(full_run.config.qat, lr=0.5))
    full_run.add_record("qat", "layers", {}, started=STARTED, config=config)
    text = Page(report_html(full_run)).text
    assert f"qat.lr = 0.5 in qat (the run's config has {full_run.config.qat.lr})" in text


def test_command_of_real_data(new_run: Callable[..., Run]) -> None:
    run = new_run("real", "smoke", data_root="/data/my mot", sequences=("A", "B"))
    assert command(run) == (
        "python -m motrlab run --preset smoke --run real --data-root '/data/my mot' --sequences A,B"
    )


@pytest.mark.browser
def test_browser_shows_the_page(full_run: Run, chromium: str, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--window-size=1280,2400",
    ]  # fmt: skip
    subprocess.run([chromium, *flags, render_report(full_run).as_uri()], check=True, capture_output=True, timeout=120)
    image = cv2.imread(str(shot))
    assert image is not None
    assert image.shape == (2400, 1280, 3)
    blue_bar = np.abs(image.astype(int) - (0xB2, 0x72, 0x00)).sum(-1) < 12  # the accuracy chart was drawn
    assert blue_bar.sum() > 5000
