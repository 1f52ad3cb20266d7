"""Error of weights alone, of activations alone, of all; and ranges and histograms of what tensors hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.config import Config
from motrlab.config.scheme import Scheme
from motrlab.quantization.analysis.debugging import BINS, TensorValues, inspect_tensors
from motrlab.quantization.analysis.layers import FORMS, SplitRow, sqnr_db
from motrlab.quantization.analysis.taps import recorded
from motrlab.quantization.calibration import calibrate, closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from tests.quantization.conftest import lively, noise

Found = tuple[dict[tuple[str, str], SplitRow], dict[tuple[str, str, str], TensorValues]]


def inspect(quantised: QuantizedMotr, config: Config) -> Found:
    rows, values = inspect_tensors(quantised, [noise(config, 3, 5)], config)
    return {(r.graph, r.tensor): r for r in rows}, {(v.graph, v.tensor, v.kind): v for v in values}


@pytest.fixture(scope="module")
def found(calibrated_state: tuple[QuantizedMotr, dict[str, torch.Tensor]], config: Config) -> Found:
    model, state = calibrated_state
    model.load_state_dict(state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = inspect(model, config)
    assert model.current_mode == "evaluate"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return result


@torch.no_grad()
def test_all_is_the_error_of_fake_quantisation(quantised: QuantizedMotr, config: Config, found: Found) -> None:
    quantised.mode("float")
    signal = error = 0.0
    for step in list(closed_loop(quantised.graphs, noise(config, 3, 5), config)):
        x, y = (recorded(quantised, "base", step.base_inputs, m)["backbone.smooth"] for m in ("float", "evaluate"))
        signal, error = signal + float((x * x).sum()), error + float(((y - x) ** 2).sum())
    assert found[0]["base", "backbone.smooth"].all_db == pytest.approx(sqnr_db(signal, error), abs=1e-3)


def test_either_alone_costs_something(found: Found) -> None:
    rows = found[0]
    outputs = [row.tensor for row in rows.values() if row.operator == "output"]
    assert outputs == ["class logits", "boxes"]
    assert rows["base", "image"].weights_db == math.inf  # nothing was computed yet
    for key in (("base", "backbone.smooth"), ("base", "class logits"), ("qim", "norm3")):
        row = rows[key]
        assert all(5 < getattr(row, f"{form}_db") < 70 for form in FORMS), row
        assert row.weights_db != row.activations_db != row.all_db


def test_coarse_weights_cost_weights_only(config: Config, found: Found) -> None:
    """With weights of 7 bits the activations' share stays, the weights' doubles its steps: 6 dB."""
    scheme = Scheme(weight_bits=7)
    coarse = QuantizedMotr(lively(config), scheme)
    calibrate(coarse, [noise(config, 4, seed) for seed in (1, 2)], replace(config, scheme=scheme))
    rows, _ = inspect(coarse, replace(config, scheme=scheme))
    key = ("base", "backbone.smooth")
    assert found[0][key].weights_db - rows[key].weights_db == pytest.approx(6, abs=2)
    assert found[0][key].activations_db == pytest.approx(rows[key].activations_db, abs=0.5)


@torch.no_grad()
def test_rounded_weights_cost_nothing_more(quantised: QuantizedMotr, config: Config) -> None:
    """Weights that are on their grid already: all is activations."""
    layers: dict[int, tuple] = {}  # type: ignore[type-arg]
    quantised.mode("evaluate")
    with quantised.net.hooked(watch_product=lambda m, x, layer: layers.__setitem__(id(m), (m, layer))):
        for step in list(closed_loop(quantised.graphs, noise(config, 3, 5), config)):
            assert step is not None
    for module, layer in layers.values():
        shape = (-1, *[1] * (layer.weight.ndim - 1))
        module.weight.copy_((layer.weight * layer.scale.reshape(shape)).reshape(module.weight.shape))
    rows, _ = inspect(quantised, config)
    for key in (("base", "backbone.smooth"), ("base", "encoder.0.norm1")):
        assert rows[key].weights_db > 40 + rows[key].all_db
        assert rows[key].activations_db == pytest.approx(rows[key].all_db, abs=0.2)


@torch.no_grad()
def test_weights_of_another_model_are_the_reference(quantised: QuantizedMotr, config: Config, found: Found) -> None:
    """As calibration leaves them where it moves weights: here by a hundredth."""
    floating = lively(config)
    for module in (p for name, p in quantised.model.named_parameters() if name.endswith("smooth.0.weight")):
        module.mul_(1.01)
    rows, _ = inspect_tensors(quantised, [noise(config, 3, 5)], config, floating)
    (row,) = [row for row in rows if row.tensor == "backbone.smooth"]
    before = found[0]["base", "backbone.smooth"]
    assert row.activations_db == pytest.approx(before.activations_db, abs=1e-3)
    assert row.weights_db < before.weights_db - 1
    assert row.all_db < before.all_db


@torch.no_grad()
def test_ranges_and_histograms(quantised: QuantizedMotr, config: Config, found: Found) -> None:
    quantised.mode("float")
    steps = list(closed_loop(quantised.graphs, noise(config, 3, 5), config))
    parts = [recorded(quantised, "base", step.base_inputs, "float")["backbone.smooth"] for step in steps]
    values = found[1]["base", "backbone.smooth", "activation"]
    x = np.concatenate([part.reshape(-1, part.shape[3]) for part in parts]) / values.step
    np.testing.assert_allclose(values.low, x.min(0), rtol=1e-5)
    np.testing.assert_allclose(values.high, x.max(0), rtol=1e-5)
    assert values.counts.sum() == x.size
    assert values.counts[0] == pytest.approx(
        (x < values.bins[0] + (values.bins[1] - values.bins[0]) / BINS).sum(), abs=3
    )
    told = json.loads(json.dumps(values.json(), allow_nan=False))
    assert len(told["low"]) == len(told["high"]) == x.shape[1]
    assert len(told["counts"]) == BINS


def test_weights_reach_what_their_integers_do(found: Found) -> None:
    values = found[1]["base", "input_projection", "weight"]
    assert max(values.high.max(), -values.low.min()) == pytest.approx(values.quant_max, rel=1e-5)
    assert values.counts[:6].sum() == values.counts[-6:].sum() == 0  # none is outside the grid
