from __future__ import annotations

import base64
import hashlib
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

from motrlab.report import html as report
from motrlab.report.blocks import Section, Source
from motrlab.report.html import PAGES, headline, report_html
from motrlab.report.pages import Page as ReportPage
from motrlab.report.provenance import command
from motrlab.run import Run

STARTED = 1_700_000_000.0
MakeStage = Callable[..., None]
METRICS = {"mota": 0.412, "idf1": 0.4, "hota": 0.2}
FILES = [page.file for page in PAGES]
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
        if tag not in VOID and (not self.stack or self.stack.pop() != tag):
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def htmls(rendered: Path) -> dict[str, str]:
    """The pages, by file, of the run that tests do not change."""
    return {name: rendered.with_name(name).read_text(encoding="utf-8") for name in FILES}


@pytest.fixture(scope="session", params=FILES)
def page(htmls: dict[str, str], request: pytest.FixtureRequest) -> Page:
    """Each page in turn."""
    return Page(htmls[request.param])


def read(run: Run, page: ReportPage, **options: bool) -> Page:
    return Page(report_html(run, page=page, **options))


def whole(run: Run, **options: bool) -> str:
    """The text of all pages."""
    return " ".join(read(run, page, **options).text for page in PAGES)


@pytest.fixture(scope="module")
def told(htmls: dict[str, str]) -> str:
    """The text of all pages of the run that tests do not change."""
    return " ".join(Page(html).text for html in htmls.values())


def test_page_stands_where_the_run_says_and_is_small(filled: Run, rendered: Path) -> None:
    assert rendered == filled.path.parents[1] / "reports" / "demo" / "index.html"
    assert sorted(p.name for p in rendered.parent.iterdir()) == sorted([*FILES, "numbers.json"])
    assert all(rendered.with_name(name).stat().st_size < 2_000_000 for name in FILES)


def test_same_records_same_page(filled: Run, htmls: dict[str, str]) -> None:
    assert report_html(filled) == htmls["index.html"]


def test_page_is_well_formed(page: Page) -> None:
    assert page.unclosed == []
    assert page.stack == []


