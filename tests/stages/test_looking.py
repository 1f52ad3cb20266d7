"""Pictures of one video of a run."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.run import Run
from motrlab.stages.looking import attend, follow_slots, stages_over_each_other


def test_slots_attention_and_two_stages(trained: Run) -> None:
    use, figure = follow_slots(trained, "float")
    assert use.person.shape == (trained.config.model.num_track, 12)
    assert figure.axes
    found, figure = attend(trained, 6)
    assert found.slot >= trained.config.model.num_detect  # somebody who is tracked
    assert found.layer == trained.config.model.decoder_layers - 1
    assert found.slots.sum() == pytest.approx(1, abs=1e-4)
    picture = stages_over_each_other(trained, 3, stages=("float", "float"))
    assert picture.shape == (90, 160, 3)
    assert picture.dtype == np.uint8


def test_attention_of_a_frame_without_tracks_and_beyond_the_end(trained: Run) -> None:
    assert attend(trained, 1)[0].slot < trained.config.model.num_detect  # a detect query
    last, beyond = attend(trained, 12)[0], attend(trained, 99)[0]
    assert (last.slot, last.box.tolist()) == (beyond.slot, beyond.box.tolist())
