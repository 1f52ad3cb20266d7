"""Errors on the probe's frames against slow, obvious sums; a model that is float has none."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.analysis import probe as probe_module
from motrlab.quantization.analysis.probe import OutputError, Probe, saturated_share
from motrlab.quantization.analysis.sensitivity_tables import OUTPUTS
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import TensorSpec
from tests.quantization.conftest import noise


@pytest.fixture(scope="module")
def probe(config: Config, float_model: Motr) -> Probe:
    return Probe(MotrGraphs(float_model), [noise(config, 2, 20), noise(config, 1, 21)], config)


@torch.no_grad()
def slow_errors(floating: Any, fake: Any, images: Iterable[Tensor], config: Config) -> dict[str, list[float]]:
    """Signal and noise of every output, slot by slot, frame by frame."""
    model = config.model
    sums = {output: [0.0, 0.0] for output in OUTPUTS}

    def add(output: str, expected: Tensor, found: Tensor) -> None:
        x, y = expected.numpy().astype(float), found.numpy().astype(float)
        sums[output][0] += float(np.sum(x**2))
        sums[output][1] += float(np.sum((x - y) ** 2))

    for step in list(closed_loop(floating, images, config)):
        live = [True] * model.num_detect + [bool(m) for m in step.before.mask.flatten()]
        sides = []
        for graphs in (floating, fake):
            logits, boxes, embedding = graphs.base(*step.base_inputs)
            sides.append((logits[-1], graphs.decode(boxes[-1]), embedding))
        for output, a, b in zip(OUTPUTS, *sides, strict=False):
            for slot in range(model.num_slots):
                if live[slot]:
                    add(output, a.flatten(2)[:, :, slot], b.flatten(2)[:, :, slot])
        for slot in range(model.num_track):
            if step.qim_inputs[2].flatten()[slot]:
                a, b = (graphs.qim(*step.qim_inputs)[:, :, 0, slot] for graphs in (floating, fake))
                add("qim", a, b)
    return sums


def test_errors_are_what_the_definition_says(
    probe: Probe, quantised: QuantizedMotr, float_model: Motr, config: Config
) -> None:
    found = probe.output_error(quantised.graphs)
    first = slow_errors(MotrGraphs(float_model), quantised.graphs, noise(config, 2, 20), config)
    second = slow_errors(MotrGraphs(float_model), quantised.graphs, noise(config, 1, 21), config)
    for output in OUTPUTS:
        assert found.signal[output] == pytest.approx(first[output][0] + second[output][0], rel=1e-4)
        assert found.noise[output] == pytest.approx(first[output][1] + second[output][1], rel=1e-4)
        assert 5 < found.db(output) < 80
    assert probe.num_frames == 3
    assert probe.num_tracks > 0


def test_the_float_graphs_have_no_error(probe: Probe, float_model: Motr) -> None:
    found = probe.output_error(MotrGraphs(float_model))
    assert set(found.each_db().values()) == {math.inf}
    assert found.mean_db == math.inf


def test_frames_that_go_through_one_by_one_give_the_same(
    quantised: QuantizedMotr, float_model: Motr, config: Config, monkeypatch: pytest.MonkeyPatch, probe: Probe
) -> None:
    monkeypatch.setattr(probe_module, "_BATCH_PIXELS", 1)
    single = Probe(MotrGraphs(float_model), [noise(config, 2, 20), noise(config, 1, 21)], config)
    assert len(single._batches) == 3 > len(probe._batches)
    found, expected = (p.output_error(quantised.graphs) for p in (single, probe))
    assert found.signal == pytest.approx(expected.signal, rel=1e-4)
    assert found.noise == pytest.approx(expected.noise, rel=1e-4)


def test_shares_count_outputs_alike() -> None:
    ones = dict.fromkeys(OUTPUTS, 1.0)
    whole = OutputError(ones, {"class_logits": 1000.0, "boxes": 1.0, "embedding": 10.0, "qim": 0.0})
    part = OutputError(ones, {"class_logits": 100.0, "boxes": 0.5, "embedding": 9.0, "qim": 0.0})
    assert part.share_of(whole) == pytest.approx((0.1 + 0.5 + 0.9) / 3)
    assert whole.share_of(whole) == 1
    assert part.share_of(OutputError(ones, dict.fromkeys(OUTPUTS, 0.0))) == 0


def test_the_error_of_another_is_none_of_its_own() -> None:
    ones = dict.fromkeys(OUTPUTS, 1.0)
    whole = OutputError(ones, {"class_logits": 3.0, "boxes": 1.0, "embedding": 0.5, "qim": 2.0})
    least = OutputError(ones, {"class_logits": 1.0, "boxes": 1.0, "embedding": 1.0, "qim": 0.0})
    assert whole.unlike(least).noise == {"class_logits": 3.0, "boxes": 0.0, "embedding": 0.5, "qim": 2.0}
    assert whole.unlike(least).db("boxes") == math.inf


def test_outputs_without_signal_or_error_are_left_out_of_the_mean() -> None:
    signal = {"class_logits": 10.0, "boxes": 1000.0, "embedding": 100.0, "qim": 0.0}
    error = OutputError(signal, {"class_logits": 1.0, "boxes": 0.0, "embedding": 1.0, "qim": 1.0})
    assert math.isnan(error.db("qim"))
    assert error.db("boxes") == math.inf
    assert error.mean_db == pytest.approx((10 + 20) / 2)


def test_no_frames(float_model: Motr, config: Config) -> None:
    with pytest.raises(UserError, match="no frame"):
        Probe(MotrGraphs(float_model), [[]], config)


def set_scales(quantised: QuantizedMotr, scale: float) -> None:
    quantised.ranges.scale.fill_(scale)
    quantised.mode("evaluate")


def test_saturated_share(probe: Probe, quantised: QuantizedMotr, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the real values that stand where steps were rounded, tensor by tensor."""
    set_scales(quantised, 1e6)
    assert saturated_share(quantised, probe) == 0
    set_scales(quantised, 0.002)
    seen: dict[str, list[int]] = {}

    def count(spec: TensorSpec, steps: Tensor) -> None:
        if spec.fixed is None:
            found = seen.setdefault(f"{spec.graph} {spec.name}", [0, 0])
            for step in steps.flatten().double().tolist():
                value = max(step, 0.0) if spec.low == 0 else step  # a ReLU's work is no saturation
                found[0] += not spec.low - 0.5 <= value <= spec.high + 0.5
                found[1] += 1

    monkeypatch.setattr(quantised.net, "watch", count)
    probe.output_error(quantised.graphs)
    expected = float(np.mean([a / b for a, b in seen.values()]))
    assert 0 < expected < 1
    assert any(a == 0 for a, _ in seen.values()), "not all saturate"
    assert saturated_share(quantised, probe) == pytest.approx(expected, rel=1e-6)
    assert quantised.net.watch is None