@pytest.mark.parametrize("kind", PAGES, ids=lambda page: page.file)
def test_page_needs_nothing_from_elsewhere(htmls: dict[str, str], kind: ReportPage) -> None:
    html = htmls[kind.file]
    page = Page(html)
    assert all("src" not in script for script in page.all("script"))
    for attribute in ("src", "href", "srcset", "data", "action"):
        for _, attributes in page.tags:
            value = attributes.get(attribute)
            assert value is None or value.startswith(("data:", "#")) or value in FILES, value
    assert "url(" not in html
    assert "@import" not in html
    policy = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    code = "".join(re.findall(r"<script>(.*?)</script>", html, re.S))
    told = f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" if code else ""
    assert policy == [f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{told}"]
    assert bool(code) is (kind is not report.INDEX)


def test_pictures_decode_and_have_alt_text(page: Page) -> None:
    for picture in page.all("img"):
        assert picture["alt"]
        data = base64.b64decode((picture["src"] or "").partition(",")[2])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape[0] > 50
    assert len(page.all("figcaption")) == len(page.all("figure"))


@pytest.mark.parametrize(
    ("kind", "number"),
    [(report.INDEX, 1), (report.ACCURACY, 5), (report.QUANTIZATION, 2), (report.TRAINING, 2)],
    ids=lambda value: value.file if isinstance(value, ReportPage) else "",
)
def test_pictures_of_each_page(htmls: dict[str, str], kind: ReportPage, number: int) -> None:
    """The first sheet; bars, two sheets, misses, switches; two of layers; two curves."""
    assert len(Page(htmls[kind.file]).all("img")) == number


def test_contents_links_lead_somewhere(page: Page) -> None:
    identities = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [(a["href"] or "") for a in page.all("a")]
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= identities
    assert len({link for link in links if link in FILES}) == len(FILES) - 1


def test_every_page_says_how_to_make_it_again(page: Page) -> None:
    for text in (
        "python -m motrlab run --preset street --run demo",
        "Git commit",
        "Data hash",
        "Versions",
        "Processor",
    ):
        assert text in page.text


@pytest.mark.parametrize(
    "text",
    [
        "3 of 4 budgets met; not measured: Both graphs. Fixed-point on the test halves: MOTA 80.8, IDF1 79.7, "
        "HOTA 61.6.",
        "A frame on onnxruntime-cpu 8.90 ms budget 33.30 ms: met, 24.40 ms to spare",
        "Fixed-point on the test halves: of 12 654 boxes 1 520 missed, 812 false positives, 61 switches of identity.",
        "small 300 30.0 % 90 30.0 % 90.0 % 4 13.3 80.0 %",
        "One seed shows no spread",
        "1 activations on 2 grids, 1 weights, 1 grids inside functions.",
        "tensor.1 base weight conv min_max – 8 −63.5 63.5 0.5 1",
        "Trained: float 2 000 steps",
        "in 2 000 steps; bold lines",
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
def test_pages_tell(told: str, text: str) -> None:
    assert text in told


def test_a_section_is_one_entry(full_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(source: Source) -> Section:
        return Section([f"Of run {source.run.name}."], ["what was never measured"])

    monkeypatch.setitem(report.ACCURACY.sections, "Mine", section)
    page = Page(report_html(full_run, page=report.ACCURACY))
    assert f"Of run {full_run.name}." in page.text
    assert "Not measured, or not there any more: what was never measured" in page.text
    anchors = {str(link["href"]) for link in page.all("a") if str(link.get("href", "")).startswith("#")}
    assert len(anchors) == len(report.ACCURACY.sections) + 1  # and where the numbers come from


def test_full_run_misses_nothing(filled: Run, htmls: dict[str, str]) -> None:
    assert filled.records(stale=True) == []
    for kind in (report.INDEX, report.ACCURACY, report.QUANTIZATION, report.TRAINING):
        text = Page(htmls[kind.file]).text
        assert "Missing" not in text
        assert "Not in this run" not in text


def test_empty_run_names_what_is_missing(new_run: Callable[..., Run]) -> None:
    run = new_run("empty", "smoke")
    pages = {kind.file: read(run, kind) for kind in PAGES}
    assert all(page.unclosed == [] for page in pages.values())
    assert "No accuracy has been measured in this run yet." in pages["index.html"].text
    text = " ".join(page.text for page in pages.values())
    for part in (
        "accuracy of float",
        "accuracy of fixed-point",
        "QAT",
        "calops",
        "the integer share",
        "the layer comparison",
        "latency",
        "where misses and switches come from",
        "the range of every tensor",
        "not measured: python -m motrlab perf --run empty --target onnxruntime-cpu",
    ):
        assert part in text, part


def test_smoke_says_how_little_it_shows(new_run: Callable[..., Run]) -> None:
    page = Page(report_html(new_run("tiny", "smoke")))
    assert page.text.index("Three short videos.") < page.text.index("Not in this run")


def test_numbers_only_holds_no_picture_of_frames(full_run: Run) -> None:
    assert not read(full_run, report.INDEX, numbers_only=True).all("img")
    page = read(full_run, report.ACCURACY, numbers_only=True)
    assert len(page.all("img")) == 1  # bars
    assert "Pictures are left out" in page.text


def test_lost_assets_are_named(full_run: Run) -> None:
    (full_run.assets / "float_loss.csv").unlink()
    (full_run.assets / "fixed_point_street-01.png").write_bytes(b"no picture")
    text = read(full_run, report.TRAINING).text + read(full_run, report.ACCURACY).text
    assert "float_loss.csv of the losses of Float (missing)" in text
    assert "overlay assets/fixed_point_street-01.png (missing or unreadable)" in text


def test_names_are_escaped(made_run: Run) -> None:
    run = made_run
    run.add_record("data", "data", {"<script>alert(1)</script>": 3}, started=STARTED)
    page = read(run, report.TRAINING)
    assert len(page.all("script")) == 1
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
    text = whole(full_run)
    assert "Float on the test halves: MOTA 41.2" in text
    assert "Fixed-point − QAT" not in text
    assert "Results that no longer count are left out: what they were made from has changed since: " in text
    assert "Fixed-point (share of integers, accuracy, " in text
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
    text = read(full_run, report.INDEX).text
    assert f"qat.lr = 0.5 in qat (the run's config has {full_run.config.qat.lr})" in text


def test_command_of_real_data(new_run: Callable[..., Run]) -> None:
    run = new_run("real", "smoke", data_root="/data/my mot", sequences=("A", "B"))
    assert command(run) == (
        "python -m motrlab run --preset smoke --run real --data-root '/data/my mot' --sequences A,B"
    )


@pytest.mark.browser
def test_browser_shows_the_page(rendered: Path, chromium: str, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", "--window-size=1280,2400",
    ]  # fmt: skip
    subprocess.run(
        [chromium, *flags, rendered.with_name("accuracy.html").as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    image = cv2.imread(str(shot))
    assert image is not None
    assert image.shape == (2400, 1280, 3)
    blue = np.abs(image.astype(int) - (0xB2, 0x72, 0x00)).sum(-1) < 12  # float's points of the accuracy chart
    assert blue.sum() > 200
