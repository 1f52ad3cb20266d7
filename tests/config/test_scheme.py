"""Rules: the last fitting one decides; mistakes are named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from motrlab.config import Config
from motrlab.config.scheme import OBSERVERS, OPERATORS, Rule, Scheme, default_rules
from motrlab.errors import UserError
from tests.tiny import tiny


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_tensor_is_int8_by_default(operator: str) -> None:
    rule = Scheme().find("base", operator, "any.path")
    assert (rule.precision, rule.observer, rule.per_channel, rule.scale) == ("int8", "moving_average", True, None)


def test_last_rule_decides() -> None:
    scheme = Scheme(rules=(Rule(operator="conv"), Rule(path="decoder.*", precision="int16")))
    found = [scheme.find("base", "conv", path) for path in ("encoder.0.out", "decoder.0.out")]
    assert [rule.precision for rule in found] == ["int8", "int16"]


def test_what_no_rule_fits_stays_float() -> None:
    assert Scheme(rules=(Rule(operator="conv"),)).find("base", "norm", "encoder.0.norm1").precision == "float"


def test_graph_operator_and_path_must_all_fit() -> None:
    rule = Rule(graph="base", operator="norm", path="decoder.*")
    assert rule.fits("base", "norm", "decoder.0.norm1")
    assert not rule.fits("qim", "norm", "decoder.0.norm1")
    assert not rule.fits("base", "sum", "decoder.0.norm1")
    assert not rule.fits("base", "norm", "encoder.0.norm1")


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [("a.out", "detect track"), ("*.out", "detect track"), ("a.out/*", "detect track"), ("a.out/track", "track")],
)
def test_a_path_without_a_part_is_both_parts(pattern: str, parts: str) -> None:
    rule = Rule(path=pattern)
    assert [part for part in ("detect", "track") if rule.fits("base", "linear", f"a.out/{part}")] == parts.split()
    assert not rule.fits("base", "linear", "a.outer/track")


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int4"},
        {"path": 3},
        {"per_channel": "no"},
        {"percentile": True},
        {"scale": "0.1"},
        {"observer": "best"},
        {"operator": "convolution"},
        {"percentile": 0.0},
        {"scale": 0.0},
        {"scale": 1e-7},  # observers make no such grid
        {"scale": 1e39},  # infinite in float32
        {"scale": float("nan")},
    ],
)
def test_unknown_values_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="quantisation rule") as error:
        Rule(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_weights_have_seven_or_eight_bits() -> None:
    assert [Scheme(weight_bits=bits).weight_limit for bits in (7, 8)] == [63, 127]
    with pytest.raises(UserError, match="weight_bits must be 7 or 8, not 4"):
        Scheme(weight_bits=4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"weight_bits": 7.0}, "weight_bits must be int, not 7.0"),
        ({"signed_only": "false"}, "signed_only must be bool, not 'false'"),
        ({"rules": None}, "rules must be .*, not None"),
        ({"rules": [[]]}, r"rules: an object with fields expected, not \[\]"),
        ({"rules": 3}, "rules: a list expected, not 3"),
        ({"rules": [{"path": 3}]}, r"'\*/\*/3': path must be str, not 3"),
        ({"rules": [{"per_channel": "no"}]}, "per_channel must be bool, not 'no'"),
    ],
)
def test_values_of_another_kind_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Scheme.from_dict({"rules": [], **wrong})
    assert "\n" not in str(error.value)


def test_signed_only_costs_a_bit_behind_relu() -> None:
    assert [Scheme(signed_only=signed).levels for signed in (False, True)] == [255, 127]


def test_round_trip_as_json() -> None:
    scheme = Scheme(rules=(*default_rules("mse"), Rule(path="decoder.*", precision="float")), weight_bits=7)
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@pytest.mark.parametrize(
    "values", [{"rules": [{"bits": 8}]}, {"rules": [{"softmax_scale": 0.1}]}, {"signed_only": True}]
)
def test_a_scheme_of_another_version_is_named(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"another version.*make the run again with this version"):
        Scheme.from_dict(values)


def test_scheme_is_part_of_the_config_and_its_hash() -> None:
    config = replace(tiny(), scheme=Scheme().with_rules(Rule(path="backbone.*", observer="kl")))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.hash != tiny().hash


@pytest.mark.parametrize("observer", OBSERVERS)
def test_one_observer_for_all(observer: str) -> None:
    scheme = Scheme(rules=(*default_rules(), Rule(path="decoder.*", precision="int16"))).with_observer(observer)
    assert {rule.observer for rule in scheme.rules} == {observer}
    assert [rule.precision for rule in scheme.rules] == ["int8", "int16"]
