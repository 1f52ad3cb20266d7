"""Calibration runs the closed loop, shares frames out, and refuses nothing to see."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.config.scheme import Rule, Scheme
from motrlab.errors import UserError
from motrlab.model.motr import Motr
from motrlab.quantization.calibration import calibrate, closed_loop, round_again, shared_out
from motrlab.quantization.quantized import QuantizedMotr


def frames(config: Config, number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(number)
    for _ in range(number):
        yield torch.rand((1, 3, config.model.height, config.model.width), generator=generator) * 1.9 - 1


@pytest.mark.parametrize(
    ("lengths", "num_frames", "num_sequences", "expected"),
    # The last: what is there is less than what is wanted.
    [((9, 9), 6, 2, (6, 2)), ((2, 9), 6, 8, (6, 2)), ((9, 9, 9), 4, 8, (4, 3)), ((0, 3), 4, 2, (3, 1))],
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


def test_every_range_is_observed(quantised: QuantizedMotr, config: Config) -> None:
    calibrate(quantised, [frames(config, 3)], config)
    assert quantised.ranges.unseen() == []
    fixed = {spec.name for spec in quantised.specs.values() if spec.fixed is not None}
    assert fixed == {"image", "position.sine"}


def test_calibrating_again_forgets_what_was_seen(config: Config, float_model: Motr) -> None:
    scheme = Scheme().with_rules(Rule(path="encoder.*", observer="mse"), Rule(path="decoder.*", observer="min_max"))
    dim = [[image / 4 for image in frames(config, 3)]]
    twice, once = (QuantizedMotr(copy.deepcopy(float_model), scheme) for _ in range(2))
    calibrate(twice, [frames(config, 3)], config)
    calibrate(twice, dim, config)
    calibrate(once, dim, config)
    for name, value in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], value), name


def test_frames_without_tracks_say_nothing_of_the_track_slots(quantised: QuantizedMotr, config: Config) -> None:
    """A clip's first frame does not count as 0: its empty slots are not looked at."""
    index = list(quantised.specs).index(("qim", "attention.mixed"))
    calibrate(quantised, [frames(config, 3)], config)
    seen, reach = quantised.ranges.seen[index], float(quantised.ranges.largest[index])
    assert 0 < float(seen) <= 3
    nobody = replace(config, tracker=replace(config.tracker, birth_score=1.0))
    calibrate(quantised, [frames(config, 3)], nobody)
    assert float(quantised.ranges.seen[index]) == 0
    quantised.mode("calibrate")
    both = [
        *closed_loop(quantised.graphs, frames(config, 3), nobody),
        *closed_loop(quantised.graphs, frames(config, 3), config),
    ]
    quantised.advance()
    assert both
    assert float(quantised.ranges.largest[index]) == pytest.approx(reach, rel=0.3)


def test_a_range_never_seen_is_no_reason_to_overflow(quantised: QuantizedMotr, config: Config) -> None:
    nobody = replace(config, tracker=replace(config.tracker, birth_score=1.0))
    assert calibrate(quantised, [frames(config, 2)], nobody).tracks_per_frame == 0
    scales = [float(quantised.ranges.scale[s.group]) for s in quantised.specs.values() if s.operator != "head"]
    assert min(scales) > 1e-4
    for step in closed_loop(quantised.graphs, frames(config, 2), config):
        assert step.output.embedding.isfinite().all()


def test_no_frames(quantised: QuantizedMotr, config: Config) -> None:
    with pytest.raises(UserError, match="no frame"):
        calibrate(quantised, [], config)


def test_stride_takes_every_second_frame(config: Config) -> None:
    images = [torch.full((1, 3, 2, 2), float(i)) for i in range(10)]
    settings = replace(config.calibration, num_frames=4, num_sequences=1, stride=2)
    (found,) = [[int(x[0, 0, 0, 0]) for x in part] for part in shared_out([images], settings)]
    assert found == [0, 2, 4, 6]


def test_single_frames_never_see_a_track(quantised: QuantizedMotr, config: Config) -> None:
    steps = list(closed_loop(quantised.graphs, frames(config, 3), config, keep_state=False))
    assert all(float(step.before.mask.sum()) == 0 for step in steps)
    steps = list(closed_loop(quantised.graphs, frames(config, 3), config))
    live = [float(step.before.mask.sum()) for step in steps]
    assert live[0] == 0
    assert live[1] > 0
    assert torch.equal(steps[0].qim_inputs[2].reshape(steps[1].before.mask.shape), steps[1].before.mask)


def test_without_adaptive_rounding_no_frame_is_tracked_after_training(quantised: QuantizedMotr, config: Config) -> None:
    nearest = replace(config, calibration=replace(config.calibration, adaptive_rounding=False))
    images = frames(config, 3)
    round_again(quantised, [images], nearest)
    assert len(list(images)) == 3
    assert quantised.current_mode == "evaluate"
