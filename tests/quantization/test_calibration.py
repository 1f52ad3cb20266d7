"""Calibration runs the closed loop, shares frames out, and refuses nothing to see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.quantized import QuantizedMotr


def frames(config: Config, number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(number)
    for _ in range(number):
        yield torch.rand((1, 3, config.model.height, config.model.width), generator=generator) * 1.9 - 1


@pytest.mark.parametrize(
    ("lengths", "num_frames", "num_sequences", "expected"),
    [((9, 9), 6, 2, (6, 2)), ((2, 9), 6, 2, (5, 2)), ((9, 9, 9), 4, 2, (4, 2)), ((0, 3), 4, 2, (2, 1))],
)
def test_frames_are_shared_out(
    quantised: QuantizedMotr, config: Config, lengths: tuple[int, ...], num_frames: int, num_sequences: int,
    expected: tuple[int, int],
) -> None:  # fmt: skip
    settings = replace(config.calibration, num_frames=num_frames, num_sequences=num_sequences)
    found = calibrate(quantised, [frames(config, n) for n in lengths], replace(config, calibration=settings))
    assert (found.frames, found.sequences) == expected
    assert found.tracks_per_frame > 0  # the loop is closed: the QIM sees live tracks
    assert quantised.current_mode == "evaluate"


def test_every_scale_is_observed(quantised: QuantizedMotr, config: Config) -> None:
    for module in quantised.fake_quantizers():
        if isinstance(module, FakeQuantize):
            module.batches.zero_()
    calibrate(quantised, [frames(config, 3)], config)
    modules = [m for m in quantised.fake_quantizers() if isinstance(m, FakeQuantize)]
    assert all(float(m.batches) > 0 for m in modules if m.fixed_scale is None)
    assert sum(m.fixed_scale is not None for m in modules) >= 2  # the image, the sine codes


def test_no_frames(quantised: QuantizedMotr, config: Config) -> None:
    with pytest.raises(UserError, match="no frame"):
        calibrate(quantised, [], config)
