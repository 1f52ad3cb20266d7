"""Groups hold every tensor once, switches do what rules would do, the search stays under its limit."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from motrlab.config import Config
from motrlab.config.scheme import Rule
from motrlab.deploy.calops import count_operations
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.analysis.groups import (
    INPUTS,
    float_rules,
    group_costs,
    group_macs,
    group_of,
    groups_of,
    switched_on,
)
from motrlab.quantization.analysis.layers import read_table, write_csv
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.sensitivity import measure_groups, search, search_groups
from motrlab.quantization.analysis.sensitivity_tables import OUTPUTS, GroupRow, PathPoint, pareto_front, raised_until
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr
from tests.quantization.conftest import noise
from tests.tiny import tiny

RAISED = ["input projection", "decoder 0 self-attention", "box heads", "QIM attention"]


@pytest.fixture
def probe(float_model: Motr, config: Config) -> Probe:
    return Probe(MotrGraphs(float_model), [noise(config, 2, 30)], config)


@pytest.mark.parametrize(
    ("graph", "operator", "path", "expected"),
    [
        ("base", "conv", "backbone.stem", "backbone stem"),
        ("base", "conv", "backbone.stages.0.0.layers.0", "backbone stage 0"),
        ("base", "sum", "backbone.stages.12.3", "backbone stage 12"),
        ("base", "conv", "backbone.lateral", "backbone upsampling"),
        ("base", "sum", "backbone", "backbone upsampling"),
        ("base", "conv", "backbone.smooth", "backbone upsampling"),
        ("base", "linear", "input_projection", "input projection"),
        ("base", "head", "encoder.5.attention.offsets", "encoder 5"),
        ("base", "sampling", "encoder.5.attention.mixed", "encoder 5"),
        ("base", "sampling", "decoder.0.cross_attention.mixed", "decoder 0 cross-attention"),
        ("base", "linear", "position.2", "position code"),
        ("base", "input", "position.sine", INPUTS),
        ("base", "attention", "decoder.1.track_attention.mixed", "decoder 1 self-attention"),
        ("base", "sum", "decoder.1.self_attention", "decoder 1 self-attention"),
        ("base", "linear", "decoder.10.self_attention.out", "decoder 10 self-attention"),
        ("base", "head", "decoder.0.cross_attention.weights", "decoder 0 cross-attention"),
        ("base", "linear", "decoder.0.ffn.expand", "decoder 0 feed-forward"),
        ("base", "norm", "decoder.0.norm3", "norms"),
        ("base", "head", "class_heads.2", "class heads"),
        ("base", "linear", "box_heads.0.hidden1", "box heads"),
        ("base", "input", "image", INPUTS),
        ("qim", "input", "query", INPUTS),
        ("qim", "attention", "attention.mixed", "QIM attention"),
        ("qim", "linear", "attention.query", "QIM attention"),
        ("qim", "linear", "ffn.expand", "QIM feed-forward"),
        ("qim", "linear", "branch1", "QIM feed-forward"),
        ("qim", "norm", "norm3", "norms"),
    ],
)
def test_group_of(graph: str, operator: str, path: str, expected: str) -> None:
    assert group_of(graph, operator, path) == expected


def test_groups_hold_every_quantised_tensor_exactly_once(float_model: Motr) -> None:
    left = Rule(path="decoder.0.ffn.*", precision="float")
    quantised = QuantizedMotr(float_model, tiny().scheme.with_rules(left))
    held = [tensor for group in groups_of(quantised).values() for tensor in group]
    assert len(held) == len(set(held))
    assert set(held) == {key for key, spec in quantised.specs.items() if not spec.name.startswith("decoder.0.ffn")}


def test_rules_of_a_group_fit_it_and_nothing_else(quantised: QuantizedMotr) -> None:
    for name, group in groups_of(quantised).items():
        rules = float_rules({name: group})
        scheme = quantised.scheme.with_rules(*rules)
        left = {k for k, s in quantised.specs.items() if scheme.find(s.graph, s.operator, s.name).precision == "float"}
        assert left == group.keys()
        for rule in rules:
            assert any(rule.fits(graph, kind, path) for (graph, path), kind in group.items()), rule


def test_all_on_is_the_quantised_model_and_none_on_is_nearly_float(quantised: QuantizedMotr, probe: Probe) -> None:
    expected = probe.output_error(quantised.graphs)
    with switched_on(quantised, groups_of(quantised)):
        assert probe.output_error(quantised.graphs) == expected
    with switched_on(quantised, ()):
        least = probe.output_error(quantised.graphs)
    assert least.share_of(expected) < 0.02, "boxes and constants only"
    assert least.db("qim") == math.inf
    assert probe.output_error(quantised.graphs) == expected  # all on again
    quantised.mode("float")
    assert set(probe.output_error(quantised.graphs).each_db().values()) == {math.inf}


def test_what_a_group_cannot_reach_stays_exact(quantised: QuantizedMotr, probe: Probe) -> None:
    rows = {row.group: row for row in measure_groups(quantised, probe)}
    for name, exact in (("QIM attention", list(OUTPUTS)[:3]), ("backbone stem", list(OUTPUTS)[3:])):
        assert {o for o in OUTPUTS if getattr(rows[name], f"{o}_db") == math.inf} == set(exact)


def test_switches_and_a_scheme_agree(probe: Probe, quantised: QuantizedMotr, float_model: Motr, config: Config) -> None:
    """Groups in float by rules, calibrated afresh on the same frames, compute the same bits."""
    groups = groups_of(quantised)
    rules = float_rules({name: groups[name] for name in RAISED})
    fresh = QuantizedMotr(copy.deepcopy(float_model), quantised.scheme.with_rules(*rules))
    calibrate(fresh, [noise(config, 4, seed) for seed in (1, 2)], config)  # as `calibrated_state` has them
    with switched_on(quantised, groups.keys() - set(RAISED)):
        found = probe.output_error(quantised.graphs)
    assert found == probe.output_error(fresh.graphs)
    assert found != probe.output_error(quantised.graphs)


def test_costs_are_those_of_calops(quantised: QuantizedMotr, float_model: Motr, config: Config) -> None:
    macs = group_macs(quantised)
    assert quantised.current_mode == "evaluate"
    counted = count_operations(float_model, config.model)
    rows = {row.name: row.macs for row in counted["base"].modules}
    constant = sum(n for name, n in rows.items() if name.startswith("overlap"))  # factors of slot kinds
    assert sum(macs.values()) == sum(ops.macs for ops in counted.values()) - constant
    backbone = sum(n for name, n in macs.items() if name.startswith("backbone"))
    assert backbone == rows["backbone"]
    assert macs["box heads"] == sum(n for name, n in rows.items() if name.startswith("box_heads"))
    assert macs["class heads"] == sum(n for name, n in rows.items() if name.startswith("class_heads"))
    assert macs["QIM attention"] + macs["QIM feed-forward"] == counted["qim"].macs
    assert macs[INPUTS] == macs["norms"] == macs[""] == 0
    assert sum(group_costs(quantised).values()) == pytest.approx(1)


def test_what_rules_leave_in_float_is_nobodys(float_model: Motr, quantised: QuantizedMotr) -> None:
    left = Rule(path="decoder.0.ffn.*", precision="float")
    mixed = group_macs(QuantizedMotr(float_model, tiny().scheme.with_rules(left)))
    assert mixed[""] == group_macs(quantised)["decoder 0 feed-forward"] > 0
    assert "decoder 0 feed-forward" not in mixed


def test_rows_and_path_of_a_model(quantised: QuantizedMotr, probe: Probe) -> None:
    rows = measure_groups(quantised, probe, lambda graphs: {"mota": 0.5, "idf1": 0.25})
    groups = groups_of(quantised)
    assert sorted(row.group for row in rows) == sorted(groups)
    noise = [row.alone_noise_share for row in rows]
    assert noise == sorted(noise, reverse=True)
    assert rows[0].alone_noise_share > 0.1
    assert {(row.mota, row.idf1) for row in rows} == {(0.5, 0.25)}
    assert sum(row.num_tensors for row in rows) == len(quantised.specs)
    path = search_groups(quantised, probe, rows, 0.1)
    assert quantised.net.active is None
    assert path[0].raised == ""
    assert path[0].noise_share == 1
    assert len(path) > 1
    raised = raised_until(path, len(path) - 1)
    assert INPUTS not in raised  # products would put them on their grids all the same
    assert all(point.float_share <= 0.1 for point in path)
    noise = [point.noise_share for point in path]
    assert all(after < before for before, after in itertools.pairwise(noise))
    with switched_on(quantised, groups.keys() - set(raised)):
        assert probe.output_error(quantised.graphs).each_db()["qim_db"] == path[-1].qim_db


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
    costs = {"": 0.01, **dict(zip(parts, rng.dirichlet(np.ones(13)).tolist(), strict=False))}
    total = sum(parts.values())
    measured, measure = additive(parts)
    gains = {name: value / total for name, value in parts.items()}
    path = search(measure, costs, limit, gains)  # type: ignore[arg-type]
    expected, share, left = [], 0.01, dict(parts)
    while True:
        fitting = [name for name in left if share + costs[name] <= limit + 1e-12]
        if not fitting:
            break
        best = max(fitting, key=lambda name: left[name] / max(costs[name], 1e-3))
        del left[best]
        share += costs[best]
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
    path = search(measure, {"": 0.0, "much": 0.1, "nothing": 0.1}, 1.0)  # type: ignore[arg-type]
    assert [point.raised for point in path] == ["", "much"]


def test_a_gain_that_shrinks_is_measured_again() -> None:
    """`a` and `b` remove the same noise: once one is raised the other gains nothing, and `c` comes first."""
    table = {"": 10.0, "a": 5.0, "b": 5.1, "c": 9.0, "ab": 5.0, "ac": 4.0, "bc": 4.1, "abc": 4.0}

    def measure(raised: frozenset[str]) -> OutputError:
        return OutputError(dict.fromkeys(OUTPUTS, 1.0), dict.fromkeys(OUTPUTS, table["".join(sorted(raised))]))

    path = search(measure, {"": 0.0, "a": 0.1, "b": 0.1, "c": 0.1}, 1.0, {"a": 0.5, "b": 0.49, "c": 0.1})
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
