"""One grid changed: the model is left as it was, and the numbers are those of a model that has that grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.whatif import Grid, changed_grid, grid_of, observe, output_error
from motrlab.quantization.quantized import QuantizedMotr
from tests.quantization.conftest import noise

KEY = ("base", "backbone.stem")


@pytest.fixture(scope="module")
def probe(config: Config, float_model: Motr) -> Probe:
    return Probe(MotrGraphs(float_model), [noise(config, 3, 20)], config)


def test_a_grid_by_hand() -> None:
    grid, values = Grid(0.5, -2, 1), np.array([0.2, 0.3, 0.9, -2.0], np.float32)
    assert grid.reach == (-1.0, 0.5)
    assert grid.put(values).tolist() == [0.0, 0.5, 0.5, -1.0]
    assert grid.clipped_share(values) == 0.5  # 0.9 would be the step 2, -2 the step -4
    noise_power, signal = 0.04 + 0.04 + 0.16 + 1.0, 0.04 + 0.09 + 0.81 + 4.0
    assert grid.sqnr_db(values) == pytest.approx(10 * np.log10(signal / noise_power))


def test_the_same_grid_changes_nothing(quantised: QuantizedMotr, probe: Probe) -> None:
    found = observe(quantised, probe)
    grid = changed_grid(quantised, KEY, {k: o.values for k, o in found.items()})
    assert grid == grid_of(quantised, KEY)
    assert output_error(quantised, probe, KEY, grid) == probe.output_error(quantised.graphs)


def test_it_is_a_model_with_that_scale(quantised: QuantizedMotr, probe: Probe) -> None:
    before = {name: value.clone() for name, value in quantised.state_dict().items()}
    now = grid_of(quantised, KEY)
    found = output_error(quantised, probe, KEY, Grid(now.scale * 64, now.low, now.high))
    assert all(torch.equal(value, before[name]) for name, value in quantised.state_dict().items())
    assert grid_of(quantised, KEY) == now
    with torch.no_grad():
        quantised.ranges.scale[quantised.specs[KEY].group] *= 64
    quantised.mode("evaluate")
    assert found == probe.output_error(quantised.graphs)
    assert found.db("embedding") < output_error(quantised, probe, KEY, now).db("embedding")


def test_observers_see_the_values(quantised: QuantizedMotr, probe: Probe) -> None:
    values = {key: found.values for key, found in observe(quantised, probe).items()}
    largest = float(np.abs(values[KEY]).max())
    low = min(0.0, float(values[KEY].min()))
    assert low == 0.0  # behind a ReLU
    grid = changed_grid(quantised, KEY, values, observer="min_max")
    assert grid is not None
    assert grid.reach[1] == pytest.approx(largest)
    tight = changed_grid(quantised, KEY, values, observer="percentile", percentile=50.0)
    assert tight is not None
    assert tight.clipped_share(values[KEY]) > 0.3
    fine = changed_grid(quantised, KEY, values, precision="int16", reach=largest)
    assert fine is not None
    assert fine.sqnr_db(values[KEY]) > grid.sqnr_db(values[KEY]) + 20
    assert changed_grid(quantised, KEY, values, precision="float") is None


def test_float_is_what_a_rule_would_do(quantised: QuantizedMotr, probe: Probe) -> None:
    found = output_error(quantised, probe, KEY, None)
    on = frozenset(k for k, s in quantised.specs.items() if s.quantised and k != KEY)
    with quantised.net.hooked(active=on):
        assert found == probe.output_error(quantised.graphs)


def test_values_are_those_of_the_float_model(quantised: QuantizedMotr, probe: Probe) -> None:
    found = observe(quantised, probe)
    assert quantised.current_mode == "evaluate"
    assert {graph for graph, _ in found} == {"base", "qim"}
    row = found[KEY].row
    assert row.own_sqnr_db == pytest.approx(grid_of(quantised, KEY).sqnr_db(found[KEY].values), abs=0.5)


def test_a_sum_may_have_16_bits(quantised: QuantizedMotr, probe: Probe) -> None:
    key = ("base", "decoder.0.self_attention")
    assert quantised.specs[key].operator == "sum"
    values = {key: found.values for key, found in observe(quantised, probe).items()}
    fine = changed_grid(quantised, key, values, precision="int16")
    assert output_error(quantised, probe, key, fine).db("embedding") > 0


def test_mistakes(quantised: QuantizedMotr) -> None:
    with pytest.raises(UserError, match="no tensor 'nowhere'"):
        grid_of(quantised, ("base", "nowhere"))
    values = {KEY: np.ones(3, np.float32)}
    with pytest.raises(UserError, match="no rule 'int4'"):
        changed_grid(quantised, KEY, values, precision="int4")
    with pytest.raises(UserError, match="range must be a positive number"):
        changed_grid(quantised, KEY, values, reach=-1.0)
    with pytest.raises(UserError, match="image: its grid is fixed"):
        changed_grid(quantised, ("base", "image"), values, reach=1.0)
