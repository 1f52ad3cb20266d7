"""Layers against targets: verdicts, reasons, places in our source, rules to paste."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from motrlab.__main__ import main
from motrlab.config.scheme import Rule, Scheme
from motrlab.deploy.check import FALLBACK, FITS, UNKNOWN, UNSUPPORTED, Check, Verdict, check_layers, format_check
from motrlab.deploy.layers import Layer, layers_of_model, read_onnx
from motrlab.deploy.portable import portable_graphs
from motrlab.deploy.target import ASSUMED, Operator, Target, load_target
from motrlab.shipped import shipped_artifact
from tests.deploy.conftest import FixedPoint, ranged

GRAPHS = ("base", "qim")


def checked(folder: Path, target: Target | str) -> Check:
    layers = {name: layers_of_model(read_onnx(folder / f"{name}.onnx"), name) for name in GRAPHS}
    return check_layers(layers, load_target(target) if isinstance(target, str) else target)


def only(found: Check, operator: str) -> list[Verdict]:
    some = [v for v in found.verdicts if v.layer.operator == operator]
    assert some
    return some


def changed(target: str, operator: str, **changes: object) -> Target:
    """A shipped target that knows one operator otherwise."""
    there = load_target(target)
    own: Operator = dataclasses.replace(there.operators[operator], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(there, operators={**there.operators, operator: own})


def test_nothing_of_the_default_artefact_is_unsupported_on_j6m() -> None:
    found = checked(shipped_artifact(), "horizon-j6m")
    assert found.counts[UNSUPPORTED] == 0
    assert found.counts[FITS] > 0.6 * len(found.verdicts)
    known = load_target("horizon-j6m").operators
    for verdict in found.verdicts:
        assert verdict.reason
        assert (verdict.advice == "") == (verdict.verdict == FITS)
        if known[verdict.layer.operator].source == ASSUMED:
            assert verdict.verdict == UNKNOWN, "what nobody says never fits"
    assert not found.json()["fits"]


def test_every_layer_is_named_with_its_place_in_our_source(artifact: Path) -> None:
    found = checked(artifact, "horizon-j6m")
    names = [(x.graph, x.name) for name in GRAPHS for x in layers_of_model(read_onnx(artifact / f"{name}.onnx"), name)]
    assert [(v.layer.graph, v.layer.name) for v in found.verdicts] == names
    for verdict in found.verdicts:
        if verdict.layer.module != "result":  # the graph's ends
            source = Path(verdict.file).read_text().splitlines()[verdict.line - 1]
            assert re.match(r"\s*(class|def) ", source), verdict


def test_signed_grids_leave_nothing_unknown_but_operators(fixed_point: FixedPoint) -> None:
    scheme = Scheme(signed_only=True)
    for folder_scheme, some in ((None, True), (scheme, False)):
        layers = _layers(fixed_point, folder_scheme)
        found = check_layers(layers, load_target("horizon-j6m"))
        assert any("from 0 to 255" in v.reason for v in found.verdicts) == some
        assert any("signed_only=True" in v.advice for v in found.verdicts) == some


def _layers(fixed_point: FixedPoint, scheme: Scheme | None) -> dict[str, Sequence[Layer]]:
    if scheme is None:
        return {name: layers_of_model(read_onnx(fixed_point.artifact / f"{name}.onnx"), name) for name in GRAPHS}
    from motrlab.quantization.quantized import QuantizedMotr
    from tests.deploy.conftest import small
    from tests.quantization.conftest import lively

    quantised = QuantizedMotr(lively(small()), scheme)
    for step in fixed_point.steps[:1]:
        quantised.graphs.base(*step.base_inputs)
        quantised.graphs.qim(*step.qim_inputs)
    quantised.ranges.finish()
    quantised.mode("evaluate")
    return {name: layers_of_model(graph, name) for name, graph in portable_graphs(quantised).items()}


def test_a_float_network_on_a_chip_without_float(fixed_point: FixedPoint) -> None:
    layers = {name: layers_of_model(g, name) for name, g in portable_graphs(fixed_point.model).items()}
    found = check_layers(layers, load_target("horizon-j6m"))
    for operator in ("Conv", "MatMul", "GridSample"):
        for verdict in only(found, operator):
            assert verdict.verdict == UNSUPPORTED
            assert verdict.reason == "an input is float32, it takes int8, int16"
            assert verdict.advice.startswith("quantise: `python -m motrlab run ")


def test_int16_on_an_operator_of_int8_comes_with_the_rule_to_paste(fixed_point: FixedPoint) -> None:
    asked = Rule(graph="qim", path="attention.value", precision="int16")
    quantised = ranged(fixed_point, asked)
    layers = {name: layers_of_model(g, name) for name, g in portable_graphs(quantised).items()}
    for fallback, expected in (("", UNSUPPORTED), ("cpu", FALLBACK)):
        target = changed("horizon-j6m", "MatMul", types=("int8", "uint8"), fallback=fallback)
        bad = [v for v in only(check_layers(layers, target), "MatMul") if v.verdict == expected]
        assert [v.layer.module for v in bad] == ["attention"]
        assert bad[0].reason.startswith("an input is int16, it takes int8, uint8")
        match = re.fullmatch(r"paste into the scheme: (Rule\(.*\))", bad[0].advice)
        assert match is not None
        rule = eval(match[1], {"Rule": Rule})  # what a user pastes
        assert rule == Rule(graph="qim", path="attention.value", precision="int8")
        assert Scheme().with_rules(asked, rule).find("qim", "linear", "attention.value").precision == "int8"


def test_grids_of_functions_are_no_matter_of_rules(artifact: Path) -> None:
    found = only(checked(artifact, changed("horizon-j6m", "Softmax", types=("int8",))), "Softmax")
    assert {v.verdict for v in found} == {UNSUPPORTED}
    assert {v.advice for v in found} == {"the grid is a function's own (logits, positions, boxes): no rule changes it"}


def test_an_operator_that_a_target_does_not_list(artifact: Path) -> None:
    there = load_target("horizon-j6m")
    target = dataclasses.replace(there, operators={k: v for k, v in there.operators.items() if k != "Conv"})
    for verdict in only(checked(artifact, target), "Conv"):
        assert verdict.verdict == UNKNOWN
        assert verdict.reason == "no public source says whether it runs this operator"
        assert verdict.layer.name in verdict.advice


def test_what_no_unit_runs_falls_back(artifact: Path) -> None:
    for verdict in only(checked(artifact, "ethos-u85"), "GridSample"):
        assert verdict.verdict == FALLBACK
        assert "falls back to the target's own CPU" in verdict.reason


@pytest.mark.parametrize(
    ("operator", "change", "reason"),
    [
        ("Conv", {"limits": {"kernel": 1}}, "kernel: 3, at most 1"),
        ("Conv", {"limits": {"stride": 1}}, "stride: 2, at most 1"),
        ("Conv", {"limits": {"channels": 31}}, "channels: 32, at most 31"),
        ("Conv", {"limits": {"reduced": 20}}, "values that make one: 27, at most 20"),
        ("GridSample", {"limits": {"height": 11}}, "height: 12, at most 11"),
        ("GridSample", {"limits": {"width": 19}}, "width: 20, at most 19"),
        ("GridSample", {"limits": {"pixels": 239}}, "pixels of the map: 240, at most 239"),
        ("GridSample", {"max_rank": 3}, "rank 4, at most 3"),
        ("ReduceSum", {"limits": {"reduced": 1}, "source": "card"}, "values that make one: 2, at most 1"),
        ("Div", {"limits": {"constants": 0}, "source": "card"}, "constant operands: 1, at most 0"),
        ("Softmax", {"limits": {"dim": 39}}, "elements along an axis: 40, at most 39"),
    ],
)
def test_limits(artifact: Path, operator: str, change: dict[str, object], reason: str) -> None:
    found = only(checked(artifact, changed("horizon-j6m", operator, **change)), operator)
    assert reason in {v.reason for v in found if v.verdict == UNSUPPORTED}
    wider = {"limits": {k: v + 10_000 for k, v in change.get("limits", {}).items()}}  # type: ignore[attr-defined]
    found = only(checked(artifact, changed("horizon-j6m", operator, **{**change, **wider, "max_rank": 9})), operator)
    assert not [v for v in found if v.verdict == UNSUPPORTED]


def test_the_table_names_modules_with_counts_and_says_what_to_do(artifact: Path) -> None:
    found = checked(artifact, "ethos-u85")
    text = format_check(found)
    assert f"{len(found.verdicts)} layers: {found.counts[FITS]} fits, {found.counts[FALLBACK]} fallback" in text
    row = re.search(r"^base/decoder\.1\.cross_attention +(\d+) +(\d+|-) +- +", text, re.M)
    assert row is not None
    own = [v.verdict for v in found.verdicts if v.layer.module == "decoder.1.cross_attention"]
    assert (int(row[1]), int(row[2])) == (own.count(FITS), own.count(FALLBACK))
    assert "motrlab/model/attention.py:" in text


def test_the_verb(artifact: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "--artifact", str(artifact), "--target", "horizon-j6m", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["schema"], values["target"], values["fits"]) == (1, "horizon-j6m", False)
    keys = {"graph", "name", "module", "operator", "verdict", "reason", "advice", "file", "line"}
    assert all(layer.keys() == keys for layer in values["layers"])
    assert main(["check", "--artifact", str(artifact), "--target", "rk3588"]) == 2
    told = capsys.readouterr()
    assert "unsupported: Conv ×" in told.out
    assert re.fullmatch(
        r"motrlab: \d+ of \d+ layers are unsupported on rk3588, first base .*--stage float.*\n", told.err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "smoke", "--target", "horizon-j7"], "unknown target 'horizon-j7'; use one of ethos-u65"),
        (["--artifact", "nowhere", "--target", "horizon-j6m"], "nowhere: no such artefact folder"),
        (["--preset", "smoke", "--target", "mine.json"], "mine.json: no such target file"),
    ],
)
def test_mistakes(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_preset_is_checked_before_anything_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    """On the grids of its scheme, or in float."""
    assert main(["check", "--preset", "smoke", "--target", "horizon-j6m"]) == 0
    assert capsys.readouterr().out.startswith("preset smoke, not trained on horizon-j6m")
    assert main(["check", "--preset", "smoke", "--target", "horizon-j6m", "--stage", "qat"]) == 2
    assert "preset smoke has no stage qat: give --stage float" in capsys.readouterr().err
    assert main(["check", "--preset", "smoke", "--target", "horizon-j6m", "--stage", "float"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("preset smoke, float, not trained on horizon-j6m")
    assert "quantise: `python -m motrlab run" in told.err


def test_the_targets_verb_lists_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    told = capsys.readouterr().out
    assert "horizon-j6m: Horizon Journey 6M" in told
    assert "figures are assumed" in told
    assert "https://toolchain.d-robotics.cc" in told
