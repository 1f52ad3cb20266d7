from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.packing import write_store
from motrlab.errors import UserError
from motrlab.model.motr import MotrGraphs
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.whatif import Grid
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.viz.curves import figure_png
from motrlab.viz.explore_quant import RANKS, QuantExplorer
from motrlab.viz.grids import grid_histogram, grid_words
from tests.quantization.conftest import lively, noise
from tests.tiny import tiny
from tests.viz.test_explore import source

STEM = ("base", "backbone.stem")


@pytest.fixture(scope="module")
def explorer() -> QuantExplorer:
    config = tiny()
    model = lively(config)
    quantised = QuantizedMotr(model)
    calibrate(quantised, [noise(config, 3, 1)], config)
    probe = Probe(MotrGraphs(lively(config)), [noise(config, 2, 5)], config)
    return QuantExplorer(quantised, probe, "noise")


def test_ranks(explorer: QuantExplorer) -> None:
    worst = [explorer.found[key].row for key in explorer.ranked()]
    assert [r.fake_sqnr_db for r in worst] == sorted(r.fake_sqnr_db for r in worst)
    clipped = [explorer.found[key].row.saturated_share for key in explorer.ranked("clipped")]
    assert clipped == sorted(clipped, reverse=True)
    assert set(explorer.ranked("own rounding")) == set(explorer.ranked("graph order")) == set(explorer.found)
    assert len(explorer.table(most=5).splitlines()) == 6
    with pytest.raises(UserError, match=f"no rank 'size'; there are {', '.join(RANKS)}"):
        explorer.ranked("size")


def test_a_trial_and_back(explorer: QuantExplorer) -> None:
    same = explorer.try_grid(STEM)
    assert same.error is explorer.now
    coarse = explorer.try_grid(STEM, reach=1000.0)
    assert coarse.error.db("embedding") < explorer.now.db("embedding")
    assert explorer.probe.output_error(explorer.quantised.graphs) == explorer.now
    told = explorer.describe(coarse)
    assert told.startswith("base backbone.stem (conv)")
    assert "class logits: SQNR" in told
    assert "tried: float" in explorer.describe(explorer.try_grid(STEM, precision="float"))
    with pytest.raises(UserError, match="no tensor"):
        explorer.try_grid(("base", "nowhere"))


def test_pictures(explorer: QuantExplorer) -> None:
    same, wide = explorer.picture(explorer.try_grid(STEM)), explorer.picture(explorer.try_grid(STEM, reach=0.5))
    assert same.shape == wide.shape == (320, 700, 3)
    assert not np.array_equal(same, wide)
    names = [[t.get_text() for t in explorer.figure(STEM, **rule).axes[1].get_legend().get_texts()]
             for rule in ({}, {"reach": 0.5})]  # fmt: skip
    assert names == [["now"], ["now", "tried"]]  # what is not tried does not cover what is
    assert cv2.imdecode(np.frombuffer(explorer.png(STEM, reach=0.5), np.uint8), cv2.IMREAD_COLOR).shape[1] == 1200


def test_widget_follows_its_controls(explorer: QuantExplorer) -> None:
    rules, below = explorer.widget().children
    by, precision, observer, span = rules.children
    tensor, (picture, words) = below.children[0], below.children[1].children
    before = picture.value, words.value
    span.value = 1.0
    assert picture.value != before[0]
    assert words.value != before[1]
    kept = tensor.value
    by.value = "graph order"
    assert tensor.value == kept
    assert tensor.options[0][1] == ("base", "image")
    tensor.value = ("base", "image")
    assert "grid is fixed" in words.value  # said where a range makes no sense, and no traceback
    span.value, precision.value = 0.0, "float"
    assert "tried: float" in words.value
    precision.value, tensor.value, observer.value = "int8", STEM, "mse"
    assert "backbone.stem" in words.value


def test_of_a_run(home: Path) -> None:
    run = Run.open("demo", "smoke")
    run.data.mkdir()
    write_store(run.data / "train_lmdb", [source(home, "walk", 2)])  # and no test half: it is not looked at
    with pytest.raises(UserError, match="calibration"):
        QuantExplorer.of_run(run)


def test_values_against_grids() -> None:
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    before, after = Grid(8 / 127, -128, 127), Grid(3 / 127, -128, 127)
    assert after.sqnr_db(values) > before.sqnr_db(values)
    figure = grid_histogram(values, {"before": before, "after": after}, "noise")
    assert len(figure.axes[0].lines) == 4
    assert "% clipped" in figure.axes[0].get_legend().get_texts()[1].get_text()
    assert figure_png(figure)
    assert grid_words(None, values) == "float"
    coarse = grid_histogram(np.array([-2.2, 3.0], np.float32), {"before": Grid(1.0, -128, 127)})
    assert sorted(line.get_xdata()[0] for line in coarse.axes[0].lines) == list(range(-3, 4))