def test_what_a_relu_or_a_relu6_cuts_is_not_saturated(quantised: QuantizedMotr) -> None:
    spec = next(s for s in quantised.specs.values() if s.name == "backbone.stem")
    steps = torch.tensor([-900.0, -1.0, 0.0, 254.0, 255.4, 256.0, 400.0, 900.0])

    class Frames:
        """A probe whose only tensor is `steps`."""

        def __init__(self, ceiling: float | None) -> None:
            self.spec = replace(spec, ceiling=ceiling)

        def output_error(self, graphs: Any) -> None:
            assert quantised.net.watch is not None
            quantised.net.watch(self.spec, steps)

    scale = float(quantised.net.scale(spec))
    shares = [saturated_share(quantised, Frames(ceiling)) for ceiling in (None, 255 * scale, 300 * scale)]  # type: ignore[arg-type]
    assert shares == [3 / 8, 0, 3 / 8]


def test_the_closed_loop_is_that_of_the_reference(config: Config, float_model: Motr) -> None:
    silent = replace(config, tracker=replace(config.tracker, birth_score=1.0))
    found = Probe(MotrGraphs(float_model), [noise(config, 2, 20)], silent)
    assert found.num_tracks == 0
    assert math.isnan(found.output_error(MotrGraphs(float_model)).db("qim"))
    assert torch.equal(found._batches[0][0][0][:1], next(noise(config, 1, 20)))
