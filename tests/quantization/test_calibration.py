"""Calibration runs the closed loop, shares frames out, and refuses nothing to see."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.model.motr import Motr
from motrlab.quantization.bias_correction import _MeanErrors, correct_biases
from motrlab.quantization.calibration import calibrate, closed_loop, shared_out
from motrlab.quantization.equalisation import _pairs, equalise
from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.prepare import capture, example_inputs, module_path
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


def test_stride_takes_every_second_frame(config: Config) -> None:
    images = [torch.full((1, 3, 2, 2), float(i)) for i in range(10)]
    settings = replace(config.calibration, num_frames=4, num_sequences=1, stride=2)
    (found,) = [[int(x[0, 0, 0, 0]) for x in part] for part in shared_out([images], settings)]
    assert found == [0, 2, 4, 6]


def test_single_frames_never_see_a_track(quantised: QuantizedMotr, config: Config) -> None:
    steps = list(closed_loop(quantised.graphs, frames(config, 3), config, keep_state=False))
    assert all(float(step.state.mask.sum()) == 0 for step in steps)
    steps = list(closed_loop(quantised.graphs, frames(config, 3), config))
    live = [float(step.state.mask.sum()) for step in steps]
    assert live[0] == 0
    assert live[1] > 0
    assert torch.equal(steps[0].qim[2].reshape(steps[1].state.mask.shape), steps[1].state.mask)


@torch.no_grad()
def test_bias_correction_takes_out_the_mean_error_of_every_product(quantised: QuantizedMotr, config: Config) -> None:
    steps = list(closed_loop(quantised.graphs, frames(config, 3), config))
    base = [(s.image, s.state.query, s.state.mask, s.state.reference) for s in steps]
    before = mean_errors(quantised.base, base)
    biases = {name: quantised.base.get_parameter(name).clone() for name in before}
    assert correct_biases(quantised, base, [s.qim for s in steps]) > len(before)  # the QIM's too
    # The meter compares at the biases there are; the error against the old ones is what was corrected.
    moved = {name: quantised.base.get_parameter(name) - bias for name, bias in biases.items()}
    after = {name: error + moved[name] for name, error in mean_errors(quantised.base, base).items()}
    norms = [torch.cat(list(errors.values())).norm() for errors in (before, after)]
    assert norms[1] < 0.3 * norms[0]  # not nothing: every input has moved a little with the biases before it


def mean_errors(graph: GraphModule, frames: list[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    meter = _MeanErrors(graph)
    for inputs in frames:
        meter.run(*inputs)
    return meter.means()


@torch.no_grad()
def test_equalisation_keeps_the_function_and_levels_the_ranges(config: Config, float_model: Motr) -> None:
    model = copy.deepcopy(float_model)
    expand, project = model.qim.ffn.expand, model.qim.ffn.project
    expand.weight *= torch.logspace(-2, 2, len(expand.weight))[:, None, None, None]
    graph = capture(model)[1]
    inputs = (torch.randn(1, config.model.d_model, 1, config.model.num_track), *example_inputs(config.model)[1][1:])
    before = graph(*inputs)
    assert equalise(graph) >= 1
    torch.testing.assert_close(graph(*inputs), before, rtol=1e-3, atol=1e-4)
    rows, columns = expand.weight.abs().flatten(1).amax(1), project.weight.abs().flatten(2).amax((0, 2))
    torch.testing.assert_close(rows, columns, rtol=1e-4, atol=0)


def test_equalisation_finds_the_pairs(float_model: Motr) -> None:
    """Each FFN, both steps of each box head and of the position code, and no pair across a residual sum."""
    base, qim = capture(copy.deepcopy(float_model))
    config = float_model.config
    ffns = config.encoder_layers + config.decoder_layers
    # box heads: hidden1 → hidden2 → out; position: once per decoder layer, the same weights
    expected = ffns + 2 * config.decoder_layers + config.decoder_layers
    backbone = sum(1 for node in _pairs(base) if module_path(node[0]).startswith("backbone"))
    assert len(_pairs(base)) == expected + backbone
    assert backbone >= 1
    assert len(_pairs(qim)) == 2
