"""What the layer comparison asks for; that it runs is seen in tests/notebooks/test_chain.py, with a whole run."""

from __future__ import annotations

import math

import pytest

from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import FrameRow
from motrlab.run import Run
from motrlab.stages.layers import _closed_loop_metrics, compare_layers


@pytest.mark.parametrize("stage", ["qat", "calibration"])
def test_a_missing_model_is_a_user_error(run: Run, stage: str) -> None:
    with pytest.raises(UserError, match=stage):
        compare_layers(run, stage)


def test_first_and_last_frame_of_each_stage() -> None:
    frames = [
        FrameRow(video, frame, "fake", 30.0 - frame + extra, math.inf, 20.0, 1.0)
        for video, extra in (("a", 0.0), ("b", 1.0))
        for frame in (1, 2, 3)
    ]
    assert _closed_loop_metrics(frames) == {
        "closed_loop.fake.first_frame_class_logits_db": 29.5,
        "closed_loop.fake.first_frame_embedding_db": 20.0,
        "closed_loop.fake.last_frame_class_logits_db": 27.5,
        "closed_loop.fake.last_frame_embedding_db": 20.0,
    }
