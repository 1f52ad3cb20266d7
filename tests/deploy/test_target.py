"""Target files: all shipped ones are whole and sourced; what is wrong with one's own is said in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motrlab.deploy.target import ASSUMED, FOLDER, UNITS, load_target, target_names
from motrlab.errors import UserError

NAMES = [
    "ethos-u65", "ethos-u85", "horizon-j5", "horizon-j6e", "horizon-j6m", "horizon-j6p",
    "onnxruntime-cpu", "openvino-cpu", "qnn-htp", "rk3588",
]  # fmt: skip


def test_the_targets_that_the_design_names_are_there() -> None:
    assert target_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_target(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.kind == ("host" if name.endswith("-cpu") else "chip")
    assert target.assumptions
    cited = {operator.source for operator in target.operators.values()} - {ASSUMED}
    assert cited, "no operator has a source"
    for key, source in target.sources.items():
        assert source.title, key
        assert source.where, key
    for operator in target.operators.values():
        assert operator.unit in UNITS
        rates = target.operations[operator.unit]
        integers = set(operator.types) & {"int8", "float32"}
        assert not integers or integers & rates.keys(), (operator, rates.keys())
    assert target.on_chip.bandwidth.value >= target.off_chip.bandwidth.value


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_used(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text()
    for key in load_target(name).sources:
        assert f'"source": "{key}"' in text, key


def test_an_unknown_target() -> None:
    with pytest.raises(UserError, match=r"^unknown target 'horizon-j7'; use one of ethos-u65, .*target\.json$"):
        load_target("horizon-j7")


def test_a_target_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.json: no such target file"):
        load_target(str(tmp_path / "mine.json"))


def _without(field: str) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.pop(field)


def _at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        *keys, last = path.split("/")
        for key in keys:
            values = values[key]
        values[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("clock"), r"field 'clock' is missing"),
        (_at("turbo", 1), r"unknown field 'turbo'; known: schema, name"),
        (_at("clock", {"value": 1e9}), r"clock: field 'source' is missing"),
        (_at("operations/matrix/int8", 64), r"operations: matrix: int8: expected dict, found 64"),
        (_at("on_chip/size/source", "hearsay"), r"on_chip\.size: source 'hearsay' is not in \"sources\""),
        (_at("operators/Conv/source", "hearsay"), r"operators\.Conv: source 'hearsay'"),
        (_at("operators/Conv/unit", "tensor"), r"unknown unit 'tensor'"),
        (_at("operators/Conv/fallback", "moon"), r"operators: Conv: fallback: 'moon' is neither \"cpu\" nor empty"),
        (_at("operators/Conv/parts", ["Mul", "Wrap"]), r"operators: Conv: part 'Wrap' is no operator of a unit of"),
        (_at("operations", {}), r"operators: Abs: unit 'vector' is not in \"operations\"; say there"),
        (_at("operators/Conv/limits", {"colour": 3}), r"unknown limit 'colour': use one of kernel, stride"),
        (_at("schema", 2), r"schema 2, this motrlab reads 1"),
        (_at("kind", "toaster"), r"kind: 'toaster' is neither host nor chip"),
        (_at("clock/value", "fast"), r"clock: value: expected float, found 'fast'"),
        (_at("operators", []), r"operators: expected dict, found \[\]"),
        (_at("operators/Conv/types", ["int9"]), r"operators: Conv: unknown type 'int9': use one of int8, "),
        (_at("operations/matrix", {"int9": {"value": 1, "source": "assumed"}}), r"operations: matrix: unknown type"),
        (_at("clock/value", 0), r"clock: value: must be more than 0, found 0"),
        (_at("off_chip/bandwidth/value", 0.0), r"off_chip\.bandwidth: value: must be more than 0"),
        (_at("operations/matrix/int8/value", -1), r"operations\.matrix\.int8: value: must be more than 0, found -1"),
        (_at("graph_overhead/value", -1e-3), r"graph_overhead: value: must be at least 0, found -0\.001"),
        (_at("cores/value", float("inf")), r"cores: value: must be more than 0, found inf"),
    ],
)
def test_what_is_wrong_with_a_target_file(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    values = json.loads((FOLDER / "horizon-j6m.json").read_text())
    change(values)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"^{path}: {message}") as error:
        load_target(str(path))
    assert "\n" not in str(error.value)


def test_a_target_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"mine\.json: not JSON"):
        load_target(str(path))
