"""Variants are what their names say, and each starts from the float model as it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.config.scheme import Rule
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.sweep import calibration_variants, compare_calibrations
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.equalisation import equalise
from motrlab.quantization.quantized import QuantizedMotr
from tests.tiny import tiny


def videos(config: Config) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(40)
    shape = (1, 3, config.model.height, config.model.width)
    return [[torch.randint(-128, 128, shape, generator=generator) / 128 for _ in range(3)] for _ in range(2)]


def test_variants_differ_from_the_config_in_one_thing() -> None:
    config = tiny()
    found = calibration_variants(config)
    assert list(found) == [
        "as_configured", "min_max", "percentile", "mse", "kl", "single_frames", "per_tensor_weights", "equalise",
        "no_adaptive_rounding",
    ]  # fmt: skip
    assert found["as_configured"] == config
    assert found["kl"] == replace(config, scheme=config.scheme.with_observer("kl"))
    assert not any(rule.per_channel for rule in found["per_tensor_weights"].scheme.rules)
    assert not found["single_frames"].calibration.closed_loop
    assert found["equalise"].calibration == replace(config.calibration, equalise=True)
    assert all(c.model == config.model and c.tracker == config.tracker for c in found.values())


def test_variants_of_a_config_that_has_an_option_on() -> None:
    config = tiny()
    config = replace(config, scheme=config.scheme.with_observer("mse"))
    found = calibration_variants(replace(config, calibration=replace(config.calibration, equalise=True)))
    assert {"moving_average", "no_equalise", "no_adaptive_rounding"} < set(found)
    assert not {"mse", "equalise"} & set(found)


def test_per_tensor_weights_change_nothing_else() -> None:
    config = tiny()
    rules = config.scheme.with_rules(Rule(name="mine", observer="kl"))
    config = replace(config, scheme=replace(rules, signed_only=True, weight_bits=7))
    found = calibration_variants(config)["per_tensor_weights"].scheme
    assert replace(found, rules=config.scheme.rules) == config.scheme
    assert [rule.observer for rule in found.rules] == [rule.observer for rule in config.scheme.rules]


def test_rows(float_model: Motr, config: Config) -> None:
    probe = Probe(MotrGraphs(float_model), videos(config), config)
    every = calibration_variants(config)
    names = [name for name in every if name not in ("mse", "kl")]
    watched: list[bool] = []

    def watch(variant: Config) -> Iterable[Iterable[Tensor]]:
        watched.append(variant.calibration.closed_loop)
        return videos(variant)

    before = {name: value.clone() for name, value in float_model.state_dict().items()}
    rows = compare_calibrations(float_model, {n: every[n] for n in names}, watch, probe)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in float_model.state_dict().items())
    assert [row.variant for row in rows] == names
    assert watched == [True, True, True, False, True, True, True]
    by_name = {row.variant: row for row in rows}
    assert by_name["min_max"].saturated_share < by_name["as_configured"].saturated_share  # the moving average
    assert by_name["single_frames"].tracks_per_frame > 0
    assert len({row.mean_db for row in rows}) == len(rows)  # every one changes something
    assert all(math.isnan(row.mota) and row.duration_s > 0 for row in rows)
    assert all(10 < row.mean_db < 80 for row in rows)
    # The last one by hand.
    model = copy.deepcopy(float_model)
    equalise(model)
    quantised = QuantizedMotr(model, config.scheme)
    calibrate(quantised, videos(config), config)
    assert probe.output_error(quantised.graphs).mean_db == by_name["equalise"].mean_db
