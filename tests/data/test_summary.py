from __future__ import annotations

import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.summary import EDGES, LABELS, DataSummary, SequenceSummary, bin_names, summarise


def annotations(rows: list[tuple[int, int, float, float]], has_class: bool = True) -> Annotations:
    """Rows of frame, id, height, visibility."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    ltwh = np.stack([np.zeros(len(table)), np.zeros(len(table)), np.full(len(table), 5.0), table[:, 2]], axis=1)
    ones = np.ones(len(table), np.int64)
    return Annotations(
        table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), ltwh, ones, ones, table[:, 3], has_class
    )


INFO = SequenceInfo(name="A", num_frames=6, width=200, height=600, frame_rate=10.0)
ROWS = [(1, 1, 16, 0.0), (1, 2, 15.9, 0.3), (2, 1, 100, 0.95), (2, 2, 511, 1.0), (3, 1, 512, 0.29), (6, 1, 20, 0.5)]


def summary(*parts: SequenceSummary) -> DataSummary:
    return DataSummary(sequences=parts, left_out=(), data_hash="0")


def counts(quantity: str, *parts: SequenceSummary) -> dict[str, dict[str, int]]:
    """What is not zero, by part and by the name of the bin."""
    found = summary(*parts).histogram(quantity)
    return {
        part: {name: c for name, c in zip(bin_names(quantity), values, strict=True) if c}
        for part, values in found.items()
    }


def test_every_box_track_and_frame_is_counted_once() -> None:
    one = summarise("train", INFO, annotations(ROWS))
    assert counts("visibility", one) == {"train": {"0-0.1": 1, "0.2-0.3": 1, "0.3-0.4": 1, "0.5-0.6": 1, "0.9-1": 2}}
    assert counts("height_px", one) == {"train": {"0-16": 1, "16-24": 2, "96-128": 1, "384-512": 1, "512 and more": 1}}
    assert counts("track_frames", one) == {"train": {"1-4": 2}}
    assert counts("people_per_frame", one) == {"train": {"0": 2, "1": 2, "2-3": 2}}


def test_parts_are_summed_apart() -> None:
    train = summarise("train", INFO, annotations(ROWS))
    test = summarise("test", INFO, annotations(ROWS[:1]))
    assert counts("people_per_frame", train, test, train) == {
        "train": {"0": 4, "1": 4, "2-3": 4}, "test": {"0": 5, "1": 1},
    }  # fmt: skip
    lines = summary(train, test, train).histogram_table("people_per_frame").splitlines()
    assert lines[0].split() == ["people", "in", "a", "frame", "train", "test"]
    assert lines[1].split() == ["0", "4", "5"]
    assert lines[-1].split() == ["2-3", "4", "0"]  # nothing above
    assert len(lines) == 4


def test_gt_without_visibility_and_without_boxes() -> None:
    bare = summarise("test", INFO, annotations(ROWS, has_class=False))
    none = summarise("train", INFO, Annotations.empty())
    assert counts("visibility", bare) == {}
    assert counts("visibility", none, bare) == {"train": {}}
    assert counts("track_frames", none) == {"train": {}}
    assert counts("people_per_frame", none) == {"train": {"0": 6}}
    assert summary(bare).histogram_table("visibility").splitlines()[1] == "0-0.1"


@pytest.mark.parametrize("quantity", LABELS)
def test_bins_have_names(quantity: str) -> None:
    assert len(bin_names(quantity)) == len(EDGES[quantity]) - 1
    assert len(set(bin_names(quantity))) == len(bin_names(quantity))
    assert list(EDGES[quantity]) == sorted(EDGES[quantity])
