"""Taps of the model: all tensors, on their grids in mode `evaluate` and off them in float; what is known of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from motrlab.config import Config
from motrlab.config.scheme import Rule, Scheme
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.analysis.layers import Arrays
from motrlab.quantization.analysis.taps import recorded, slot_tensors, tap_point
from motrlab.quantization.calibration import calibrate
from motrlab.quantization.quantized import QuantizedMotr

Inputs = dict[str, tuple[torch.Tensor, ...]]
GRAPHS = ("base", "qim")


@pytest.fixture(scope="module")
def inputs(config: Config, base_inputs: tuple[torch.Tensor, ...]) -> Inputs:
    """Those of both graphs, batch 2."""
    _, query, mask, _ = base_inputs
    tokens = query.reshape(2, config.model.d_model, 1, -1)
    return {"base": base_inputs, "qim": (tokens.flip(3), tokens, mask)}


@torch.no_grad()
def taps(quantised: QuantizedMotr, inputs: Inputs, mode: str) -> dict[str, Arrays]:
    return {graph: recorded(quantised, graph, inputs[graph], mode) for graph in GRAPHS}


@pytest.mark.parametrize("mode", ["float", "evaluate"])
def test_every_tensor_of_a_graph_is_a_tap(quantised: QuantizedMotr, inputs: Inputs, mode: str) -> None:
    found = taps(quantised, inputs, mode)
    for graph in GRAPHS:
        expected = {name for g, name in quantised.specs if g == graph and quantised.specs[g, name].operator != "head"}
        again = {f"position.{part}@1" for part in ("sine", "0", "2")} if graph == "base" else set()
        assert found[graph].keys() == expected | again
    assert quantised.net.record is None
    layers = quantised.config.decoder_layers
    assert [name for name in found["base"] if name.endswith("cross_attention.value")] == [
        f"decoder.{index}.cross_attention.value" for index in range(layers)
    ]
    shapes = {name: x.shape for name, x in found["base"].items()}
    assert shapes["image"] == (2, quantised.config.height, quantised.config.width, 3), "channels last"
    assert len({shapes[f"decoder.{i}.cross_attention.value"] for i in range(layers)}) == 1
    assert len(shapes["decoder.0.cross_attention.value"]) == 4


def test_values_are_on_their_grids_and_float_values_are_not(quantised: QuantizedMotr, inputs: Inputs) -> None:
    fake, floating = (taps(quantised, inputs, mode) for mode in ("evaluate", "float"))
    off_grid = []
    for graph in GRAPHS:
        for name, values in fake[graph].items():
            point = tap_point(quantised, graph, name)
            steps = values.astype(float) / point.scale
            np.testing.assert_allclose(steps, steps.round(), rtol=1e-6, atol=1e-4)
            assert point.quant_min <= steps.round().min() <= steps.round().max() <= point.quant_max
            steps = floating[graph][name].astype(float) / point.scale
            off_grid.append(np.abs(steps - steps.round()).max() > 0.1)
    assert np.mean(off_grid) > 0.9
    np.testing.assert_array_equal(fake["base"]["image"].transpose(0, 3, 1, 2), inputs["base"][0])


def test_taps_change_nothing(quantised: QuantizedMotr, inputs: Inputs) -> None:
    with torch.no_grad():
        before = quantised.graphs.base(*inputs["base"])
        taps(quantised, inputs, "evaluate")
        after = quantised.graphs.base(*inputs["base"])
    assert torch.equal(before[2], after[2])
    assert all(torch.equal(a, b) for a, b in zip(before[0] + before[1], after[0] + after[1], strict=True))


def test_what_is_known_of_a_tap(quantised: QuantizedMotr) -> None:
    expand = tap_point(quantised, "base", "encoder.0.ffn.expand")
    assert (expand.operator, expand.observer, expand.num_sharing, expand.equalisable) == (
        "linear", "moving_average", 1, True,
    )  # fmt: skip
    assert (expand.quant_min, expand.quant_max) == (0, 255)
    query = tap_point(quantised, "base", "decoder.0.self_attention.query")
    assert (query.num_sharing, query.equalisable, query.quant_min) == (2, False, -128)
    assert tap_point(quantised, "base", "image").observer == "fixed"
    again = tap_point(quantised, "base", "position.0@1")
    assert (again.tensor, again.path) == ("position.0@1", "position.0")
    assert replace(again, tensor="position.0") == tap_point(quantised, "base", "position.0")


def test_a_grid_that_reaches_its_relu6_has_no_observer_to_blame(config: Config) -> None:
    """Behind a ReLU6 nothing lies beyond 6; one that never got there may still be observed better."""
    model = folded_copy(build_motr(replace(config.model, activation="relu6"), seed=3))
    with torch.no_grad():
        model.base.backbone.stem[0].weight *= 100
    quantised = QuantizedMotr(model)
    small = replace(config, model=model.config)
    frame = torch.rand(1, 3, config.model.height, config.model.width, generator=torch.Generator().manual_seed(0)) - 0.5
    calibrate(quantised, [[frame]], small)
    stem, later = (tap_point(quantised, "base", f"backbone.{path}") for path in ("stem", "smooth"))
    assert stem.observer == "ceiling"
    assert stem.scale * stem.quant_max == pytest.approx(6)
    assert later.observer == "moving_average"
    assert not stem.equalisable


def test_observers_are_those_of_the_rules(float_model: Motr) -> None:
    rules = Rule(path="decoder.1.*", observer="kl"), Rule(path="decoder.0.ffn.expand", scale=0.25)
    quantised = QuantizedMotr(float_model, Scheme().with_rules(*rules))
    assert tap_point(quantised, "base", "decoder.1.ffn.expand").observer == "kl"
    assert tap_point(quantised, "base", "decoder.0.ffn.expand").observer == "fixed"


def test_slot_tensors_are_those_that_empty_slots_have(quantised: QuantizedMotr) -> None:
    found = slot_tensors(quantised)
    assert {name for graph, name in found if graph == "qim"} == {
        name for graph, name in quantised.specs if graph == "qim"
    }
    base = {name for graph, name in found if graph == "base"}
    assert {"track_query", "decoder.0.norm1", "decoder.1.cross_attention.mixed", "box_heads.1.hidden2"} <= base
    assert not [name for name in base if name.startswith(("backbone", "encoder", "position", "input_projection"))]
    assert not [name for name in base if name.endswith("cross_attention.value")], "maps"
