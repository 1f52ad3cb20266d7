from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motrlab.config import TrackerConfig
from motrlab.errors import UserError
from motrlab.evaluation.tuning import Half
from motrlab.viz.explore_tune import KINDS, TuneExplorer, axis
from tests.evaluation.test_tuning import RULES, video


def half(*seeds: int) -> Half:
    made = {str(seed): video(seed) for seed in seeds}
    return Half.of({name: r for name, (r, _) in made.items()}, {name: gt for name, (_, gt) in made.items()})


@pytest.fixture
def explorer() -> TuneExplorer:
    return TuneExplorer(half(1, 2), half(3), closed_loop=lambda rules, frames: half(1).scores(rules))


def test_axes_go_only_where_a_replay_can() -> None:
    rules = replace(RULES, max_misses=20)
    assert axis("output_score", rules).values == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    assert axis("reset_score", rules).values[0] == 0.3
    assert axis("max_misses", rules).values == (1, 2, 5, 10, 15, 20)
    for name in KINDS:
        assert getattr(rules, name) in axis(name, rules).values
    with pytest.raises(UserError, match="'suppress_iou' cannot be replayed"):
        axis("suppress_iou", rules)


def test_chosen_on_train_shown_on_test(explorer: TuneExplorer) -> None:
    grid = explorer.grid("output_score", "reset_score")
    assert grid["mota"].shape == (7, 7)
    chosen = explorer.best("output_score", "reset_score", "mota")
    assert explorer.scores("train", **chosen)["mota"] == grid["mota"].max()
    rules = replace(RULES, output_score=chosen["output_score"], reset_score=chosen["reset_score"])
    assert explorer.scores("test", **chosen) == half(3).scores(rules)
    told = explorer.describe(**chosen)
    assert "exact" in told
    assert "approximate" in told
    assert f"{100 * explorer.scores('test', **chosen)['mota']:.2f}" in told


def test_test_halves_only_for_what_train_chose(explorer: TuneExplorer) -> None:
    """A slider over the cells must not be a way to choose on test."""
    chosen = explorer.best("output_score", "min_area_px", "idf1")
    told = {}
    for x in explorer.axes["output_score"].values:
        values = {"output_score": x, "min_area_px": chosen["min_area_px"]}
        told[x] = [line for line in explorer.describe("idf1", **values).splitlines() if line.startswith("test")]
    assert [x for x, lines in told.items() if len(lines) == 2] == [chosen["output_score"]]
    others = [lines for x, lines in told.items() if x != chosen["output_score"]]
    assert others
    assert all(lines == ["test    only for the cell with the best idf1 on the train halves"] for lines in others)
    assert "\ntest    only" in explorer.describe(output_score=0.5)


def test_cells_that_make_no_sense(explorer: TuneExplorer) -> None:
    assert np.isnan(explorer.scores(miss_score=0.9)["mota"])  # above reset_score
    with pytest.raises(UserError, match=r"reset_score 0\.1 cannot be replayed, recorded with 0\.3"):
        explorer.scores(reset_score=0.1)
    with pytest.raises(UserError, match="cannot be replayed"):
        explorer.scores(velocity_gain=0.5)
    with pytest.raises(UserError, match="is on both axes"):
        explorer.grid("output_score", "output_score")
    other = replace(half(3).recording, rules=TrackerConfig())
    with pytest.raises(UserError, match="different rules"):
        TuneExplorer(half(1), Half(other, half(3).gt))


def test_table_and_picture(explorer: TuneExplorer) -> None:
    rows = list(explorer.rows("output_score", "min_area_px"))
    whole = explorer.html(rows, "output_score", "min_area_px")
    assert whole.count("<td") == len(rows) * 7
    assert whole.count("★") == whole.count("outline") == 1
    assert explorer.tables(rows, "output_score", "min_area_px").count("<table") == 3
    assert explorer.tables(rows, "output_score", "min_area_px", "fp").count("<table") == 4
    assert explorer.html(rows[:1], "output_score", "min_area_px").count("<td") == 7
    figure = explorer.figure()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["best of the train halves", "the rules now"]
    assert [ax.get_title(loc="left").split(",")[0] for ax in figure.axes] == ["MOTA", "IDF1", "switches"]
    assert max(map(len, explorer.describe(output_score=0.5).splitlines())) <= 128
    assert explorer.png()[:4] == b"\x89PNG"


def test_widget_follows_its_controls(explorer: TuneExplorer) -> None:
    axes, table, sliders, words, below = explorer.widget().children
    across, down, metric = axes.children
    x, _ = sliders.children
    before = table.value, words.value
    assert x.value == RULES.output_score
    x.value = 0.8
    assert words.value != before[1]
    metric.value = "idsw"
    assert table.value != before[0]
    down.value = "reset_score"
    assert "reset_score" in table.value
    down.value = "output_score"
    assert table.value == "choose two thresholds"
    down.value = "min_area_px"
    _, loop, told = below.children
    loop.click()
    assert told.value.startswith("closed loop, 30 frames")
    assert TuneExplorer(half(1), half(3)).widget().children[4].children[1].disabled
    assert across.value == "output_score"
