"""The latency page: what it tells, that it needs nothing, and that its sliders compute as the prediction does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from motrlab.deploy.whatif import FACTORS, what_if, what_if_data
from motrlab.errors import UserError
from motrlab.report.blocks import Source
from motrlab.report.html import render_report
from motrlab.report.latency import PAGE, beside, render_latency, results
from motrlab.report.pages import page_html
from motrlab.run import Run
from tests.report.performances import HOST_MS, layers, measured, predicted, record
from tests.report.test_html import Page

TARGETS = ("onnxruntime-cpu", "horizon-j6m")


@pytest.fixture
def perf_run(made_run: Run) -> Run:
    record(made_run, measured())
    record(made_run, predicted())
    return made_run


def html(run: Run) -> str:
    return page_html(PAGE, Source(run))


def elsewhere(page: Page) -> set[str]:
    """What a page leads to, other than itself."""
    return {href for a in page.all("a") if not (href := a["href"] or "").startswith("#")}


def test_page_stands_beside_the_report_and_needs_nothing(perf_run: Run) -> None:
    path = render_latency(perf_run)
    assert path == perf_run.report / "latency.html"
    text = path.read_text(encoding="utf-8")
    assert render_report(perf_run).parent == path.parent
    page = Page(text)
    assert (page.unclosed, page.stack) == ([], [])
    assert elsewhere(page) == set()  # there was no report yet
    assert elsewhere(Page(render_latency(perf_run).read_text(encoding="utf-8"))) == {"index.html", "quantization.html"}
    assert {a.get("src") for a in page.all("script")} == {None}
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    (policy,) = [m["content"] or "" for m in page.all("meta") if m.get("http-equiv")]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_every_picture_is_told(perf_run: Run) -> None:
    page = Page(html(perf_run))
    pictures = page.all("svg")
    assert len(pictures) == 8  # time lines of both, traffic, memory twice for both, a roofline
    assert all(picture["role"] == "img" and len(picture["aria-label"] or "") > 30 for picture in pictures)


@pytest.mark.parametrize(
    "text",
    [
        "Measured on onnxruntime-cpu (",
        "predicted on horizon-j6m: ",
        "a camera's 30 frames a second (23 of 25 figures of this target are assumed).",
        "backbone.0.<depthwise>/Conv_1",  # escaped
        "advice: backbone.0.<matrix>/Conv_0: its weights are read in every frame (motrlab/model/backbone.py:12)",
        "on-chip bandwidth is assumed",
        "missed: 1",
        "160 (process)",
        "threads: 1, pinned to processor 3; 3 calls of everything before the clock starts",
        "throughput of 2 videos at once: 150.0",
        "Memory by what it holds, computed from the tensors that the runtime executes. base: weights",
        "compiled to",
        "QLinearConv",
        "times as fast",
        "0.5 × overhead of a layer",
        "2 × outside the graphs",
        "QIM, call",
    ],
)
def test_page_tells(perf_run: Run, text: str) -> None:
    assert text in Page(html(perf_run)).text


def test_what_bounds_a_layer_is_told_of_predictions_only(made_run: Run) -> None:
    record(made_run, measured())
    assert "Bound by" not in Page(html(made_run)).text
    record(made_run, predicted())
    assert Page(html(made_run)).text.count("Bound by: what decides") == 1


def test_a_lane_that_hardly_works_is_not_said_to_rest(made_run: Run) -> None:
    found = predicted()
    spans = [["host", 0.0, 0.9975, None], ["matrix", 0.9975, 1.0, 0]]
    record(
        made_run, replace(found, sections={**found.sections, "timeline": {"lanes": ["matrix", "host"], "spans": spans}})
    )
    assert "Busy: matrix 0.2 %, host 99.8 %." in Page(html(made_run)).text


def test_the_headline_says_whose_host_a_prediction_has(made_run: Run) -> None:
    found = predicted()
    record(made_run, replace(found, sections={**found.sections, "foreign_host": True}))
    outside = f"are assumed; {HOST_MS} ms of it, outside the graphs, were measured on this computer)."
    assert outside in Page(html(made_run)).text


def test_kernels_that_are_called_as_their_operators_take_no_column(made_run: Run) -> None:
    found = measured()
    same = [replace(c, more={**c.more, "kernel": c.layer.operator}) for c in found.layers]
    record(made_run, replace(found, layers=same))
    assert "compiled to" not in Page(html(made_run)).text


def test_a_measured_time_line_says_why_it_is_shorter_than_a_frame(perf_run: Run) -> None:
    told = f"In the closed loop a frame takes {measured().frame['latency_ms']:.4g} ms (median)."
    assert Page(html(perf_run)).text.count(told) == 1  # not beside the prediction


def test_the_slowest_layers_are_printed(made_run: Run) -> None:
    found = layers(60)
    record(made_run, predicted(found=found))
    rows = [tag for name, tag in Page(html(made_run)).tags if name == "tr" and "screen" in (tag.get("class") or "")]
    assert len(rows) == len(found) - 40


def test_measured_beside_predicted(made_run: Run) -> None:
    """Of a described host, whose prediction has no section `machine`; the measured one is ten times as slow."""
    record(made_run, measured())
    assert beside(results(Source(made_run))) is None
    record(made_run, predicted())
    assert beside(results(Source(made_run))) is None
    described = predicted("this-host")
    sections = {name: value for name, value in described.sections.items() if name != "machine"}
    record(made_run, replace(described, sections=sections))
    found = beside(results(Source(made_run)))
    assert found is not None
    assert [row.label for row in found.rows] == ["this-host, Base graph", "this-host, QIM"]
    assert [row.cells[-1].text for row in found.rows] == [
        f"−90 %; rank correlation 1.00 of {sum(x.graph == g for x in layers())} layers" for g in ("base", "qim")
    ]
    assert "Measured beside predicted" in Page(html(made_run)).text
    assert results(Source(made_run))[0].title == "onnxruntime-cpu, measured"


def test_what_counts_no_more_is_left_out(perf_run: Run, make_stage: Any) -> None:
    make_stage(perf_run, "fixed_point", "converted again")
    page = Page(html(perf_run))
    assert "horizon-j6m" not in page.text
    assert "Nothing has been measured or predicted in this run yet" in page.text
    assert page.text.count("Missing: ") == len(PAGE.sections)


def test_a_file_of_another_schema_is_a_user_error(perf_run: Run) -> None:
    path = perf_run.assets / "perf_horizon-j6m.predicted.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(UserError, match=r"perf_horizon-j6m\.predicted\.json: schema 99"):
        html(perf_run)


def test_many_targets_of_many_layers_stay_under_two_megabytes(made_run: Run) -> None:
    """As of `mot17`: what does not fit is named, with where it is."""
    found = layers(640)
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        record(made_run, predicted(name, found))
    text = html(made_run)
    assert 1_000_000 < len(text.encode()) < 1_600_000
    assert (
        "Their layers are in the run's assets only: d, predicted, c, predicted, b, predicted, a, predicted."
        in Page(text).text
    )


def embedded(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    found: dict[str, Any] = json.loads(data)
    return found


def test_sliders_start_at_the_prediction(perf_run: Run) -> None:
    data, performance = embedded(html(perf_run)), predicted()
    found = what_if(data)
    assert found["frame"] == pytest.approx(performance.frame["latency_ms"])
    assert data["rest_ms"] == pytest.approx(HOST_MS)
    for graph in ("base", "qim"):
        assert found[graph] == pytest.approx(performance.graphs[graph]["latency_ms"])


def test_the_formula_by_hand() -> None:
    data: dict[str, Any] = {
        "chains": [[4, 0, 1, 2, 0.1, 0.5, 0, 0, 0], [1, 3, 1, 6, 0, 0, 0, 0, 0]],
        "graphs": ["base", "qim"],
        "rest_ms": 1,
    }
    data["call_ms"] = {"base": 0, "qim": 0}
    assert what_if(data) == {"base": 4.5, "qim": 6, "frame": 11.5, "fps": pytest.approx(1e3 / 11.5)}
    assert what_if(data, clock=2, cores=2)["base"] == 2.6  # off-chip memory bounds it then
    assert what_if(data, on_chip=0.1)["base"] == 10.5
    assert what_if(data, off_chip=6, cores=9)["qim"] == 3  # the host's part, which has no cores
    assert what_if(data, off_chip=6, clock=3)["qim"] == 1
    assert what_if(data, host=3) == what_if(data) | {"frame": 13.5, "fps": pytest.approx(1e3 / 13.5)}
    assert what_if(data | {"call_ms": {"base": 0.25, "qim": 0}}, overhead=2)["base"] == 5.5
    data["chains"][0][6:] = 0.25, 0.5, 0.1  # a quarter of all but the slowest, 1 and 0.5, overlaps with nothing
    assert what_if(data)["base"] == pytest.approx(4 + 0.25 * 1.5 + 0.1 + 0.5)


def test_layers_of_a_chain_are_one() -> None:
    """A product and what is fused with it: units work side by side, the slower one decides."""
    common = {"graph": "base", "chain": 0, "cycles_on_chip": 0, "cycles_off_chip": 0}
    layers = [
        {**common, "unit": "matrix", "cycles_compute": 3e6, "latency_ms": 3.0},
        {**common, "unit": "vector", "cycles_compute": 1e6, "latency_ms": 0.0},
        {**common, "unit": "vector", "cycles_compute": 4e6, "latency_ms": 2.5},
        {"graph": "base", "unit": "", "latency_ms": 0.0},  # a view
    ]
    machine = {"clock_ghz": 1.0, "off_chip_wait_ms": 0.0}
    graphs = {"base": {"latency_ms": 5.75}}
    data = what_if_data({"machine": machine, "layers": layers, "graphs": graphs, "frame": {"latency_ms": 6.0}})
    assert data is not None
    assert data["chains"] == [[5, 0, 0, 0, 0, 0.5, 0, 0, 0]]
    assert what_if(data, clock=2) == {"base": 3.25, "frame": 3.5, "fps": pytest.approx(1e3 / 3.5)}


BROWSER_TEST = """
<pre id="found"></pre><script>
const data = JSON.parse(document.querySelector("form.sliders script").textContent);
const cases = %s;
document.getElementById("found").textContent = JSON.stringify(cases.map(f => whatIf(data, f)));
</script></main>"""


@pytest.mark.browser
def test_the_browser_computes_the_same(perf_run: Run, chromium: str, tmp_path: Path) -> None:
    text = html(perf_run)
    cases = [dict(zip(FACTORS, factors, strict=True)) for factors in product((0.5, 3), repeat=len(FACTORS))]
    inside = re.sub(r"<meta http-equiv[^>]*>", "", text)
    (tmp_path / "page.html").write_text(inside.replace("</body>", BROWSER_TEST % json.dumps(cases) + "</body>"))
    dumped = dump(chromium, tmp_path / "page.html", tmp_path)
    found = json.loads(re.findall(r'<pre id="found">(.*?)</pre>', dumped, re.S)[0])
    for factors, values in zip(cases, found, strict=True):
        assert values == pytest.approx(what_if(embedded(text), **factors))


@pytest.mark.browser
def test_the_browser_runs_the_script_under_the_policy(perf_run: Run, chromium: str, tmp_path: Path) -> None:
    dumped = dump(chromium, render_latency(perf_run), tmp_path)
    assert f"{len(layers())} of {len(layers())} rows" in dumped
    assert re.search(r'<form class="sliders">', dumped)  # no longer hidden
    ms = predicted().frame["latency_ms"]
    assert f"{ms:.3f} ms a frame, {1e3 / ms:.0f} frames a second, 1.00 times as fast" in dumped


@pytest.mark.browser
def test_paper_has_all_targets_whatever_is_chosen_on_the_screen(perf_run: Run, chromium: str, tmp_path: Path) -> None:
    """As many pages as without the script, which shows the first target alone."""
    text = html(perf_run)
    pages = []
    for name, page in {"with": text, "without": re.sub(r"<script>.*?</script>", "", text, flags=re.S)}.items():
        (tmp_path / f"{name}.html").write_text(page)
        pdf = f"--print-to-pdf={tmp_path / name}.pdf"
        dump(chromium, tmp_path / f"{name}.html", tmp_path, pdf)
        pages.append((tmp_path / f"{name}.pdf").read_bytes().count(b"/Type /Page\n"))
    assert pages[0] == pages[1] > 2


def dump(chromium: str, path: Path, folder: Path, what: str = "--dump-dom") -> str:
    """The page after its script has run."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", what,
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    done = subprocess.run([chromium, *flags, path.as_uri()], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout
