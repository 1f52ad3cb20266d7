"""The sweep's shortcut, one capture for many calibrations, changes nothing; variants are what their names say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from motrlab.config import Config, smoke
from motrlab.config.scheme import Rule, Scheme
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.analysis import sweep
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.sweep import calibration_variants, compare_calibrations, with_observers
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.listing import quantised_tensors
from motrlab.quantization.quantized import QuantizedMotr


def videos(config: Config) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(40)
    shape = (1, 3, config.model.height, config.model.width)
    return [[torch.randint(-128, 128, shape, generator=generator) / 128 for _ in range(3)] for _ in range(2)]


def test_variants_differ_from_the_config_in_one_thing() -> None:
    config = smoke()
    found = calibration_variants(config)
    assert list(found) == [
        "as_configured", "min_max", "percentile", "mse", "kl", "single_frames", "per_tensor_weights", "equalise",
        "correct_bias", "equalise_and_correct_bias",
    ]  # fmt: skip
    assert found["as_configured"] == config
    assert found["kl"] == replace(config, scheme=config.scheme.with_observer("kl"))
    assert not any(rule.per_channel for rule in found["per_tensor_weights"].scheme.rules)
    assert not found["single_frames"].calibration.closed_loop
    assert found["equalise"].calibration == replace(config.calibration, equalise=True)
    assert all(c.model == config.model and c.tracker == config.tracker for c in found.values())


def test_variants_of_a_config_that_has_an_option_on() -> None:
    config = smoke()
    config = replace(
        config,
        calibration=replace(config.calibration, correct_bias=True),
        scheme=config.scheme.with_observer("mse"),
    )
    found = calibration_variants(config)
    assert {"moving_average", "no_correct_bias", "equalise"} < set(found)
    assert not {"mse", "correct_bias"} & set(found)
    assert found["equalise_and_correct_bias"] is not config


def test_new_observers_on_a_copy_are_as_good_as_a_new_capture(
    quantised: QuantizedMotr, float_model: Motr, config: Config
) -> None:
    scheme = config.scheme.with_observer("mse").with_rules(
        Rule(operator="conv", path="decoder.0.*", observer="percentile", percentile=99.0, per_channel=False)
    )
    plain = config.scheme.with_rules(Rule(operator="conv", path="decoder.0.*"))
    before = {name: value.clone() for name, value in quantised.state_dict().items()}
    fresh = QuantizedMotr(float_model, scheme)
    prepared = QuantizedMotr(float_model, plain)
    copied = with_observers(prepared, scheme)
    assert copied.current_mode == "calibrate"
    for model in (fresh, copied):
        calibrate(model, videos(config), config)
    assert quantised_tensors(copied) == quantised_tensors(fresh)
    expected = fresh.state_dict()
    assert copied.state_dict().keys() == expected.keys()
    for name, value in copied.state_dict().items():
        assert torch.equal(value, expected[name]), name
    probe = Probe(MotrGraphs(float_model), videos(config), config)
    assert probe.output_error(copied.graphs) == probe.output_error(fresh.graphs)
    assert all(torch.equal(value, before[name]) for name, value in quantised.state_dict().items())


def test_other_placements_are_refused(quantised: QuantizedMotr) -> None:
    with pytest.raises(AssertionError):
        with_observers(quantised, Scheme().with_rules(Rule(path="backbone.*", precision="float")))


def test_rows(quantised: QuantizedMotr, float_model: Motr, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without captures of its own: what it prepares is the fixture's model."""
    captured: list[bool] = []

    def prepared(model: Motr, scheme: Scheme, *, equalise: bool) -> QuantizedMotr:
        assert model is not float_model  # equalisation would change it
        captured.append(equalise)
        return quantised

    monkeypatch.setattr(sweep, "QuantizedMotr", prepared)
    probe = Probe(MotrGraphs(float_model), videos(config), config)
    every = calibration_variants(config)
    names = ("as_configured", "min_max", "percentile", "single_frames", "per_tensor_weights", "correct_bias")
    watched: list[bool] = []

    def watch(variant: Config) -> Iterable[Iterable[Tensor]]:
        watched.append(variant.calibration.closed_loop)
        return videos(variant)

    rows = compare_calibrations(float_model, {n: every[n] for n in names}, watch, probe)
    assert [row.variant for row in rows] == list(names)
    assert captured == [False]
    assert watched == [True, True, True, False, True, True]
    by_name = {row.variant: row for row in rows}
    assert by_name["min_max"].saturated_share < by_name["as_configured"].saturated_share  # the moving average
    assert by_name["single_frames"].tracks_per_frame > 0
    assert len({row.mean_db for row in rows}) == len(rows)  # every one changes something
    assert all(math.isnan(row.mota) and row.duration_s > 0 for row in rows)
    assert all(10 < row.mean_db < 80 for row in rows)
