from __future__ import annotations

import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.summary import LABELS, DataSummary, summarise
from motrlab.viz.curves import COLOURS, figure_png
from motrlab.viz.dataset import amounts, distributions


def summary(has_class: bool, *shares: tuple[str, str, int]) -> DataSummary:
    """A sequence of ten frames for each part, name and number of people, who stay throughout."""
    parts = []
    for part, name, people in shares:
        frame = np.repeat(np.arange(1, 11), people)
        ltwh = np.tile([1.0, 1.0, 8.0, 20.0], (len(frame), 1))
        ones = np.ones(len(frame), np.int64)
        ids = np.tile(np.arange(people), 10)
        rows = Annotations(frame, ids, ltwh, ones, ones, np.full(len(frame), 0.25), has_class)
        parts.append(summarise(part, SequenceInfo(name=name, num_frames=10, width=96, height=64, frame_rate=10), rows))
    return DataSummary(sequences=tuple(parts), left_out=(), data_hash="")


DATA = summary(True, ("train", "A", 3), ("train", "B", 1), ("test", "A", 2))


def test_a_bar_for_each_part_of_each_sequence() -> None:
    figure = amounts(DATA)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["frames", "people", "boxes"]
    boxes = [bar.get_width() for bar in figure.axes[2].patches if bar.get_width()]
    assert sorted(boxes) == [10, 20, 30]
    ends = sorted(bar.get_x() + bar.get_width() for bar in figure.axes[2].patches)
    assert ends == [10, 30, 50]  # the test half of A stands behind its train half
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["A", "B"]


def test_shares_add_up_to_a_hundred_per_part() -> None:
    figure = distributions(DATA)
    assert len(figure.axes) == len(LABELS)
    for ax in figure.axes:
        assert [text.get_text().split()[0] for text in ax.get_legend().get_texts()] == ["train", "test"]
        for container in ax.containers:
            assert sum(bar.get_height() for bar in container) == pytest.approx(100)
    colours = {tuple(c.patches[0].get_facecolor()) for c in figure.axes[0].containers}
    assert len(colours) == 2 <= len(COLOURS)


def test_people_are_whole_and_empty_bins_are_left_out_at_the_ends() -> None:
    people = amounts(DATA).axes[1]
    assert all(float(tick).is_integer() for tick in people.get_xticks())
    heights = distributions(DATA).axes[1]  # all boxes are 20 pixels high
    assert [label.get_text() for label in heights.get_xticklabels()] == ["16-24"]
    crowd = distributions(DATA).axes[3]  # 1, 2 and 3 people in a frame
    assert [label.get_text() for label in crowd.get_xticklabels()] == ["1", "2-3"]


@pytest.mark.parametrize("data", [DATA, summary(False, ("train", "M15", 1)), summary(True, ("train", "E", 0))],
                         ids=["usual", "no visibility", "no people"])  # fmt: skip
def test_figures_are_drawn(data: DataSummary) -> None:
    for figure in (amounts(data), distributions(data)):
        assert figure_png(figure, dpi=40).startswith(b"\x89PNG")
