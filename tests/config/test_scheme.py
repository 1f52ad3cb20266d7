"""Rules: the last fitting one decides; mistakes are named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from motrlab.config import Config, smoke
from motrlab.config.scheme import OBSERVERS, Rule, Scheme, default_rules
from motrlab.errors import UserError


@pytest.mark.parametrize(
    ("graph", "operator", "path", "precision", "output", "scale"),
    [
        ("base", "conv", "backbone.stem.0", "int8", True, None),
        ("base", "input", "image", "int8", True, 1 / 128),
        ("base", "input", "track_mask", "int8", True, 1.0),
        ("qim", "input", "mask", "int8", True, 1.0),
        ("base", "conv", "position.0", "int8", True, 1 / 127),
        ("base", "conv", "encoder.0.ffn.expand", "int8", True, None),
        ("base", "linear", "class_heads.1", "int8", False, None),
        ("qim", "matmul", "attention", "int8", False, None),
        ("base", "sampling", "decoder.0.cross_attention", "int16", True, None),
    ],
)
def test_default_rules(graph: str, operator: str, path: str, precision: str, output: bool, scale: float | None) -> None:
    rule = Scheme().find(graph, operator, path)
    assert rule is not None
    assert (rule.precision, rule.quantise_output, rule.input_scale) == (precision, output, scale)
    assert rule.per_channel


def test_state_and_norms_stay_float_by_default() -> None:
    for graph, operator, path in (
        ("base", "input", "track_query"),
        ("qim", "norm", "norm1"),
        ("qim", "input", "query"),
    ):
        assert Scheme().find(graph, operator, path) is None


def test_last_rule_decides() -> None:
    scheme = Scheme(rules=(Rule(operator="conv"), Rule(path="decoder.*", precision="float")))
    found = [scheme.find("base", "conv", path) for path in ("encoder.0.out", "decoder.0.out")]
    assert [rule.precision for rule in found if rule] == ["int8", "float"]
    assert scheme.find("base", "matmul", "encoder.0") is None


def test_any_operator_means_any_product() -> None:
    rule = Rule(path="decoder.*")
    assert rule.fits("base", "matmul", "decoder.0.self_attention")
    assert not rule.fits("base", "norm", "decoder.0.norm1")
    assert not Rule(path="*").fits("base", "input", "image")


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "int4"},
        {"observer": "best"},
        {"operator": "convolution"},
        {"percentile": 0.0},
        {"input_scale": 0.0},
        {"softmax_scale": -1.0},
    ],
)
def test_unknown_values_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="quantisation rule"):
        Rule(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("operator", ["conv", "linear", "matmul", "*"])
def test_int16_where_no_runtime_has_it_is_refused(operator: str) -> None:
    with pytest.raises(UserError, match=r"int16 .* cannot be exported") as error:
        Rule(name="mine", operator=operator, precision="int16")
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("operator", ["input", "sampling", "norm"])
def test_int16_of_single_tensors(operator: str) -> None:
    assert Rule(operator=operator, precision="int16").precision == "int16"


def test_round_trip_as_json() -> None:
    scheme = Scheme(rules=(*default_rules("mse"), Rule(path="decoder.*", precision="float")))
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    with pytest.raises(UserError, match="another version"):
        Scheme.from_dict({"rules": [{"bits": 8}]})


def test_scheme_is_part_of_the_config_and_its_hash() -> None:
    config = replace(smoke(), scheme=Scheme().with_rules(Rule(path="backbone.*", precision="float")))
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.hash != smoke().hash


@pytest.mark.parametrize("observer", OBSERVERS)
def test_one_observer_for_all(observer: str) -> None:
    scheme = Scheme().with_observer(observer)
    assert {r.observer for r in scheme.rules if r.precision == "int8"} == {observer}
    assert scheme.find("base", "sampling", "encoder.0.attention") == Scheme().find("base", "sampling", "x")
