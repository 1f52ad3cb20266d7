"""Rules: the last fitting one decides; mistakes are named."""

from __future__ import annotations

import json

import pytest

from motrlab.errors import UserError
from motrlab.quantization.scheme import Rule, Scheme, default_scheme


@pytest.mark.parametrize(
    ("graph", "operator", "path", "output", "scale"),
    [
        ("base", "conv", "backbone.stem.0", True, 1 / 128),
        ("base", "conv", "position.0", True, 1 / 127),
        ("base", "conv", "encoder.0.ffn.expand", True, None),
        ("base", "linear", "class_heads.1", False, None),
        ("qim", "matmul", "attention", False, None),
    ],
)
def test_default_rules(graph: str, operator: str, path: str, output: bool, scale: float | None) -> None:
    rule = default_scheme().find(graph, operator, path)
    assert rule is not None
    assert (rule.precision, rule.quantise_output, rule.input_scale) == ("int8", output, scale)


def test_last_rule_decides() -> None:
    scheme = Scheme(rules=(Rule(operator="conv"), Rule(path="decoder.*", precision="float")))
    found = [scheme.find("base", "conv", path) for path in ("encoder.0.out", "decoder.0.out")]
    assert [rule.precision for rule in found if rule] == ["int8", "float"]
    assert scheme.find("base", "matmul", "encoder.0") is None


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"observer": "best"}, {"operator": "convolution"}])
def test_unknown_values_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match="quantisation rule"):
        Rule(**wrong)  # type: ignore[arg-type]


def test_round_trip_as_json() -> None:
    scheme = Scheme(rules=(*default_scheme("mse").rules, Rule(path="decoder.*", precision="float")))
    assert Scheme.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme
    with pytest.raises(UserError, match="another version"):
        Scheme.from_dict({"rules": [{"bits": 8}]})
