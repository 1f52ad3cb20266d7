"""Groups hold every quantiser once, switches do what rules would do, the search stays under its limit."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from motrlab.config import Config, mot17, mot17_small, smoke, street
from motrlab.config.scheme import Scheme
from motrlab.deploy.calops import count_operations
from motrlab.errors import UserError
from motrlab.model.motr import Motr
from motrlab.quantization.analysis.groups import INPUTS, GroupSwitches, float_rules, group_of, groups_of, scheme_rules
from motrlab.quantization.analysis.layers import read_table, write_csv
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.sensitivity import Costs, measure_groups, search, search_groups
from motrlab.quantization.analysis.sensitivity_tables import (
    OUTPUTS,
    GroupRow,
    PathPoint,
    pareto_front,
    raised_until,
    ranked,
)
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr

RAISED = ["input projection", "decoder 0 self-attention", "box heads", "QIM attention"]


def noise_frames(config: Config, number: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, config.model.height, config.model.width)
    return [torch.randint(-128, 128, shape, generator=generator) / 128 for _ in range(number)]


@pytest.fixture
def switches(quantised: QuantizedMotr) -> GroupSwitches:
    return GroupSwitches(quantised)


@pytest.fixture
def probe(switches: GroupSwitches, config: Config) -> Probe:
    with switches.on(()) as model:
        return Probe(model.graphs, [noise_frames(config, 2, 30)], config)


@pytest.mark.parametrize(
    ("graph", "operator", "path", "expected"),
    [
        ("base", "conv", "backbone.stem.0", "backbone stem"),
        ("base", "conv", "backbone.stages.0.0.layers.0.0", "backbone stage 0"),
        ("base", "conv", "backbone.stages.12.3.layers.1.0", "backbone stage 12"),
        ("base", "conv", "backbone.lateral.0", "backbone upsampling"),
        ("base", "conv", "backbone.smooth.0", "backbone upsampling"),
        ("base", "conv", "input_projection", "input projection"),
        ("base", "linear", "encoder.5.attention.offsets", "encoder 5"),
        ("base", "sampling", "encoder.5.attention", "sampling grids"),
        ("base", "sampling", "decoder.0.cross_attention", "sampling grids"),
        ("base", "conv", "position.2", "position code"),
        ("base", "matmul", "decoder.1.track_attention", "decoder 1 self-attention"),
        ("base", "conv", "decoder.10.self_attention.out", "decoder 10 self-attention"),
        ("base", "linear", "decoder.0.cross_attention.weights", "decoder 0 cross-attention"),
        ("base", "conv", "decoder.0.ffn.expand", "decoder 0 feed-forward"),
        ("base", "norm", "decoder.0.norm3", "norms"),
        ("base", "linear", "class_heads.2", "class heads"),
        ("base", "conv", "box_heads.0.hidden1", "box heads"),
        ("base", "input", "image", INPUTS),
        ("qim", "input", "mask", INPUTS),
        ("qim", "matmul", "attention", "QIM attention"),
        ("qim", "conv", "attention.query", "QIM attention"),
        ("qim", "conv", "ffn.expand", "QIM feed-forward"),
        ("qim", "conv", "branch1", "QIM feed-forward"),
    ],
)
def test_group_of(graph: str, operator: str, path: str, expected: str) -> None:
    assert group_of(graph, operator, path) == expected


def test_groups_hold_every_quantiser_exactly_once(quantised: QuantizedMotr) -> None:
    groups = groups_of(quantised)
    held = [tensor for group in groups.values() for tensor in group.tensors]
    modules = {id(getattr(quantised, graph).get_submodule(name)) for graph, name in held}
    assert len(held) == len(set(held)) == len(modules) == len(quantised.fake_quantizers())
    operators = [operator for group in groups.values() for operator in group.operators]
    assert sorted(operators) == sorted({(g, o, p) for g, o, p, _ in quantised.decisions})


def test_rules_of_a_group_fit_it_and_nothing_else(quantised: QuantizedMotr) -> None:
    groups = groups_of(quantised)
    for group in groups.values():
        scheme = quantised.scheme.with_rules(*float_rules(group))
        left = {key for key in _operators(groups) if _precision(scheme, *key) == "float"}
        assert left == group.operators
        for rule in float_rules(group):
            assert any(rule.fits(*key) for key in group.operators), rule


def _operators(groups: dict[str, object]) -> set[tuple[str, str, str]]:
    return set().union(*(group.operators for group in groups.values()))  # type: ignore[attr-defined]


def _precision(scheme: Scheme, graph: str, operator: str, path: str) -> str:
    rule = scheme.find(graph, operator, path)
    return rule.precision if rule else "float"


def test_all_on_is_the_quantised_model_and_all_off_is_float(
    switches: GroupSwitches, probe: Probe, quantised: QuantizedMotr
) -> None:
    expected = probe.output_error(quantised.graphs)
    assert probe.output_error(switches.model.graphs) == expected
    with switches.on(switches.groups) as model:
        assert probe.output_error(model.graphs) == expected
    with switches.on(()) as model:
        assert set(probe.output_error(model.graphs).each_db().values()) == {math.inf}
    assert probe.output_error(switches.model.graphs) == expected  # all on again
    assert quantised.current_mode == "evaluate"


def test_a_group_without_error_is_exact(switches: GroupSwitches, probe: Probe) -> None:
    """8-bit images on the grid of 1/128, and masks of 0 and 1."""
    with switches.on({INPUTS}) as model:
        assert set(probe.output_error(model.graphs).each_db().values()) == {math.inf}


def test_what_a_group_cannot_reach_stays_exact(switches: GroupSwitches, probe: Probe) -> None:
    for names, exact in (({"QIM attention"}, OUTPUTS[:3]), ({"backbone stem"}, OUTPUTS[3:])):
        with switches.on(names) as model:
            error = probe.output_error(model.graphs)
        assert {o for o in OUTPUTS if error.db(o) == math.inf} == set(exact)


def test_switches_and_a_scheme_agree(
    switches: GroupSwitches, probe: Probe, quantised: QuantizedMotr, float_model: Motr, config: Config
) -> None:
    """Groups in float by rules, calibrated afresh on the same frames, compute the same bits."""
    rules = scheme_rules(switches.groups[name] for name in RAISED)
    fresh = QuantizedMotr(float_model, quantised.scheme.with_rules(*rules))
    calibrate(fresh, [_calibration_frames(config, seed) for seed in (1, 2)], config)
    with switches.on(switches.groups.keys() - set(RAISED)) as model:
        found = probe.output_error(model.graphs)
    assert found == probe.output_error(fresh.graphs)
    assert found != probe.output_error(quantised.graphs)


def _calibration_frames(config: Config, seed: int) -> list[torch.Tensor]:
    """As the fixture `calibrated_state` has them."""
    return noise_frames(config, 4, seed)


def test_costs_are_those_of_calops(switches: GroupSwitches, probe: Probe, float_model: Motr, config: Config) -> None:
    assert probe.first_step is not None
    macs = switches.macs(probe.first_step)
    counted = count_operations(float_model, config.model)
    assert sum(macs.values()) == sum(ops.macs for ops in counted.values())
    rows = {row.name: row.macs for row in counted["base"].modules}
    backbone = sum(n for name, n in macs.items() if name.startswith("backbone"))
    assert backbone == rows["backbone"]
    assert macs["encoder 0"] == rows["encoder.0"]
    assert macs["box heads"] == sum(n for name, n in rows.items() if name.startswith("box_heads"))
    assert macs["QIM attention"] + macs["QIM feed-forward"] == counted["qim"].macs
    assert macs[INPUTS] == macs["sampling grids"] == 0
    costs = Costs.of(macs)
    assert sum(costs.groups.values()) + costs.always_float == pytest.approx(1)


def test_rows_and_path_of_a_model(switches: GroupSwitches, probe: Probe) -> None:
    rows = measure_groups(switches, probe, lambda graphs: {"mota": 0.5, "idf1": 0.25})
    assert sorted(row.group for row in rows) == sorted(switches.groups)
    assert rows == ranked(rows)
    assert rows[0].alone_noise_share > 0.1
    assert {(row.mota, row.idf1) for row in rows} == {(0.5, 0.25)}
    inputs = next(row for row in rows if row.group == INPUTS)
    assert (inputs.alone_noise_share, inputs.rest_noise_share, inputs.class_logits_db) == (0, 1, math.inf)
    path = search_groups(switches, probe, rows, 0.1)
    assert path[0].raised == ""
    assert path[0].noise_share == 1
    assert len(path) > 1
    raised = raised_until(path, len(path) - 1)
    assert not {INPUTS, "sampling grids"} & set(raised)  # without noise of their own
    assert all(point.float_share <= 0.1 for point in path)
    noise = [point.noise_share for point in path]
    assert all(after < before for before, after in itertools.pairwise(noise))
    with switches.on(switches.groups.keys() - set(raised_until(path, len(path) - 1))) as model:
        assert probe.output_error(model.graphs).each_db()["qim_db"] == path[-1].qim_db


def additive(parts: dict[str, float]) -> tuple[list[frozenset[str]], object]:
    """A network whose groups make independent noise, and the settings that were measured."""
    measured: list[frozenset[str]] = []

    def measure(raised: frozenset[str]) -> OutputError:
        measured.append(raised)
        noise = sum(value for name, value in parts.items() if name not in raised)
        return OutputError(dict.fromkeys(OUTPUTS, 1.0), dict.fromkeys(OUTPUTS, noise))

    return measured, measure


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [0.0, 0.05, 0.3, 1.0])
def test_search_is_the_plain_greedy_one_but_measures_less(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    parts = {f"g{i}": float(v) + 0.1 for i, v in enumerate(rng.exponential(size=12))}
    costs = Costs({name: float(v) for name, v in zip(parts, rng.dirichlet(np.ones(13)), strict=False)}, 0.01)
    total = sum(parts.values())
    measured, measure = additive(parts)
    gains = {name: value / total for name, value in parts.items()}
    path = search(measure, costs, limit, gains)  # type: ignore[arg-type]
    expected, share, left = [], 0.01, dict(parts)
    while True:
        fitting = [name for name in left if share + costs.groups[name] <= limit + 1e-12]
        if not fitting:
            break
        best = max(fitting, key=lambda name: left[name] / max(costs.groups[name], 1e-3))
        del left[best]
        share += costs.groups[best]
        expected.append(best)
    assert raised_until(path, len(path) - 1) == expected
    assert all(point.float_share <= max(limit, 0.01) + 1e-12 for point in path)
    assert [p.noise_share for p in path] == pytest.approx(
        [1 - sum(gains[name] for name in expected[:n]) for n in range(len(expected) + 1)]
    )
    assert len(measured) == len(expected) + 1  # gains that were known already need one measurement a round
    if expected:
        again, measure = additive(parts)
        assert search(measure, costs, limit) == path  # type: ignore[arg-type]
        assert len(again) > len(measured)  # nothing known: the first round measures all


def test_search_ends_where_nothing_gains() -> None:
    parts = {"much": 1.0, "nothing": 0.0}
    _, measure = additive(parts)
    path = search(measure, Costs({"much": 0.1, "nothing": 0.1}, 0.0), 1.0)  # type: ignore[arg-type]
    assert [point.raised for point in path] == ["", "much"]


def test_a_gain_that_shrinks_is_measured_again() -> None:
    """`a` and `b` remove the same noise: once one is raised the other gains nothing, and `c` comes first."""
    table = {"": 10.0, "a": 5.0, "b": 5.1, "c": 9.0, "ab": 5.0, "ac": 4.0, "bc": 4.1, "abc": 4.0}

    def measure(raised: frozenset[str]) -> OutputError:
        return OutputError(dict.fromkeys(OUTPUTS, 1.0), dict.fromkeys(OUTPUTS, table["".join(sorted(raised))]))

    path = search(measure, Costs(dict.fromkeys("abc", 0.1), 0.0), 1.0, {"a": 0.5, "b": 0.49, "c": 0.1})
    assert [point.raised for point in path] == ["", "a", "c"]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(0, 1)], [0]),
        ([(0, 1), (1, 0.5), (2, 0.6), (3, 0.1)], [0, 1, 3]),
        ([(1, 0.5), (0, 0.5)], [1]),
        ([(0, 1), (0, 0.5)], [1]),
    ],
)
def test_pareto_front(points: list[tuple[float, float]], expected: list[int]) -> None:
    assert pareto_front(points) == expected


def test_tables_survive_their_files(tmp_path: Path) -> None:
    rows = [GroupRow("a group, named", 3, 0.5, math.inf, 1.25, -3.0, math.nan, 0.5, 0.75, math.nan, 0.5)]
    path = [PathPoint(0, "", 0.0, 1.0, 30.0, 31.0, 32.0, math.nan, 0.5, 0.5)]
    for table, kind in ((rows, GroupRow), (path, PathPoint)):
        write_csv(tmp_path / "table.csv", table)
        assert repr(read_table(tmp_path / "table.csv", kind)) == repr(table)
    with pytest.raises(UserError, match=r"table\.csv"):
        read_table(tmp_path / "table.csv", GroupRow)


@pytest.mark.parametrize("preset", [smoke, street, mot17_small, mot17])
def test_group_names_do_not_collide_in_any_preset(preset: object) -> None:
    config: Config = preset()  # type: ignore[operator]
    stages = {group_of("base", "conv", f"backbone.stages.{i}.0.layers.0.0") for i in range(len(config.model.stages))}
    layers = {group_of("base", "conv", f"decoder.{i}.ffn.expand") for i in range(config.model.decoder_layers)}
    assert len(stages) == len(config.model.stages)
    assert len(layers) == config.model.decoder_layers
