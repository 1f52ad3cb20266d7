"""The section on errors of weights and activations, and on what tensors hold."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motrlab.quantization.analysis.debugging import BINS, TensorValues
from motrlab.quantization.analysis.layers import SplitRow, write_csv
from motrlab.report import latency
from motrlab.report.blocks import Drawing, Explorer, Source
from motrlab.report.debugging import section, split_tables, thinned, values_drawing
from motrlab.report.html import QUANTIZATION
from motrlab.report.pages import page_html
from motrlab.run import Run
from tests.report.test_html import Page
from tests.report.test_latency import dump

ROWS = [
    SplitRow("base", "image", "input", math.inf, 50.0, 50.0),
    SplitRow("base", "encoder.0.norm1", "norm", 44.0, 21.0, 20.9),
    SplitRow("qim", "ffn.<expand>", "linear", 20.0, 35.0, 19.8),
    SplitRow("qim", "norm3", "norm", 30.0, 31.0, 27.0),
    SplitRow("base", "boxes", "output", 60.0, 45.0, 44.6),
]


def values(graph: str, tensor: str, kind: str = "activation", channels: int = 6) -> TensorValues:
    empty = np.zeros(channels)
    found = TensorValues(graph, tensor, kind, 0.25, -128, 127, empty, empty, np.zeros(BINS))
    found.add(np.random.default_rng(2).normal(size=(50, channels)) * 40)
    return found


@pytest.fixture
def compared(made_run: Run) -> Run:
    run = made_run
    paths = [run.assets / name for name in ("layers_split.csv", "layers_values.json")]
    write_csv(paths[0], ROWS)
    found = [values(row.graph, row.tensor) for row in ROWS[:-1]]
    paths[1].write_text(json.dumps([x.json() for x in (*found, values("qim", "ffn.<expand>", "weight", 300))]))
    run.add_record("fixed_point", "layers", {}, started=0.0, assets=paths)
    return run


def test_section(compared: Run) -> None:
    found = section(Source(compared))
    assert found.missing == []
    outputs, worst = found.tables
    assert [row.label for row in outputs.rows] == ["base boxes"]
    assert [row.label for row in worst.rows] == ["qim ffn.<expand>", "base encoder.0.norm1", "qim norm3", "base image"]
    assert [row.cells[-1].text for row in worst.rows] == ["weights", "activations", "both", "activations"]
    drawings = [block for block in found.blocks if isinstance(block, Drawing)]
    assert len(drawings) == 4  # the dots, and the three worst tensors
    assert drawings[0].svg.count("<circle") == 3 * len(ROWS)
    (explorer,) = [block for block in found.blocks if isinstance(block, Explorer)]
    assert [entry["name"] for entry in explorer.entries][-1] == "qim ffn.<expand> (weights)"
    assert "<" not in explorer.json


@pytest.mark.parametrize("page", [latency.PAGE, QUANTIZATION], ids=["latency", "quantization"])
def test_both_pages_have_the_whole_section(page: Any, compared: Run) -> None:
    """With the script that draws whichever tensor is chosen."""
    text = page_html(page, Source(compared))
    _, _, own = text.partition('<h2 id="accuracy-by-layer">')
    own, _, _ = own.partition("<h2")
    assert all(title in own for title in ("What the tracker gets", "The worst tensors"))
    assert own.count("<svg") == 1 + 2 * 3  # the dots; a histogram and the channels of each of the worst
    assert "encoder.0.norm1" in own
    assert "<select" in own
    assert "<script>" in text


def test_exact_tensors_are_no_worst_ones() -> None:
    exact = SplitRow("base", "x", "conv", math.inf, math.inf, math.inf)
    assert split_tables([exact, ROWS[1]])[1].rows[0].label == "base encoder.0.norm1"  # type: ignore[union-attr]
    assert split_tables([exact]) == [None, None]


def test_many_channels_are_drawn_in_groups() -> None:
    found = values("base", "x", channels=300)
    told = thinned(found.json())
    assert len(told["low"]) == len(told["high"]) == 100
    assert (min(told["low"]), max(told["high"])) == (round(found.low.min()), round(found.high.max()))
    drawing = values_drawing(told)
    assert drawing.svg.count('class="k0"') == BINS
    assert drawing.svg.count('class="k1"') == 100
    assert drawing.caption.startswith("base x: values from ")


def test_without_the_comparison(made_run: Run) -> None:
    assert section(Source(made_run)).missing == ["the layer comparison"]
    made_run.add_record("fixed_point", "layers", {}, started=0.0)
    assert section(Source(made_run)).missing == [
        "the error of weights and activations apart (compare the layers again)"
    ]


@pytest.mark.browser
def test_the_browser_draws_what_python_does(compared: Run, chromium: str, tmp_path: Path) -> None:
    """The first tensor is drawn when the page opens: the same bars at the same places, to a tenth of a pixel."""
    text = page_html(QUANTIZATION, Source(compared))
    page = Page(text)
    assert (page.unclosed, page.stack) == ([], [])
    (tmp_path / "page.html").write_text(text)
    dumped = dump(chromium, tmp_path / "page.html", tmp_path)
    drawn = dumped.partition('class="explorer"')[2].partition("</form>")[0]
    expected = values_drawing(thinned(values("base", "image").json())).svg
    for style in ("k0", "k1"):
        bars = [np.array(rectangles(svg, style)) for svg in (drawn, expected)]
        np.testing.assert_allclose(*bars, atol=0.11)


def rectangles(svg: str, style: str) -> list[list[float]]:
    found: list[Any] = re.findall(rf'<rect ([^>]*)class="{style}"', svg)
    return [[float(x) for x in re.findall(r'"([\d.-]+)"', attributes)] for attributes in found]
